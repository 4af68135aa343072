// Nearest-neighbour resizing: of maps as in PyTorch's mode "nearest", of labels as in Pillow.
#pragma once

#include <cstdint>

#include "scalar.h"

namespace wsss {

// The index of the source pixel of pixel `i`: rounded down, in float32 as in PyTorch.
WSSS_HD int64_t nearest_source(int64_t i, int64_t source_size, int64_t size) {
  const float scale = static_cast<float>(source_size) / static_cast<float>(size);
  // >= 0: truncation rounds down
  const int64_t at = static_cast<int64_t>(static_cast<float>(i) * scale);
  return at < source_size ? at : source_size - 1;
}

// Writes the index of the source pixel under the centre of each of `size` pixels. Where a centre
// lies between two pixels, rounding decides; so the centres are added up one by one in double, as
// in Pillow.
WSSS_HD void nearest_centres(int64_t source_size, int64_t size, int32_t* to) {
  const double step = static_cast<double>(source_size) / static_cast<double>(size);
  double centre = 0.5 * step;
  for (int64_t i = 0; i < size; ++i, centre += step) {
    const int64_t at = static_cast<int64_t>(centre);
    to[i] = static_cast<int32_t>(at < source_size ? at : source_size - 1);
  }
}

// What nearest_centres writes for pixel `i`, mostly without its sums. Sizes below 2^31.
WSSS_HD int64_t nearest_centre(int64_t i, int64_t source_size, int64_t size) {
  // The exact centre is a fraction; its distance to a boundary between two pixels, in pixels, is
  // distance / whole.
  const uint64_t from = static_cast<uint64_t>(source_size), to = static_cast<uint64_t>(size),
                 centre = static_cast<uint64_t>(2 * i + 1) * from, whole = 2 * to,
                 below = centre / whole, rest = centre - below * whole,
                 distance = rest < whole - rest ? rest : whole - rest;
  // The errors of all sums are below size * source_size / 2^52 pixels.
  const double errors = static_cast<double>(from) * static_cast<double>(to) / 4503599627370496.0;
  // A step of few bits is not rounded, and neither are its sums.
  if (static_cast<double>(distance) > errors * static_cast<double>(whole) ||
      (from << 20) % to == 0) {
    return static_cast<int64_t>(below);
  }
  const double step = static_cast<double>(source_size) / static_cast<double>(size);
  double sum = 0.5 * step;
  for (int64_t before = 0; before < i; ++before) sum += step;
  const int64_t at = static_cast<int64_t>(sum);
  return at < source_size ? at : source_size - 1;
}

}  // namespace wsss
