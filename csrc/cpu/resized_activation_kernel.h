// Bilinear resizing and softmax or sigmoid in one pass, without another array of the result's size.
#pragma once

#include <vector>

#include "simd.h"

#include "../math/bilinear.h"
#include "../math/exp.h"

namespace wsss {

// Computes rows of one image's result, in ascending order; each thread has its own object.
template <class Real>
class ResizedRows {
 public:
  ResizedRows(const ResizeShape& shape, bool softmax)
      : shape_(shape),
        softmax_(softmax),
        padded_((shape.out_width + kTile - 1) / kTile * kTile),
        tile_(shape.labels * kTile) {
    for (auto& row : stretched_) row.assign(shape.labels * padded_, Real(0));
    for (int64_t x = 0; x < shape.out_width; ++x) {
      columns_.push_back(bilinear_source<Real>(x, shape.width, shape.out_width));
    }
  }

  // logits [K, h, w] and result [K, H, W] of one image; computes rows [first, last) of the result.
  void run(const Real* logits, int64_t first, int64_t last, Real* result) {
    held_[0] = held_[1] = -1;
    for (int64_t y = first; y < last; ++y) {
      const auto source = bilinear_source<Real>(y, shape_.height, shape_.out_height);
      const Real* low = stretch(logits, source.low, source.high);
      const Real* high = stretch(logits, source.high, source.low);
      for (int64_t x = 0; x < shape_.out_width; x += kTile) {
        mix(low + x, high + x, source);
        softmax_ ? take_softmax() : take_sigmoid();
        const int64_t count = std::min(kTile, shape_.out_width - x);
        for (int64_t k = 0; k < shape_.labels; ++k) {
          std::memcpy(result + (k * shape_.out_height + y) * shape_.out_width + x,
                      tile_.data() + k * kTile, sizeof(Real) * count);
        }
      }
    }
  }

 private:
  using V = typename SimdOf<Real>::V;
  static constexpr int64_t kStep = SimdOf<Real>::kCount;
  static constexpr int64_t kTile = 64;  // columns, whose values of all labels fit the L1 cache

  static V read(const Real* p) {
    V v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
  static void write(Real* p, V v) { std::memcpy(p, &v, sizeof(v)); }

  // Returns source row `y` resized to the result's width, [K, padded]. Of the two cached
  // rows, `keep` is not replaced.
  const Real* stretch(const Real* logits, int64_t y, int64_t keep) {
    for (int i : {0, 1}) {
      if (held_[i] == y) return stretched_[i].data();
    }
    const int i = held_[0] == keep ? 1 : 0;
    held_[i] = y;
    for (int64_t k = 0; k < shape_.labels; ++k) {
      const Real* from = logits + (k * shape_.height + y) * shape_.width;
      Real* to = stretched_[i].data() + k * padded_;
      for (int64_t x = 0; x < shape_.out_width; ++x) {
        const auto& c = columns_[x];
        to[x] = c.read([from](int64_t column) { return from[column]; });
      }
    }
    return stretched_[i].data();
  }

  void mix(const Real* low, const Real* high, const BilinearSource<Real>& source) {
    const Real fraction = source.fraction;
    for (int64_t k = 0; k < shape_.labels; ++k) {
      for (int64_t x = 0; x < kTile; x += kStep) {
        const V upper = read(low + k * padded_ + x);
        write(&tile_[k * kTile + x],
              source.resized ? (1 - fraction) * upper + fraction * read(high + k * padded_ + x)
                             : upper);
      }
    }
  }

  void take_softmax() {
    for (int64_t x = 0; x < kTile; x += kStep) {
      V top = read(&tile_[x]), poison{};
      for (int64_t k = 0; k < shape_.labels; ++k) {
        const V z = read(&tile_[k * kTile + x]);
        top = top > z ? top : z;
        poison += z == z ? V{} : z;
      }
      // exp_negative turns NaN into 0, but a pixel without a finite maximum must be NaN
      // in all labels, as in PyTorch.
      V sum = (top - top) + poison;
      for (int64_t k = 0; k < shape_.labels; ++k) {
        const V e = exp_negative(read(&tile_[k * kTile + x]) - top);
        write(&tile_[k * kTile + x], e);
        sum += e;
      }
      const V inverse = V{} + 1 / sum;
      for (int64_t k = 0; k < shape_.labels; ++k) {
        write(&tile_[k * kTile + x], read(&tile_[k * kTile + x]) * inverse);
      }
    }
  }

  void take_sigmoid() {
    for (size_t at = 0; at < tile_.size(); at += kStep) {
      const V z = read(&tile_[at]);
      const V e = exp_negative(z < 0 ? z : -z);  // of -|z|
      const V s = (z < 0 ? e : V{} + 1) / (1 + e);
      write(&tile_[at], z == z ? s : z);
    }
  }

  const ResizeShape shape_;
  const bool softmax_;
  const int64_t padded_;
  std::vector<BilinearSource<Real>> columns_;  // [W]
  std::vector<Real> tile_;                     // [K, kTile]
  std::vector<Real> stretched_[2];             // [K, padded]
  int64_t held_[2] = {-1, -1};                 // the source row in each of stretched_
};

}  // namespace wsss
