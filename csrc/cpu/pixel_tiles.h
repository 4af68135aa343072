// The pixels of an image in tiles of 16, in the order in which the mean field visits them, and
// their bands, which threads share.
#pragma once

#include <vector>

#include "lattice.h"

namespace wsss {

// The first `count` of 16 values, zeros for the others.
inline Lanes load_some(const float* from, int count) {
  if (count == kLanes) return load<kLanes>(from);
  Lanes v{};
  for (int i = 0; i < count; ++i) v[i] = from[i];
  return v;
}

// Stores the first `count` of 16 values.
inline void store_some(float* to, const Lanes& v, int count) {
  if (count == kLanes) return store<kLanes>(to, v);
  for (int i = 0; i < count; ++i) to[i] = v[i];
}

class PixelTiles {
 public:
  PixelTiles(int64_t height, int64_t width, int threads)
      : height_(height), width_(width), threads_(threads), bands_(band_count(height * width)) {
    // Strip by strip, not line by line: then the vertices that a tile touches are mostly those of
    // the tile above it, which are still in cache.
    constexpr int64_t kStrip = 64;  // pixels
    const int64_t tiles = tile_count(pixels());
    const auto strip = [&](int64_t tile) { return tile * kLanes % width / kStrip; };
    std::vector<int64_t> at(width / kStrip + 2, 0);
    for (int64_t t = 0; t < tiles; ++t) ++at[strip(t) + 1];
    for (size_t i = 1; i < at.size(); ++i) at[i] += at[i - 1];
    first_.resize(tiles);
    for (int64_t t = 0; t < tiles; ++t) first_[at[strip(t)]++] = t * kLanes;
  }

  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  int64_t pixels() const { return height_ * width_; }
  int threads() const { return threads_; }
  int bands() const { return bands_; }

  // A tile's first pixel; the others follow it in the order of the image's lines.
  int64_t first_pixel(int64_t tile) const { return first_[tile]; }

  // The number of pixels in the tile that starts at `pixel`.
  int count(int64_t pixel) const {
    return static_cast<int>(std::min<int64_t>(kLanes, pixels() - pixel));
  }

  // Calls work(band, first tile, last tile) for the bands of thread `rank`.
  template <class Work>
  void for_each_band(int rank, const Work& work) const {
    const auto [from, to] = Team::part(bands_, rank, threads_);
    for (int b = from; b < to; ++b) {
      const auto [first, last] = band_tiles(pixels(), b, bands_);
      work(b, first, last);
    }
  }

  // Features x / sx and y / sy of the tile that starts at `pixel`; returns its number of pixels.
  int position(int64_t pixel, float sx, float sy, Lanes* f) const {
    int64_t column = pixel % width_, line = pixel / width_;
    Lanes x, y;
    if (column + kLanes <= width_) {
      for (int i = 0; i < kLanes; ++i) x[i] = static_cast<float>(i);
      x += static_cast<float>(column);
      y = Lanes{} + static_cast<float>(line);
    } else {
      for (int i = 0; i < kLanes; ++i) {
        x[i] = static_cast<float>(column);
        y[i] = static_cast<float>(std::min(line, height_ - 1));
        if (++column == width_) column = 0, ++line;
      }
    }
    f[0] = x / sx;
    f[1] = y / sy;
    return count(pixel);
  }

 private:
  const int64_t height_, width_;
  const int threads_, bands_;
  std::vector<int64_t> first_;
};

}  // namespace wsss
