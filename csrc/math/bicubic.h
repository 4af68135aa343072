// Bicubic resizing of 8-bit images, bit for bit as in Pillow: weights in double are rounded to
// fixed point, their sums are exact. Needs arithmetic without contraction, as all of csrc.
#pragma once

#include <cmath>
#include <cstdint>

#include "scalar.h"

namespace wsss {

// Bits of a weight's fraction: 8 bits of a pixel and 2 of overshoot remain of an int32.
constexpr int kWeightBits = 22;
constexpr int32_t kHalfWeight = 1 << (kWeightBits - 1);  // where a sum starts, to be rounded

// One side of an image: `source` pixels become `size`. The filter is widened for shrinking.
struct ResizedSide {
  int64_t source, size;

  WSSS_HD bool changes() const { return source != size; }
  WSSS_HD double scale() const { return static_cast<double>(source) / static_cast<double>(size); }
  WSSS_HD double stretch() const { return scale() > 1.0 ? scale() : 1.0; }
  // No pixel of the result reads more pixels of the source.
  WSSS_HD int64_t taps() const { return 2 * static_cast<int64_t>(ceil(2.0 * stretch())) + 1; }
};

// Which images begin with the vertical pass; it changes the result, which is rounded after each.
enum class PassOrder : int64_t {
  kHorizontal,  // none (Pillow until 12.1)
  kTall,        // those more than 100 times as high as wide, if they shrink (since 12.2)
  kShrinking,   // where the height shrinks by more than twice as many pixels as the width (13)
};
constexpr int64_t kPassOrders = 3;

struct ResizedImage {
  ResizedSide rows, columns;

  bool vertical_first(PassOrder order) const {
    const int64_t less = rows.source - rows.size, narrower = columns.source - columns.size;
    switch (order) {
      case PassOrder::kTall: return less > 0 && rows.source > 100 * columns.source;
      case PassOrder::kShrinking: return less > 0 && less > 2 * narrower;
      default: return false;
    }
  }
};

// The rows [top, bottom) and columns [left, right) of an image.
struct Window {
  int64_t top, bottom, left, right;
};

// The pixels [first, last) of the source that pixel `i` of a resized side reads.
struct PixelTaps {
  int64_t first, last;
  double centre, shrink;

  WSSS_HD PixelTaps(const ResizedSide& side, int64_t i) {
    const double reach = 2.0 * side.stretch();
    centre = (static_cast<double>(i) + 0.5) * side.scale();
    shrink = 1.0 / side.stretch();
    const int64_t low = static_cast<int64_t>(centre - reach + 0.5),
                  high = static_cast<int64_t>(centre + reach + 0.5);
    first = low < 0 ? 0 : low;
    last = high > side.source ? side.source : high;
  }

  // The weight of a source pixel, not yet divided by their sum. Keys' kernel with a = -1/2.
  WSSS_HD double weight(int64_t pixel) const {
    const double at = (static_cast<double>(pixel) - centre + 0.5) * shrink, x = at < 0 ? -at : at;
    if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
    return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 : 0.0;
  }
  // Added one by one from the first: the last bit of the sum decides how weights are rounded.
  WSSS_HD double total() const {
    double sum = 0.0;
    for (int64_t pixel = first; pixel < last; ++pixel) sum += weight(pixel);
    return sum;
  }
};

WSSS_HD int32_t fixed_weight(double weight, double total) {
  const double scaled = weight / total * static_cast<double>(1 << kWeightBits);
  return static_cast<int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
}

// A sum of weighted pixels that began at kHalfWeight, clipped.
WSSS_HD uint8_t to_pixel(int32_t sum) {
  const int32_t x = sum >> kWeightBits;
  return static_cast<uint8_t>(x < 0 ? 0 : x > 255 ? 255 : x);
}

}  // namespace wsss
