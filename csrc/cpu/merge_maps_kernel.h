// Softmax over channels of several views' sum, a row of pixels at a time, without an array of all
// channels at the size of the maps.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "buffer.h"
#include "merge_maps.h"
#include "simd.h"
#include "team.h"

#include "../math/bilinear.h"
#include "../math/exp.h"

namespace wsss::cpu {

inline void transpose(const float* rows, Lanes* lanes) { to_lanes<kLanes>(rows, lanes); }
inline void transpose(const double* rows, double* lanes) { *lanes = *rows; }

// Minimum and maximum of a map; NaN if one of its values is NaN, as in PyTorch.
template <class Real>
struct Extremes {
  Real low = std::numeric_limits<Real>::infinity(), high = -low;

  void include(const Extremes& other) {
    low = other.low < low || other.low != other.low ? other.low : low;
    high = other.high > high || other.high != other.high ? other.high : high;
  }
};

// One image's outputs, averaged with the mirror image's and divided by the number of views.
// Channels are contiguous, so that a vector holds those of one cell.
template <class Real>
class AveragedViews {
 public:
  static constexpr int64_t kStep = SimdOf<Real>::kCount;

  explicit AveragedViews(const SoftmaxCall<Real>& call) : call_(call) {
    for (const OutputView& view : call.views) {
      first_.push_back(cells_);
      cells_ += view.height * view.width;
    }
    size_t most = call.channels;
    for (const auto& wanted : call.wanted) most = std::max(most, wanted.size());
    values_.reserve(cells_ * padded(static_cast<int64_t>(most)));
  }

  int64_t cells() const { return cells_; }
  int64_t count() const { return static_cast<int64_t>(used_.size()); }  // of channels
  int64_t stride() const { return padded(count()); }                    // between two cells
  const Real* of(size_t view) const { return values_.get() + first_[view] * stride(); }

  // By one thread, before the others call load().
  void start(int64_t image) {
    image_ = image;
    used_ = call_.wanted[image];
    if (call_.present_only) return;
    used_.resize(call_.channels);
    for (int64_t k = 0; k < call_.channels; ++k) used_[k] = static_cast<int32_t>(k);
  }

  // A thread's share of the rows of all views.
  void load(int rank, int threads) {
    for (size_t v = 0; v < call_.views.size(); ++v) {
      const auto [top, bottom] = Team::part(call_.views[v].height, rank, threads);
      for (int64_t y = top; y < bottom; ++y) load_row(v, y);
    }
  }

 private:
  static int64_t padded(int64_t channels) { return (channels + kStep - 1) / kStep * kStep; }

  void load_row(size_t v, int64_t y) {
    const OutputView& view = call_.views[v];
    const Real parts = static_cast<Real>(2 * call_.views.size());
    Real* to = values_.get() + (first_[v] + y * view.width) * stride();
    for (int64_t k = 0; k < stride(); ++k) {
      if (k >= count()) {
        for (int64_t x = 0; x < view.width; ++x) to[x * stride() + k] = 0;
        continue;
      }
      const Real* from = static_cast<const Real*>(view.data) + image_ * view.image_stride +
                         used_[k] * view.channel_stride + y * view.row_stride;
      const Real* mirror = from + call_.images * view.image_stride;
      for (int64_t x = 0; x < view.width; ++x) {
        const Real sum =
            from[x * view.column_stride] + mirror[(view.width - 1 - x) * view.column_stride];
        to[x * stride() + k] = sum / parts;
      }
    }
  }

  const SoftmaxCall<Real>& call_;
  std::vector<int64_t> first_;  // [views] cell
  int64_t cells_ = 0, image_ = 0;
  std::vector<int32_t> used_;
  Buffer<Real> values_;  // [cells, stride]
};

// Computes rows of one image's maps at one size; each thread has its own object.
template <class Real>
class SoftmaxRows {
 public:
  SoftmaxRows(const SoftmaxCall<Real>& call, const AveragedViews<Real>& views, int64_t image,
              const SoftmaxMaps<Real>& maps)
      : call_(call), views_(views), wanted_(call.wanted[image]), maps_(maps) {
    const int64_t stride = views.stride();
    int64_t cells = 0;
    for (const OutputView& view : call.views) cells += view.width;
    line_.reserve(cells * stride);
    tile_.reserve(kStep * stride);
    scores_.reserve(stride);
    seen_.resize(wanted_.size());
    // The last tile repeats the last column, which changes no extremes.
    const int64_t columns = (maps.width + kStep - 1) / kStep * kStep;
    columns_.reserve(columns * call.views.size());
    for (int64_t x = 0; x < columns; ++x) {
      int64_t first = 0;
      for (const OutputView& view : call.views) {
        const auto at = bilinear_source<Real>(std::min(x, maps.width - 1), view.width, maps.width);
        columns_.push_back(
            {(first + at.low) * stride, (first + at.high) * stride, 1 - at.fraction, at.fraction});
        first += view.width;
      }
    }
  }

  // Writes row `y` of the maps, values [rows, height, width].
  void run(int64_t y, Real* values) {
    resize_columns(y);
    for (int64_t x = 0; x < maps_.width; x += kStep) {
      resize_rows(x);
      const V inverse = take_softmax();
      keep(inverse, values + y * maps_.width + x, std::min(kStep, maps_.width - x));
    }
  }

  // Of the rows that were computed, for map `r`.
  Extremes<Real> extremes(size_t r) const {
    Real low[kStep], high[kStep], total[kStep];
    std::memcpy(low, &seen_[r].low, sizeof low);
    std::memcpy(high, &seen_[r].high, sizeof high);
    std::memcpy(total, &seen_[r].total, sizeof total);
    Extremes<Real> all;
    for (int64_t i = 0; i < kStep; ++i) {
      all.include({low[i], high[i]});
      if (total[i] != total[i]) all.include({total[i], total[i]});
    }
    return all;
  }

 private:
  using V = typename SimdOf<Real>::V;
  static constexpr int64_t kStep = SimdOf<Real>::kCount;

  // Where a pixel of a row lies between two cells of a view.
  struct Column {
    int64_t low, high;  // elements of line_
    Real low_weight, high_weight;
  };
  struct Seen {
    V low = V{} + Extremes<Real>().low, high = -low;
    V total{};  // NaN if there was a NaN
  };

  static V read(const Real* p) {
    V v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }

  // line_ = each view, resized to row `y` of the maps but not to their width.
  void resize_columns(int64_t y) {
    Real* to = line_.get();
    for (size_t v = 0; v < call_.views.size(); ++v) {
      const OutputView& view = call_.views[v];
      const auto row = bilinear_source<Real>(y, view.height, maps_.height);
      const int64_t count = view.width * views_.stride();
      const Real *low = views_.of(v) + row.low * count, *high = views_.of(v) + row.high * count;
      for (int64_t i = 0; i < count; i += kStep) {
        const V mixed = interpolate(read(low + i), read(high + i), V{} + row.fraction);
        std::memcpy(to + i, &mixed, sizeof mixed);
      }
      to += count;
    }
  }

  // tile_ [channels / kStep, kStep pixels, kStep channels] = the views' sum from column `x` on.
  void resize_rows(int64_t x) {
    const int64_t stride = views_.stride();
    const auto count = static_cast<int64_t>(call_.views.size());
    const Column* pixel = columns_.data() + x * count;
    const Real* line = line_.get();
    for (int64_t i = 0; i < kStep; ++i, pixel += count) {
      for (int64_t k = 0; k < stride; k += kStep) {
        V sum{};
        for (const Column* at = pixel; at < pixel + count; ++at) {
          sum += at->low_weight * read(line + at->low + k) +
                 at->high_weight * read(line + at->high + k);
        }
        std::memcpy(tile_.get() + (k + i) * kStep, &sum, sizeof sum);
      }
    }
  }

  // scores_ = exp of the tile's values less their maximum; returns 1 / their sum.
  V take_softmax() {
    V* scores = scores_.get();
    for (int64_t k = 0; k < views_.stride(); k += kStep) {
      transpose(tile_.get() + k * kStep, scores + k);
    }
    const int64_t count = views_.count();
    V top = scores[0], poison{};
    for (int64_t k = 0; k < count; ++k) {
      const V z = scores[k];
      top = top > z ? top : z;
      poison += z == z ? V{} : z;
    }
    // A NaN, and a maximum that is infinite, make the whole pixel NaN, as in PyTorch.
    V sum = (top - top) + poison;
    for (int64_t k = 0; k < count; ++k) {
      scores[k] = exp_negative(scores[k] - top);
      sum += scores[k];
    }
    return 1 / sum;
  }

  void keep(V inverse, Real* to, int64_t count) {
    const int64_t pixels = maps_.height * maps_.width;
    for (size_t r = 0; r < wanted_.size(); ++r, to += pixels) {
      const V p = scores_[call_.present_only ? static_cast<int64_t>(r) : wanted_[r]] * inverse;
      Seen& seen = seen_[r];
      seen.low = p < seen.low ? p : seen.low;
      seen.high = p > seen.high ? p : seen.high;
      seen.total += p;
      std::memcpy(to, &p, count == kStep ? sizeof p : sizeof(Real) * count);
    }
  }

  const SoftmaxCall<Real>& call_;
  const AveragedViews<Real>& views_;
  const std::vector<int32_t>& wanted_;
  const SoftmaxMaps<Real>& maps_;
  std::vector<Column> columns_;  // [padded width, views]
  std::vector<Seen> seen_;       // [rows]
  Buffer<Real> line_, tile_;
  Buffer<V> scores_;  // [channels]
};

template <class Real>
void rescale(Real* values, const uint8_t* mask, int64_t count, const Extremes<Real>& extremes) {
  const Real low = extremes.low, range = extremes.high - low + static_cast<Real>(1e-5);
  for (int64_t i = 0; i < count; ++i) {
    const Real scaled = (values[i] - low) / range;
    values[i] = mask[i] ? scaled : values[i];
  }
}

}  // namespace wsss::cpu
