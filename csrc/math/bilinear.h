// Bilinear resizing with half-pixel centres (align_corners=False, antialias=False).
#pragma once

#include <cstdint>

#include "scalar.h"

namespace wsss {

struct ResizeShape {
  int64_t labels, height, width;  // of the logits of one image
  int64_t out_height, out_width;
};

// Pixel `i` of the result is interpolate(source[low], source[high], fraction).
template <class Real>
struct BilinearSource {
  int64_t low, high;
  Real fraction;
};

template <class Real>
WSSS_HD BilinearSource<Real> bilinear_source(int64_t i, int64_t source_size, int64_t size) {
  const Real step = static_cast<Real>(source_size) / static_cast<Real>(size);
  const Real centre = (static_cast<Real>(i) + Real(0.5)) * step - Real(0.5);
  const Real at = centre > 0 ? centre : Real(0);
  const int64_t cell = static_cast<int64_t>(at);
  const int64_t low = cell < source_size ? cell : source_size - 1;  // rounding may reach the end
  const Real fraction = at - static_cast<Real>(low);
  // At fraction 0 `high` is `low`, so that a NaN does not spread when sizes are equal.
  return {low, fraction > 0 && low + 1 < source_size ? low + 1 : low, fraction};
}

// (1 - fraction) * low + fraction * high. At fraction 0 only `low`
// counts: 0 * infinity would be NaN.
template <class Real>
WSSS_HD Real interpolate(Real low, Real high, Real fraction) {
  return fraction > 0 ? (1 - fraction) * low + fraction * high : low;
}

}  // namespace wsss
