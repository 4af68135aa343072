#include "pixel_loss.h"

#include <algorithm>

#include "pixel_loss.cuh"

namespace wsss::cuda {
namespace {

constexpr unsigned kMostCountBlocks = 512;

template <class T, class Label>
void run(Context& context, const PixelLossCall& call) {
  using Real = Wide<T>;
  const Stream stream = stream_of(context);
  const PixelLossInput<T, Label> in{
      call.kind,
      call.shape,
      call.options,
      static_cast<const T*>(call.logits),
      static_cast<const Label*>(call.labels),
      call.present};
  const PixelLossShape& s = call.shape;
  const int64_t pixels = s.images * s.pixels(), logits = s.images * s.classes * s.height * s.width;
  const unsigned blocks = blocks_for(pixels), count_blocks = std::min(blocks, kMostCountBlocks);
  Real* grad = static_cast<Real*>(call.grad);
  const bool pulled = s.upsample && grad != nullptr;
  double* counts = context.allocate<double>(3 * int64_t{count_blocks});
  double* parts = context.allocate<double>(blocks);
  PixelTotals* totals = context.allocate<PixelTotals>(1);
  LogSum<Real>* log_sums = pulled ? context.allocate<LogSum<Real>>(pixels) : nullptr;
  launch_together(stream, count_blocks, kSumThreads, count_labels<T, Label>, in, counts);
  launch_together(
      stream, 1, kSumThreads, total_labels, counts, count_blocks, call.options.balance, totals);
  launch_together(stream, blocks, kSumThreads, lose_pixels<T, Label>, in, totals,
                  pulled ? nullptr : grad, log_sums, parts);
  if (pulled) {
    const auto pull_blocks = static_cast<unsigned>(std::min<int64_t>(logits, INT32_MAX));
    launch_together(stream, pull_blocks, kSumThreads, pull_gradient<T, Label>, in, totals, log_sums,
                    logits, grad);
  }
  launch_together(stream, 1, kSumThreads, sum_losses<Real>, parts, blocks, totals,
                  static_cast<Real*>(call.loss));
}

}  // namespace

void pixel_loss(Context& context, const PixelLossCall& call) {
  with_element_type(call.type, [&]<class T>(T) {
    call.byte_labels ? run<T, uint8_t>(context, call) : run<T, int64_t>(context, call);
  });
}

}  // namespace wsss::cuda
