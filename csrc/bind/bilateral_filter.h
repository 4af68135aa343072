// Argument checks of bilateral_lattice and bilateral_filter.
#pragma once

#include "arguments.h"

namespace wsss {

// image [B, C, h, w]
inline void check_image_lattice(const char* op, const Tensor& image,
                                const std::vector<double>& sigmas,
                                const std::vector<double>& levels) {
  check(static_cast<int64_t>(sigmas.size()) == image.size(1) + 2, op,
        ": sigmas must be [sx, sy, a deviation per channel]");
  check(levels.size() == 2, op, ": levels must be [lowest, highest]");
}

// values [B, K, h, w], image [B, C, h, w]
inline void check_bilateral_filter(const Tensor& values, const Tensor& image,
                                   const std::vector<double>& sigmas,
                                   const std::vector<double>& levels) {
  check(image.size(0) == values.size(0) && image.size(2) == values.size(2) &&
            image.size(3) == values.size(3),
        "bilateral_filter: image is ", image, " but values is ", values, "; B, h and w must match");
  check_image_lattice("bilateral_filter", image, sigmas, levels);
}

}  // namespace wsss
