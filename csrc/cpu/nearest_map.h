// Maps [B, H, W] read as if they were resized by nearest to [B, h, w], consecutive pixels at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "../math/nearest.h"

namespace wsss {

template <class Real>
class NearestMap {
 public:
  NearestMap(const Real* maps, int64_t source_height, int64_t source_width, int64_t height, int64_t width)
      : maps_(maps), source_height_(source_height), source_width_(source_width), height_(height), width_(width) {
    for (int64_t x = 0; x < width; ++x) columns_.push_back(nearest_below(x, source_width, width));
  }

  // Pixels [at, at + count) of an image.
  void read(int64_t image, int64_t at, int64_t count, Real* to) const {
    const Real* from = maps_ + image * source_height_ * source_width_;
    int64_t y = at / width_, x = at % width_;
    const Real* row = from + nearest_below(y, source_height_, height_) * source_width_;
    for (int64_t i = 0; i < count; ++i) {
      to[i] = row[columns_[x]];
      if (++x == width_) {
        x = 0;
        row = from + nearest_below(++y, source_height_, height_) * source_width_;
      }
    }
  }

 private:
  const Real* maps_;
  const int64_t source_height_, source_width_, height_, width_;
  std::vector<int64_t> columns_;
};

}  // namespace wsss
