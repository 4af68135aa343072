// Maps [B, H, W] read as if they had been resized to [B, h, w] (nearest),
// in runs of consecutive pixels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../math/nearest.h"

namespace wsss {

template <class Real>
class NearestMap {
 public:
  NearestMap(const Real* maps, int64_t source_height, int64_t source_width, int64_t height,
             int64_t width)
      : maps_(maps),
        source_height_(source_height),
        source_width_(source_width),
        height_(height),
        width_(width) {
    for (int64_t x = 0; x < width; ++x) columns_.push_back(nearest_source(x, source_width, width));
  }

  // Reads pixels [at, at + count) of an image.
  void read(int64_t image, int64_t at, int64_t count, Real* to) const {
    for_each(image, at, count, [&](const Real& value) { *to++ = value; });
  }

  // Prefetches the same pixels. When a map is much larger than its resized version, every pixel
  // comes from another cache line: waiting for them took a third of the saliency loss.
  void prefetch(int64_t image, int64_t at, int64_t count) const {
    for_each(image, at, count, [](const Real& value) { __builtin_prefetch(&value); });
  }

 private:
  template <class Visit>
  void for_each(int64_t image, int64_t at, int64_t count, Visit visit) const {
    const Real* from = maps_ + image * source_height_ * source_width_;
    for (int64_t y = at / width_, x = at % width_; count > 0; ++y, x = 0) {
      const Real* row = from + nearest_source(y, source_height_, height_) * source_width_;
      const int64_t last = std::min(width_, x + count);
      count -= last - x;
      for (; x < last; ++x) visit(row[columns_[x]]);
    }
  }

  const Real* maps_;
  const int64_t source_height_, source_width_, height_, width_;
  std::vector<int64_t> columns_;
};

}  // namespace wsss
