// Argument checks of dense_crf.
#pragma once

#include "arguments.h"

namespace wsss {

// image [B, C, H, W], unary [B, S, L, H, W]
inline void check_crf_arguments(
    const Tensor& image, const Tensor& unary, const std::vector<double>& gaussian,
    const std::vector<double>& bilateral, const std::vector<double>& levels) {
  check(image.size(0) == unary.size(0) && image.size(2) == unary.size(3) &&
            image.size(3) == unary.size(4),
        "dense_crf: image is " + shape_text(image) + " but unary is " + shape_text(unary) +
            "; B, H and W must match");
  check(gaussian.empty() || gaussian.size() == 3,
        "dense_crf: gaussian must be [] or [sx, sy, weight]");
  check(bilateral.empty() || static_cast<int64_t>(bilateral.size()) == image.size(1) + 3,
        "dense_crf: bilateral must be [] or [sx, sy, a deviation per channel, weight]");
  check(levels.size() == 2, "dense_crf: levels must be [lowest, highest]");
}

}  // namespace wsss
