#include "pixel_loss.h"

#include <algorithm>

#include "pixel_loss.cuh"

namespace wsss::cuda {
namespace {

constexpr unsigned kMaxCountBlocks = 512;

template <class T, class Label>
void run(Context& context, const PixelLossCall& call) {
  using Real = Wide<T>;
  const Stream stream = stream_of(context);
  const PixelLossShape& s = call.shape;
  int *label_rows = nullptr, *label_columns = nullptr;
  if (s.downsample()) {
    label_rows = context.allocate<int>(s.height);
    label_columns = context.allocate<int>(s.width);
    launch(stream, 1, 2, find_labels, s, label_rows, label_columns);
  }
  const PixelLossInput<T, Label> in{
      call.kind,
      call.shape,
      call.options,
      static_cast<const T*>(call.logits),
      static_cast<const Label*>(call.labels),
      call.present,
      label_rows,
      label_columns};
  const int64_t pixels = s.images * s.pixels(), logits = s.images * s.classes * s.height * s.width;
  const unsigned blocks = blocks_for(pixels), count_blocks = std::min(blocks, kMaxCountBlocks);
  Real* grad = static_cast<Real*>(call.grad);
  const bool gathers = s.upsample && grad != nullptr;
  double* counts = context.allocate<double>(3 * int64_t{count_blocks});
  double* parts = context.allocate<double>(blocks);
  PixelTotals* totals = context.allocate<PixelTotals>(1);
  LogSum<Real>* log_sums = gathers ? context.allocate<LogSum<Real>>(pixels) : nullptr;
  launch_with_barriers(stream, count_blocks, kSumThreads, count_labels<T, Label>, in, counts);
  launch_with_barriers(
      stream, 1, kSumThreads, total_labels, counts, count_blocks, call.options.balance, totals);
  launch_with_barriers(stream, blocks, kSumThreads, compute_pixel_losses<T, Label>, in, totals,
                       gathers ? nullptr : grad, log_sums, parts);
  if (gathers) {
    const auto gradient_blocks = static_cast<unsigned>(std::min<int64_t>(logits, INT32_MAX));
    launch_with_barriers(stream, gradient_blocks, kSumThreads, gather_gradient<T, Label>, in,
                         totals, log_sums, logits, grad);
  }
  launch_with_barriers(stream, 1, kSumThreads, sum_losses<Real>, parts, blocks, totals,
                       static_cast<Real*>(call.loss));
}

}  // namespace

void pixel_loss(Context& context, const PixelLossCall& call) {
  with_element_type(call.type, [&]<class T>(T) {
    call.byte_labels ? run<T, uint8_t>(context, call) : run<T, int64_t>(context, call);
  });
}

}  // namespace wsss::cuda
