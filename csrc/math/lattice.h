// Permutohedral lattice geometry (Adams, Baek and Davis 2010): which simplex contains a point, its
// barycentric weights, and 64-bit keys of vertices. Shared by the CPU kernel (F = a vector of
// pixels) and CUDA (F = float).
//
// Compiled without fused multiply-add, so that all backends and pydensecrf find exactly the
// same vertices: 8-bit images often lie on a simplex boundary, where one rounding error
// decides whether a vertex exists.
#pragma once

#include <cmath>
#include <cstdint>

#include "scalar.h"

namespace wsss {

// Feature i is multiplied by this before elevation (page 4); rounded where pydensecrf rounds.
inline void feature_scale(int d, float* scale) {
  const float deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * (d + 1));
  for (int i = 0; i < d; ++i) {
    scale[i] = static_cast<float>(1.0 / std::sqrt((i + 2.0) * (i + 1.0)) * deviation);
  }
}

// A simplex has D+1 vertices; coordinate j of vertex r is (D+1) *
// (quotient[j] - [rank[j] > D - r]) + r.
template <int D, class F, class I>
struct Simplex {
  I quotient[D + 1];
  I rank[D + 1];
  F weight[D + 1];  // barycentric weight of vertex r
};

// `scaled` [D]: features times feature_scale.
template <int D, class F, class I>
WSSS_HD void locate(const F* scaled, Simplex<D, F, I>& s) {
  F elevated[D + 1], delta[D + 1];
  F total = scaled[0] - scaled[0];
  for (int j = D; j > 0; --j) {
    elevated[j] = total - static_cast<float>(j) * scaled[j - 1];
    total = total + scaled[j - 1];
  }
  elevated[0] = total;

  const float inverse = 1.0f / (D + 1);
  I excess = to_int(scaled[0] - scaled[0]);
  for (int j = 0; j <= D; ++j) {
    const F nearest = round_even(elevated[j] * inverse);
    s.quotient[j] = to_int(nearest);
    excess = excess + s.quotient[j];
    delta[j] = elevated[j] - nearest * static_cast<float>(D + 1);
    s.rank[j] = excess - excess;
  }
  for (int i = 0; i < D; ++i) {
    for (int j = i + 1; j <= D; ++j) {
      const I below = less(delta[i], delta[j]);
      s.rank[i] = s.rank[i] + below;
      s.rank[j] = s.rank[j] + (1 - below);
    }
  }
  // The rounded point may lie off the plane sum(x) = 0; moving the coordinates that were rounded
  // the furthest brings it back.
  F by_rank[D + 1];  // offset of the coordinate with rank r
  for (int r = 0; r <= D; ++r) by_rank[r] = total - total;
  for (int j = 0; j <= D; ++j) {
    const I moved = s.rank[j] + excess;
    const I up = less(moved, excess - excess);
    const I down = less(excess - excess + D, moved);
    s.rank[j] = moved + (D + 1) * (up - down);
    s.quotient[j] = s.quotient[j] + up - down;
    const F offset = (elevated[j] - to_float(s.quotient[j] * (D + 1))) * inverse;
    for (int r = 0; r <= D; ++r) {
      by_rank[r] = by_rank[r] + keep_if_equal(s.rank[j], excess - excess + r, offset);
    }
  }
  for (int r = 1; r <= D; ++r) s.weight[r] = by_rank[D - r] - by_rank[D - r + 1];
  s.weight[0] = by_rank[D] + (1.0f - by_rank[0]);
}

// The range of quotients of coordinate j, with a margin: [low, low + 2^width).
struct CoordinateRange {
  int32_t low;
  int width;
  bool representable;
};

// `from`, `to` [d]: bounds of the scaled features.
inline CoordinateRange coordinate_range(int d, int j, const double* from, const double* to) {
  double below = j ? -j * to[j - 1] : 0.0, above = j ? -j * from[j - 1] : 0.0;
  for (int i = j; i < d; ++i) {
    below += from[i];
    above += to[i];
  }
  below /= d + 1;
  above /= d + 1;
  // round_even needs |quotient| < 2^22, and floats represent every integer up to d+1 times that.
  if (!(below > -2097152.0 && above < 2097152.0)) return {0, 0, false};
  // A margin of four cells: rounding, the rank correction, the vertex's own wrap,
  // and one step to a neighbour.
  const int32_t low = static_cast<int32_t>(std::floor(below)) - 4;
  const double cells = std::ceil(above) + 4 - low + 1;
  int width = 1;
  while (std::ldexp(1.0, width) < cells) ++width;
  return {low, width, true};
}

// A key holds the remainder in its low bits, then D biased quotients. Only the first D of the D+1
// coordinates are stored, since all sum to 0.
template <int D>
struct KeyLayout {
  static constexpr int kRemainderBits = D < 8 ? 3 : 4;
  static_assert(D + 1 <= 1 << kRemainderBits, "the remainder is 0..D");
  int32_t low[D];
  uint64_t unit[D + 1];  // one quotient step of coordinate j; unit[D] = 0
  uint64_t all_units;
  int bits;

  // Chooses the layout for scaled features in [from[i], to[i]]. False when the
  // coordinates need more than 63 bits.
  bool fit(const double* from, const double* to) {
    bits = kRemainderBits;
    all_units = 0;
    unit[D] = 0;
    for (int j = 0; j < D; ++j) {
      const CoordinateRange range = coordinate_range(D, j, from, to);
      if (!range.representable || bits + range.width > 63) return false;
      low[j] = range.low;
      unit[j] = uint64_t{1} << bits;
      all_units += unit[j];
      bits += range.width;
    }
    return true;
  }
};

// The keys of the D+1 vertices of a simplex, in order of remainder.
template <int D>
WSSS_HD void vertex_keys(const KeyLayout<D>& layout, const int* quotient, const int* rank,
                         uint64_t* key) {
  uint64_t unit_of_rank[D + 1];
  uint64_t k = 0;
  for (int j = 0; j <= D; ++j) {
    for (int r = 0; r <= D; ++r) {
      unit_of_rank[r] = rank[j] == r ? layout.unit[j] : (j ? unit_of_rank[r] : 0);
    }
    if (j < D) k += layout.unit[j] * static_cast<uint64_t>(quotient[j] - layout.low[j]);
  }
  key[0] = k;
  for (int r = 1; r <= D; ++r) key[r] = k = k + 1 - unit_of_rank[D - r + 1];
}

// The key of the next vertex along direction j: -1 on every coordinate,
// then +(D+1) on coordinate j.
template <int D>
WSSS_HD uint64_t next_key(const KeyLayout<D>& layout, uint64_t key, int j) {
  constexpr uint64_t kRemainder = (1u << KeyLayout<D>::kRemainderBits) - 1;
  const uint64_t back = (key & kRemainder) ? key - 1 : key + D - layout.all_units;
  return back + layout.unit[j];
}

// The factor that normalises the blur [1/2 1 1/2] along d+1 directions between splat and slice.
WSSS_HD float lattice_gain(int d) { return 1.0f / (1.0f + 1.0f / static_cast<float>(1 << d)); }

}  // namespace wsss
