#pragma once

#include "../../cuda/dense_crf.h"

#include "../dense_crf.h"
#include "backend.h"
#include "bilateral_filter.h"

namespace wsss {

inline Tensor dense_crf_on_cpu(
    const Tensor& image, const Tensor& unary, const std::vector<double>& gaussian,
    const std::vector<double>& bilateral, const std::vector<double>& levels, int64_t iterations,
    bool half_precision) {
  using torch::stable::detail::from;
  std::array<StableIValue, 8> stack{
      from(on_cpu(image)),  from(on_cpu(unary)),
      from(gaussian),       from(bilateral),
      from(levels),         from(iterations),
      from(half_precision), from(std::optional<Tensor>())};
  call_on_cpu(WSSS_CPU_OPS "dense_crf", stack);
  return moved(stack[0], unary);
}

// image [B, C, H, W], unary [B, S, L, H, W] -> Q, shaped like unary
inline Tensor dense_crf(const Tensor& image_in, const Tensor& unary_in,
                        const std::vector<double>& gaussian, const std::vector<double>& bilateral,
                        const std::vector<double>& levels, int64_t iterations, bool half_precision,
                        const std::optional<Tensor>& lattice) {
  const Tensor image = float_input("dense_crf", "image", image_in, 4);
  const Tensor unary = float_input("dense_crf", "unary", unary_in, 5);
  check_device("dense_crf", "unary", unary, image);
  const int64_t channels = image.size(1), labels = unary.size(2);
  check_crf_arguments(image, unary, gaussian, bilateral, levels);
  check(labels >= 1, "dense_crf: unary is " + shape_text(unary) + "; needs at least one label");
  if (unary.numel() == 0) return allocate_like(unary);
  const bool reads_image = !bilateral.empty() && bilateral.back() > 0;
  if (labels > cuda::kMaxLabels || (reads_image && channels + 2 > cuda::kMaxDimensions)) {
    return dense_crf_on_cpu(image, unary, gaussian, bilateral, levels, iterations, half_precision);
  }
  Tensor q = allocate_like(unary);
  cuda::CrfCall call{};
  call.batch = unary.size(0);
  call.height = unary.size(3);
  call.width = unary.size(4);
  call.image_channels = static_cast<int>(channels);
  call.sets = static_cast<int>(unary.size(1));
  call.labels = static_cast<int>(labels);
  call.image = static_cast<const float*>(const_data(image));
  call.unary = unary.const_data_ptr<float>();
  call.q = q.mutable_data_ptr<float>();
  if (!gaussian.empty()) {
    call.gaussian_sx = gaussian[0];
    call.gaussian_sy = gaussian[1];
    call.gaussian_weight = gaussian[2];
  }
  if (reads_image) {
    call.bilateral_sx = bilateral[0];
    call.bilateral_sy = bilateral[1];
    call.bilateral_weight = bilateral.back();
    std::copy_n(bilateral.begin() + 2, channels, call.levels);
  }
  call.lowest = levels[0];
  call.highest = levels[1];
  call.iterations = iterations;
  call.half_precision = half_precision;
  try {
    if (reads_image) {
      call.lattice = stored_lattice("dense_crf", lattice, image, call.bilateral_grid());
    }
    TorchContext context("dense_crf", unary);
    cuda::dense_crf(context, call);
  } catch (const cuda::BeyondLimits&) {
    return dense_crf_on_cpu(image, unary, gaussian, bilateral, levels, iterations, half_precision);
  }
  return q;
}
WSSS_IMPL(dense_crf)

}  // namespace wsss
