#include "pixel_loss.h"

#include <stdexcept>
#include <string>

#include "pixel_loss_kernel.h"

namespace wsss::cpu {
namespace {

template <class Real, class Label>
double run(const char* op, PixelLossKind kind, const PixelLossShape& shape,
           const PixelLossOptions& options, const PixelLossArrays<Real>& a, const Host& host) {
  PixelLossCpu<Real, Label> work(
      kind, shape, options, a.logits, static_cast<const Label*>(a.labels), a.present, a.grad);
  host.parallel_for(
      work.tasks(), 1, [&](int64_t first, int64_t last) { work.count_labels(first, last); });
  if (const auto invalid = work.invalid_label()) {
    throw std::invalid_argument(
        std::string(op) + ": labels holds " + std::to_string(*invalid) + "; must be 0.." +
        std::to_string(shape.classes - 1) + " or " + std::to_string(options.ignore));
  }
  work.compute_weights();
  host.parallel_for(
      work.tasks(), 1, [&](int64_t first, int64_t last) { work.compute_losses(first, last); });
  if (shape.upsample && a.grad != nullptr) {
    host.parallel_for(
        shape.images, 1, [&](int64_t first, int64_t last) { work.reduce_gradients(first, last); });
  }
  return work.loss();
}

}  // namespace

template <class Real>
double pixel_loss(const char* op, PixelLossKind kind, const PixelLossShape& shape,
                  const PixelLossOptions& options, const PixelLossArrays<Real>& arrays,
                  const Host& host) {
  if (arrays.wide_labels) return run<Real, int64_t>(op, kind, shape, options, arrays, host);
  if constexpr (std::is_same_v<Real, float>) {
    return run<Real, uint8_t>(op, kind, shape, options, arrays, host);
  } else {
    // Doubles serve gradient checks: not worth compiling for both types of labels.
    const auto* bytes = static_cast<const uint8_t*>(arrays.labels);
    const std::vector<int64_t> labels(
        bytes, bytes + shape.images * shape.label_height * shape.label_width);
    PixelLossArrays<Real> widened = arrays;
    widened.labels = labels.data();
    return run<Real, int64_t>(op, kind, shape, options, widened, host);
  }
}

template double pixel_loss(const char*, PixelLossKind, const PixelLossShape&,
                           const PixelLossOptions&, const PixelLossArrays<float>&, const Host&);
template double pixel_loss(const char*, PixelLossKind, const PixelLossShape&,
                           const PixelLossOptions&, const PixelLossArrays<double>&, const Host&);

}  // namespace wsss::cpu
