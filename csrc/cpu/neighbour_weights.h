// Weights of PAR and PAMR, and weighted sums over neighbours, for a tile of pixels at a time.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include "simd.h"

#include "../math/exp.h"
#include "pixel_adaptive_refine.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace wsss {

#if defined(__AVX512F__)
constexpr int kRefineTile = 16;  // pixels of a row
#else
constexpr int kRefineTile = 8;
#endif
using TileVec = Vec<kRefineTile>::Float;

// Masks that share one load of a weight; their sums fit the registers.
constexpr int kRefineGroup = 12;

inline int64_t round_up_to_tile(int64_t x) {
  return (x + kRefineTile - 1) / kRefineTile * kRefineTile;
}

// a * b + c, rounded once where the machine can.
inline TileVec add_product(TileVec a, TileVec b, TileVec c) {
#if defined(__AVX512F__)
  return reinterpret_cast<TileVec>(_mm512_fmadd_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__FMA__)
  return reinterpret_cast<TileVec>(_mm256_fmadd_ps(
      reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}

// Planes of rows with margins: `left` columns before column 0, at least `right` after the last one.
struct PaddedPlanes {
  int64_t rows, width, left, right, stride, plane;

  PaddedPlanes(int64_t rows, int64_t width, int64_t reach)
      : rows(rows),
        width(width),
        left(round_up_to_tile(reach)),  // so that column 0 is aligned
        right(reach),
        stride(left + round_up_to_tile(width + reach)),
        plane(rows * stride) {
    // A multiple of 4 KiB would map the same pixel of all planes to the same lines of the caches.
    constexpr int64_t kLine = 16, kLines = 64, kShift = 5;
    const int64_t lines = (plane + kLine - 1) / kLine;
    plane = (lines + (kShift - lines % kLines + kLines) % kLines) * kLine;
  }

  // Number of floats; the last tile of a plane may be read beyond its end.
  int64_t size(int64_t planes) const { return planes * plane + right + kRefineTile; }
  int64_t at(int64_t row, int64_t column = 0) const { return row * stride + left + column; }

  // Repeats the first and the last column of a row in its margins.
  void repeat_border(float* row) const {
    std::fill(row - right, row, row[0]);
    std::fill(row + width, row + width + right, row[width - 1]);
  }
};

// Offsets of the neighbours in pixels, and what their positions weigh.
struct NeighbourOffsets {
  std::vector<int64_t> y, x;
  std::vector<float> weight;

  explicit NeighbourOffsets(const RefineShape& shape) {
    const auto positions = position_weights(shape.dilations);
    for (size_t i = 0; i < shape.dilations.size(); ++i) {
      for (int k = 0; k < kRing; ++k) {
        y.push_back(ring_y(k) * RefineShape::offset(shape.dilations[i], shape.height));
        x.push_back(ring_x(k) * RefineShape::offset(shape.dilations[i], shape.width));
        weight.push_back(shape.pamr ? 0.0f : positions[i].at(k));
      }
    }
  }

  int64_t size() const { return static_cast<int64_t>(y.size()); }

  // Where the neighbours of a row's first pixel are in a plane whose margins repeat the border.
  void locate(const PaddedPlanes& planes, int64_t row, int64_t* where) const {
    for (int64_t n = 0; n < size(); ++n) {
      where[n] = planes.at(std::clamp<int64_t>(row + y[n], 0, planes.rows - 1), x[n]);
    }
  }
};

// Computes the weights of tiles; each thread has its own object.
class NeighbourWeights {
 public:
  NeighbourWeights(const RefineShape& shape, const NeighbourOffsets& offsets)
      : shape_(shape),
        offsets_(offsets),
        where_(offsets.size()),
        difference_(offsets.size() * kRefineTile),
        distance_(offsets.size() * kRefineTile) {}

  // image [channels, planes.plane] with repeated borders
  void select_row(const PaddedPlanes& planes, const float* image, int64_t row) {
    planes_ = &planes;
    image_ = image;
    centre_ = planes.at(row);
    offsets_.locate(planes, row, where_.data());
  }

  // Of pixels x, x + 1, ... of the row: weights [neighbours, kRefineTile].
  void compute(int64_t x, float* weights) {
    std::fill(distance_.begin(), distance_.end(), 0.0f);
    for (int64_t c = 0; c < shape_.channels; ++c) add_channel(image_ + c * planes_->plane + x);
    const float by = 1.0f / static_cast<float>(shape_.channels);
    const int64_t count = offsets_.size();
    TileVec nearest = load<kRefineTile>(distance_.data());
    for (int64_t n = 1; n < count; ++n) {
      const TileVec d = load<kRefineTile>(distance_.data() + n * kRefineTile);
      nearest = nearest < d ? nearest : d;
    }
    TileVec sum{};
    for (int64_t n = 0; n < count; ++n) {
      const TileVec d = load<kRefineTile>(distance_.data() + n * kRefineTile);
      const TileVec e = exp_negative((nearest - d) * by);
      store<kRefineTile>(weights + n * kRefineTile, e);
      sum += e;
    }
    const TileVec inverse = 1.0f / sum;
    for (int64_t n = 0; n < count; ++n) {
      const TileVec e = load<kRefineTile>(weights + n * kRefineTile);
      store<kRefineTile>(weights + n * kRefineTile, e * inverse + offsets_.weight[n]);
    }
  }

 private:
  // Values relative to the pixel's own, whose standard deviation has no large mean to cancel.
  void add_channel(const float* channel) {
    const int64_t count = offsets_.size();
    const TileVec own = load<kRefineTile>(channel + centre_);
    TileVec sum{}, squares{};
    for (int64_t n = 0; n < count; ++n) {
      const TileVec d = load<kRefineTile>(channel + where_[n]) - own;
      store<kRefineTile>(difference_.data() + n * kRefineTile, d);
      sum += d;
    }
    // PAMR's deviation is that of all values, the pixel's own for each dilation among them.
    const float centres = shape_.pamr ? static_cast<float>(count / kRing) : 0.0f;
    const float samples = static_cast<float>(count) + centres;
    const TileVec mean = sum * (1.0f / samples);
    for (int64_t n = 0; n < count; ++n) {
      const TileVec d = load<kRefineTile>(difference_.data() + n * kRefineTile) - mean;
      squares = add_product(d, d, squares);
    }
    squares += centres * (mean * mean);
    const TileVec scale =
        colour_scale(square_root(squares * (1.0f / (samples - 1.0f))), shape_.pamr);
    for (int64_t n = 0; n < count; ++n) {
      float* to = distance_.data() + n * kRefineTile;
      const TileVec scaled = load<kRefineTile>(difference_.data() + n * kRefineTile) * scale;
      store<kRefineTile>(to, load<kRefineTile>(to) + colour_distance(scaled, shape_.pamr));
    }
  }

  static TileVec square_root(TileVec x) {
    for (int i = 0; i < kRefineTile; ++i) x[i] = std::sqrt(x[i]);
    return x;
  }

  const RefineShape& shape_;
  const NeighbourOffsets& offsets_;
  const PaddedPlanes* planes_ = nullptr;
  const float* image_ = nullptr;
  int64_t centre_ = 0;
  std::vector<int64_t> where_;
  std::vector<float> difference_, distance_;  // [neighbours, kRefineTile]
};

// Sums of a row of pixels over their neighbours, in G planes: calls keep(k, x, sum) for each plane
// and each tile, x its first column.
//
// weights [tiles, neighbours, kRefineTile]; where [neighbours]: each neighbour's value at the first
// pixel, in a plane.
template <int G, class Keep>
void add_neighbours(const float* weights, int64_t tiles, const std::vector<int64_t>& where,
                    const float* from, int64_t plane, const Keep& keep) {
  const int64_t count = static_cast<int64_t>(where.size());
  for (int64_t t = 0; t < tiles; ++t, from += kRefineTile) {
    TileVec sum[G] = {};
    for (int64_t n = 0; n < count; ++n, weights += kRefineTile) {
      const TileVec w = load<kRefineTile>(weights);
      const float* there = from + where[n];
      for (int k = 0; k < G; ++k) {
        sum[k] = add_product(w, load<kRefineTile>(there + k * plane), sum[k]);
      }
    }
    for (int k = 0; k < G; ++k) keep(k, t * kRefineTile, sum[k]);
  }
}

// Calls run(std::integral_constant<int, G>) for G = count, in 1..kRefineGroup.
template <class Run, int G = kRefineGroup>
void with_group(int64_t count, const Run& run) {
  if (count == G) {
    run(std::integral_constant<int, G>{});
  } else if constexpr (G > 1) {
    with_group<Run, G - 1>(count, run);
  }
}

}  // namespace wsss
