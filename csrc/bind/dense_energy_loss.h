// Argument checks of dense_energy_loss.
#pragma once

#include "bilateral_filter.h"

namespace wsss {

// probabilities [B, K, H, W], image [B, C, h, w], roi and labels [B, h, w]
inline void check_dense_energy_loss(
    const Tensor& probabilities, const Tensor& image, const Tensor& roi,
    const std::optional<Tensor>& labels, const std::vector<double>& sigmas,
    const std::vector<double>& levels, const std::vector<double>& step) {
  const auto matches = [&](const Tensor& t) {
    return t.size(0) == image.size(0) && t.size(1) == image.size(2) && t.size(2) == image.size(3);
  };
  check(probabilities.size(0) == image.size(0), "dense_energy_loss: image is ", image,
        " but probabilities is ", probabilities, "; B must match");
  check(matches(roi), "dense_energy_loss: image is ", image, " but roi is ", roi,
        "; B, h and w must match");
  if (labels) {
    check(labels->scalar_type() == ScalarType::Byte && labels->dim() == 3 && matches(*labels),
          "dense_energy_loss: labels is ", *labels, "; must be uint8 [B, h, w]");
  }
  check_image_lattice("dense_energy_loss", image, sigmas, levels);
  check(step.size() == 2 && step[0] > 0 && step[1] > 0,
        "dense_energy_loss: step must be [y, x], above 0");
}

}  // namespace wsss
