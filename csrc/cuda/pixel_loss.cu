#include "pixel_loss.h"

#include <algorithm>

#include "arena.h"
#include "pixel_loss.cuh"
#include "resized_pixel_loss.cuh"

namespace wsss::cuda {
namespace {

// Up to so many labels for each thread, few blocks count.
constexpr int64_t kLabelsPerThread = 8;
constexpr int64_t kMostCounts = 512;
constexpr int64_t kSumBytes =
    32 << 20;  // of the cells' gradients, where more than one image has any

struct PixelLossWorkspace {
  LabelCounts* counts;  // [groups, count_blocks], then [groups] of all labels
  double* parts;
  int* ticket;
  char* sums;

  PixelLossWorkspace(Arena& arena, int64_t counts, unsigned blocks, int64_t sum_bytes)
      : counts(arena.allocate<LabelCounts>(counts)),
        parts(arena.allocate<double>(blocks)),
        ticket(arena.allocate<int>(1)),
        sums(arena.allocate<char>(sum_bytes)) {}
};

template <class T, class Label>
class PixelLoss {
  using Real = Wide<T>;

 public:
  PixelLoss(Context& context, const PixelLossCall& call)
      : context_(context),
        stream_(stream_of(context)),
        s_(call.shape),
        grad_(static_cast<Real*>(call.grad)),
        loss_(static_cast<Real*>(call.loss)),
        in_(pixel_loss_input<T, Label>(
            call.kind, call.shape, call.options, call.logits, call.labels, call.present)),
        groups_(count_groups(s_, call.options.balance)) {}

  void run() { s_.upsample ? run_cells() : run_pixels(); }

 private:
  void run_pixels() {
    const unsigned blocks = blocks_for(in_.pixels_per_group(), kSumThreads);
    prepare(blocks_for(groups_ * blocks, 1), 0);
    launch_with_barriers(stream_, sum_.blocks, kSumThreads, compute_pixel_losses<T, Label>, in_,
                         blocks, counts_, count_blocks_, grad_, sum_);
  }

  void run_cells() {
    const CellGrid grid{cell_axis(s_.height, s_.label_height, kCellRows / 2, 1),
                        cell_axis(s_.width, s_.label_width, kCellColumns, kCellColumns / 2)};
    const int64_t blocks = grid.blocks_per_image(), values = grid.places() * 4 * s_.classes;
    const int64_t size = values * static_cast<int64_t>(sizeof(Real)),
                  fit = std::clamp<int64_t>(kSumBytes / size, 1, s_.images);
    char* workspace = prepare(blocks_for(s_.images * blocks, 1), grad_ ? fit * size : 0);
    Real* sums = grad_ == nullptr ? nullptr : reinterpret_cast<Real*>(workspace);
    for (int64_t first = 0; first < s_.images; first += fit) {
      const int64_t images = std::min(fit, s_.images - first);
      launch_with_barriers(
          stream_, blocks_for(images * blocks, 1), kSumThreads, compute_cell_losses<T, Label>, in_,
          grid, first, counts_, count_blocks_, sums, sum_);
      if (sums == nullptr) continue;
      const int64_t logits = s_.classes * s_.height * s_.width;
      launch(stream_, blocks_for(images * logits), kThreads, sum_cells<Real>, grid, images,
             s_.classes, static_cast<const Real*>(sums), grad_ + first * logits);
    }
  }

  // Counts labels for a kernel of `blocks` blocks; returns workspace of sum_bytes.
  char* prepare(unsigned blocks, int64_t sum_bytes) {
    const int64_t labels = in_.pixels_per_group(),
                  few = kFewCounts * kSumThreads * kLabelsPerThread;
    count_blocks_ = std::min<unsigned>(
        blocks_for(labels, kSumThreads), labels <= few ? kFewCounts : kMostCounts);
    const auto w = workspace_of<PixelLossWorkspace>(
        context_, groups_ * (int64_t{count_blocks_} + 1), blocks, sum_bytes);
    counts_ = w.counts;
    sum_ = {w.parts, w.ticket, blocks, loss_};
    launch_with_barriers(stream_, blocks_for(groups_ * count_blocks_, 1), kSumThreads,
                         count_labels<T, Label>, in_, count_blocks_, counts_, w.ticket);
    if (count_blocks_ > kFewCounts) {
      LabelCounts* totals = counts_ + groups_ * count_blocks_;
      launch_with_barriers(stream_, blocks_for(groups_, 1), kSumThreads, total_labels, counts_,
                           count_blocks_, totals);
      counts_ = totals;
      count_blocks_ = 1;
    }
    return w.sums;
  }

  Context& context_;
  const Stream stream_;
  const PixelLossShape s_;
  Real *grad_, *loss_;
  const PixelLossInput<T, Label> in_;
  const int64_t groups_;  // of images
  LabelCounts* counts_ = nullptr;
  unsigned count_blocks_ = 0;
  LossSum<Real> sum_{};
};

}  // namespace

void pixel_loss(Context& context, const PixelLossCall& call) {
  with_element_type(call.type, [&]<class T>(T) {
    call.byte_labels ? PixelLoss<T, uint8_t>(context, call).run()
                     : PixelLoss<T, int64_t>(context, call).run();
  });
}

}  // namespace wsss::cuda
