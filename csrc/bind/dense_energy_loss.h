// Argument checks of dense_energy_loss.
#pragma once

#include <cmath>

#include "arguments.h"

namespace wsss {

// probabilities [B, K, H, W], image [B, C, h, w], roi [B, h, w], labels uint8 [B, h, w] or none
inline void check_energy_arguments(const Tensor& probabilities, const Tensor& image,
                                   const Tensor& roi, const std::optional<Tensor>& labels,
                                   const std::vector<double>& step, double weight) {
  const char* op = "dense_energy_loss";
  check(image.size(0) == probabilities.size(0) && image.size(2) <= probabilities.size(2) &&
            image.size(3) <= probabilities.size(3) && image.size(2) > 0 && image.size(3) > 0 &&
            probabilities.size(1) > 0,
        op, ": probabilities is ", probabilities, " but image is ", image,
        "; must be [B, K, H, W] and [B, C, h, w] with K, h and w >= 1, at most H and W");
  const auto is_map = [&](const Tensor& t) {
    return t.dim() == 3 && t.size(0) == image.size(0) && t.size(1) == image.size(2) &&
           t.size(2) == image.size(3);
  };
  check(is_map(roi), op, ": roi is ", roi, " but image is ", image, "; must be [B, h, w]");
  check(!labels || (labels->scalar_type() == ScalarType::Byte && is_map(*labels)), op,
        ": labels must be uint8 [B, h, w] of the image ", image);
  check(step.size() == 2 && step[0] >= 1 && step[1] >= 1, op,
        ": step must be [along y, along x], at least 1");
  check(std::isfinite(weight), op, ": weight is ", weight, "; must be finite");
}

}  // namespace wsss
