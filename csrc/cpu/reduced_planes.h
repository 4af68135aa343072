// Bilinear reduction of planes (align_corners=False), and its transpose.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "simd.h"

#include "../math/bilinear.h"

namespace wsss {

// One axis.
class ReducedAxis {
 public:
  ReducedAxis(int64_t source_size, int64_t size, float step)
      : source_size_(source_size), size_(size), halves_(step == 2.0f && source_size >= 2 * size) {
    std::vector<int> taps(source_size, 0);
    for (int64_t i = 0; i < size; ++i) {
      source_.push_back(bilinear_source<float>(i, source_size, size, step));
      add_tap(taps, source_[i].low, i, 1 - source_[i].fraction);
      add_tap(taps, source_[i].high, i, source_[i].fraction);
    }
  }

  int64_t source_size() const { return source_size_; }
  int64_t size() const { return size_; }

  // Whether pixel i is the mean of source pixels 2 i and 2 i + 1.
  bool halves() const { return halves_; }

  // Pixel i = (1 - fraction) * source[low] + fraction * source[high].
  const BilinearSource<float>& source(int64_t i) const { return source_[i]; }

  // Source pixel x belongs to pixel from(t)[x] with weight(t)[x], for each t < taps().
  int taps() const { return static_cast<int>(from_.size()); }
  const int32_t* from(int t) const { return from_[t].data(); }
  const float* weight(int t) const { return weight_[t].data(); }

 private:
  void add_tap(std::vector<int>& taps, int64_t x, int64_t i, float weight) {
    const auto t = static_cast<size_t>(taps[x]++);
    if (t == from_.size()) {
      from_.emplace_back(source_size_, 0);
      weight_.emplace_back(source_size_, 0.0f);
    }
    from_[t][x] = static_cast<int32_t>(i);
    weight_[t][x] = weight;
  }

  int64_t source_size_, size_;
  bool halves_;
  std::vector<BilinearSource<float>> source_;
  std::vector<std::vector<int32_t>> from_;
  std::vector<std::vector<float>> weight_;
};

// From planes [H, W] to [h, w]; either both axes are resized or none.
class ReducedPlanes {
 public:
  ReducedPlanes(ReducedAxis rows, ReducedAxis columns)
      : rows_(std::move(rows)), columns_(std::move(columns)) {}

  bool are_resized() const {
    return rows_.size() != rows_.source_size() || columns_.size() != columns_.source_size();
  }

  // Computes line y of the reduced `plane` to `out` [w].
  void reduce(const float* plane, int64_t y, float* out) const {
    const auto& at = rows_.source(y);
    const float* low = plane + at.low * columns_.source_size();
    const float* high = plane + at.high * columns_.source_size();
    const float u = at.fraction;
    if (columns_.halves()) {
      for (int64_t x = 0; x < columns_.size(); ++x) {
        out[x] = 0.5f * interpolate(low[2 * x] + low[2 * x + 1], high[2 * x] + high[2 * x + 1], u);
      }
      return;
    }
    for (int64_t x = 0; x < columns_.size(); ++x) {
      const auto& c = columns_.source(x);
      out[x] = interpolate(interpolate(low[c.low], high[c.low], u),
                           interpolate(low[c.high], high[c.high], u), c.fraction);
    }
  }

  // The transpose: computes lines [first, last) of planes `out` [K * H, W] from those of `grad`
  // [K * h, w].
  void expand(const float* grad, int64_t first, int64_t last, float* out) const {
    const int64_t width = columns_.size(), full = columns_.source_size();
    std::vector<float> line(width), expanded(full);
    for (int64_t i = first; i < last; ++i) {
      const int64_t plane = i / rows_.source_size(), y = i % rows_.source_size();
      std::fill(line.begin(), line.end(), 0.0f);
      for (int t = 0; t < rows_.taps(); ++t) {
        const float* from = grad + (plane * rows_.size() + rows_.from(t)[y]) * width;
        const float weight = rows_.weight(t)[y];
        for (int64_t x = 0; x < width; ++x) line[x] += weight * from[x];
      }
      expand_line(line.data(), expanded.data());
      write_line(expanded.data(), out + i * full);
    }
    fence_stores();
  }

 private:
  void expand_line(const float* line, float* out) const {
    const int64_t width = columns_.size(), full = columns_.source_size();
    if (columns_.halves()) {
      for (int64_t x = 0; x < width; ++x) out[2 * x] = out[2 * x + 1] = 0.5f * line[x];
      std::fill(out + 2 * width, out + full, 0.0f);
      return;
    }
    for (int t = 0; t < columns_.taps(); ++t) {
      const int32_t* from = columns_.from(t);
      const float* weight = columns_.weight(t);
      for (int64_t x = 0; x < full; ++x) {
        const float value = weight[x] * line[from[x]];
        out[x] = t == 0 ? value : out[x] + value;
      }
    }
  }

  // Past the caches where lines are aligned: nobody reads them soon.
  void write_line(const float* line, float* out) const {
    const int64_t full = columns_.source_size();
    if (full % kLanes != 0 || reinterpret_cast<uintptr_t>(out) % (4 * kLanes) != 0) {
      std::copy(line, line + full, out);
      return;
    }
    for (int64_t x = 0; x < full; x += kLanes) store_past_caches(out + x, load<kLanes>(line + x));
  }

  const ReducedAxis rows_, columns_;
};

}  // namespace wsss
