// Sizes and values of network inputs made from images.
#pragma once

#include <cmath>

#include "bicubic.h"

namespace wsss {

constexpr int kChannels = 3;
constexpr int kLevels = 256;  // of a channel of an 8-bit image

// A side times a scale, rounded half to even, at least one pixel.
inline int64_t scaled_side(int64_t side, double scale) {
  const double scaled = std::nearbyint(static_cast<double>(side) * scale);
  return scaled > 1.0 ? static_cast<int64_t>(scaled) : 1;
}

WSSS_HD float normalised_level(int level, double mean, double std) {
  return static_cast<float>((static_cast<double>(level) / 255.0 - mean) / std);
}

}  // namespace wsss
