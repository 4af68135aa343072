// Bilinear resizing with half-pixel centres (align_corners=False, antialias=False).
#pragma once

#include <cstdint>

#include "scalar.h"

namespace wsss {

struct ResizeShape {
  int64_t labels, height, width;  // of the logits of one image
  int64_t out_height, out_width;
};

// (1 - fraction) * low + fraction * high. At fraction 0 an infinite value becomes NaN, and a NaN of
// `high` counts, as in PyTorch.
template <class Real>
WSSS_HD Real interpolate(Real low, Real high, Real fraction) {
  return (1 - fraction) * low + fraction * high;
}

// Pixel `i` of the result is interpolate(source[low], source[high], fraction), or source[low] if
// the size stays the same.
template <class Real>
struct BilinearSource {
  int64_t low, high;
  Real fraction;
  bool resized;

  // at(j): the value of source pixel j.
  template <class At>
  WSSS_HD Real read(At at) const {
    return resized ? interpolate(at(low), at(high), fraction) : at(low);
  }
};

// `step`: source pixels between two pixels of the result.
template <class Real>
WSSS_HD BilinearSource<Real> bilinear_source(int64_t i, int64_t source_size, int64_t size,
                                             Real step) {
  const Real centre = (static_cast<Real>(i) + Real(0.5)) * step - Real(0.5);
  const Real at = centre > 0 ? centre : Real(0);
  const int64_t cell = static_cast<int64_t>(at);
  const int64_t low = cell < source_size ? cell : source_size - 1;  // rounding may reach the end
  const bool resized = source_size != size;
  return {
      low, resized && low + 1 < source_size ? low + 1 : low, at - static_cast<Real>(low), resized};
}

// The result covers the source.
template <class Real>
WSSS_HD BilinearSource<Real> bilinear_source(int64_t i, int64_t source_size, int64_t size) {
  return bilinear_source(
      i, source_size, size, static_cast<Real>(source_size) / static_cast<Real>(size));
}

}  // namespace wsss
