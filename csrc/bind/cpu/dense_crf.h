#pragma once

#include "../../cpu/dense_crf.h"

#include "../../cpu/limits.h"
#include "../dense_crf.h"
#include "bilateral_filter.h"

namespace wsss {

// image [B, C, H, W], unary [B, S, L, H, W] -> Q, shaped like unary; always in float32
inline Tensor dense_crf(const Tensor& image_in, const Tensor& unary_in,
                        const std::vector<double>& gaussian, const std::vector<double>& bilateral,
                        const std::vector<double>& levels, int64_t iterations,
                        bool /*half_precision*/, const std::optional<Tensor>& lattice) {
  const Tensor image = float_input("dense_crf", "image", image_in, 4);
  const Tensor unary = float_input("dense_crf", "unary", unary_in, 5);
  const CrfShape shape{unary.size(3), unary.size(4), static_cast<int>(image.size(1)),
                       static_cast<int>(unary.size(1)), static_cast<int>(unary.size(2))};
  check_crf_arguments(image, unary, gaussian, bilateral, levels);
  check(image.size(1) + 2 <= kMaxDimensions,
        "dense_crf: image is " + shape_text(image) + "; must have at most " +
            std::to_string(kMaxDimensions - 2) + " channels");
  Tensor q = allocate_like(unary);
  CrfParameters parameters{};
  parameters.iterations = iterations;
  parameters.lowest = levels[0];
  parameters.highest = levels[1];
  if (!gaussian.empty()) {
    parameters.gaussian_sx = static_cast<float>(gaussian[0]);
    parameters.gaussian_sy = static_cast<float>(gaussian[1]);
    parameters.gaussian_weight = static_cast<float>(gaussian[2]);
  }
  if (!bilateral.empty()) {
    parameters.bilateral_sx = static_cast<float>(bilateral[0]);
    parameters.bilateral_sy = static_cast<float>(bilateral[1]);
    parameters.bilateral_levels.assign(bilateral.begin() + 2, bilateral.end() - 1);
    parameters.bilateral_weight = static_cast<float>(bilateral.back());
  }
  cpu::dense_crf(
      image.const_data_ptr<float>(), unary.const_data_ptr<float>(), q.mutable_data_ptr<float>(),
      unary.size(0), shape, parameters, threads(), lattice_array("dense_crf", lattice));
  return q;
}
WSSS_IMPL(dense_crf)

}  // namespace wsss
