// Short names of lattice vertices, by which they are sorted: mostly 32 bits, where keys have up
// to 63.
#pragma once

#include <algorithm>

#include "../math/lattice.h"

#include "launch.cuh"

namespace wsss::cuda {

inline int bits_for(int64_t values) {
  int bits = 0;
  while ((int64_t{1} << bits) < values) ++bits;
  return bits;
}

// A vertex' coordinates are nearly those of a point, whose features lie in a box: coordinate j is
// known up to -j times feature j - 1 from those above it. A name counts the places in these ranges,
// for j = D..1, and the remainder. Coordinate 0 follows from the others, as all
// sum to 0.
template <int D>
struct VertexNames {
  static constexpr double kNames = 4294967296.0;
  int32_t low[D + 1];     // [1..D]
  int32_t places[D + 1];  // [1..D]
  int64_t total = 1;      // names of one image
  bool wide = false;      // names would not fit 32 bits: keys serve as names

  VertexNames() = default;

  // `from`, `to` [D]: bounds of the scaled features; the origin is always inside.
  VertexNames(const double* from, const double* to) {
    // A vertex' coordinates differ from those of any point of its simplices by at most D: so much
    // may the sum of the features from j on differ, and t = coordinate - that sum.
    double sum = 0.0;
    for (int j = D; j >= 1; --j) {
      const double t = sum + D;
      sum += t / j;
      const double least = (-j * std::max(to[j - 1], 0.0) - t - D) / (D + 1),
                   most = (-j * std::min(from[j - 1], 0.0) + t) / (D + 1) + 1.0;
      // Two places for rounding errors, which are below one where names have 32 bits.
      const double count = std::ceil(most) - std::floor(least) + 3.0;
      wide = !(count * static_cast<double>(total) * (D + 1) < kNames);
      if (wide) return;
      low[j] = static_cast<int32_t>(std::floor(least)) - 1;
      places[j] = static_cast<int32_t>(count);
      total *= places[j];
    }
    total *= D + 1;
  }

  // The most images that may share a lattice.
  int64_t max_images(const KeyLayout<D>& layout) const {
    const int64_t keys = int64_t{1} << std::min(64 - layout.bits, 30);
    return wide ? keys : std::min(keys, static_cast<int64_t>(kNames) / total);
  }
  // The bits of the names of that many images.
  int bits(const KeyLayout<D>& layout, int64_t images) const {
    return wide ? layout.bits + bits_for(images) : bits_for(total * images);
  }

  // Different for different vertices: the place of coordinate j is counted from a function of those
  // above it.
  __device__ __forceinline__ uint32_t of(uint32_t image, const int* quotient, const int* rank,
                                         int r) const {
    uint32_t name = image;
    float sum = 0.0f;  // of the features from j on
#pragma unroll
    for (int j = D; j >= 1; --j) {
      const int q = quotient[j] - (rank[j] > D - r);
      const int place = q - static_cast<int>(floorf(sum * (1.0f / (D + 1)))) - low[j];
      // Before the two coordinates that vary the most between neighbouring vertices, which then
      // have their neighbours at neighbouring numbers.
      if (j == (D < 2 ? 1 : 2)) name = name * (D + 1) + static_cast<uint32_t>(r);
      name = name * static_cast<uint32_t>(places[j]) + static_cast<uint32_t>(place);
      const float coordinate = static_cast<float>(q * (D + 1) + r);
      sum += (sum - coordinate) * (1.0f / static_cast<float>(j));
    }
    return name;
  }
};

}  // namespace wsss::cuda
