// From the features of 16 pixels to the vertex keys of their simplices: for a number of dimensions
// known at compile time, with 64-bit keys, and for any other, with 128-bit keys.
#pragma once

#include <vector>

#include "simd.h"  // before csrc/math, see math/scalar.h

#include "../math/lattice.h"
#include "limits.h"

#if defined(__AVX512F__) && defined(__AVX512VL__)
#include <immintrin.h>
#endif

namespace wsss {

constexpr int kMaxCorners = kMaxDimensions + 1;

// The vertices of 16 simplices: corner r of pixel i has key[r][i] and weight[r][i].
template <class Key, int CORNERS>
struct SimplexTile {
  Key key[CORNERS][kLanes];
  Lanes weight[CORNERS];
};

template <int D>
class FixedGeometry {
 public:
  using Key = uint64_t;
  using Tile = SimplexTile<Key, D + 1>;
  static constexpr int corners() { return D + 1; }

  explicit FixedGeometry(const KeyLayout<D>& layout) : layout_(layout) { feature_scale(D, scale_); }

  int key_bits() const { return layout_.bits; }
  Key next(Key key, int j) const { return next_key<D>(layout_, key, j); }

  // `features` [D]: divided by the standard deviations, not yet scaled by feature_scale.
  void locate(const Lanes* features, Tile& tile) const {
    Lanes scaled[D];
    for (int i = 0; i < D; ++i) scaled[i] = features[i] * scale_[i];
    Simplex<D, Lanes, IntLanes> simplex;
    wsss::locate<D>(scaled, simplex);
    for (int r = 0; r <= D; ++r) tile.weight[r] = simplex.weight[r];

    vertex_keys_of(simplex, tile);
  }

 private:
  // The same as vertex_keys, for all lanes. Corner r differs from corner 0 by one step back in the
  // coordinates whose rank is above D - r.
#if defined(__AVX512F__) && defined(__AVX512VL__)
  void vertex_keys_of(const Simplex<D, Lanes, IntLanes>& simplex, Tile& tile) const {
    for (int half = 0; half < 2; ++half) {
      const auto eight = [&](const IntLanes& lanes) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(&lanes) + half);
      };
      __m512i key = _mm512_setzero_si512(), unit[D];
      __m256i rank[D];
      for (int j = 0; j < D; ++j) {
        const __m256i cell =
            _mm256_sub_epi32(eight(simplex.quotient[j]), _mm256_set1_epi32(layout_.low[j]));
        const int shift = __builtin_ctzll(layout_.unit[j]);
        key = _mm512_add_epi64(
            key, _mm512_maskz_sll_epi64(
                     0xff, _mm512_maskz_cvtepi32_epi64(0xff, cell), _mm_cvtsi32_si128(shift)));
        unit[j] = _mm512_set1_epi64(static_cast<int64_t>(layout_.unit[j]));
        rank[j] = eight(simplex.rank[j]);
      }
      _mm512_storeu_si512(tile.key[0] + half * 8, key);
      for (int r = 1; r <= D; ++r) {
        __m512i corner = _mm512_add_epi64(key, _mm512_set1_epi64(r));
        for (int j = 0; j < D; ++j) {
          const __mmask8 wraps = _mm256_cmpgt_epi32_mask(rank[j], _mm256_set1_epi32(D - r));
          corner = _mm512_mask_sub_epi64(corner, wraps, corner, unit[j]);
        }
        _mm512_storeu_si512(tile.key[r] + half * 8, corner);
      }
    }
  }
#else
  void vertex_keys_of(const Simplex<D, Lanes, IntLanes>& simplex, Tile& tile) const {
    int32_t quotient[D][kLanes], rank[D + 1][kLanes];
    for (int j = 0; j < D; ++j) std::memcpy(quotient[j], &simplex.quotient[j], sizeof quotient[j]);
    for (int j = 0; j <= D; ++j) std::memcpy(rank[j], &simplex.rank[j], sizeof rank[j]);
    // The loops over lanes become vector instructions.
    for (int i = 0; i < kLanes; ++i) {
      uint64_t key = 0;
      for (int j = 0; j < D; ++j) {
        key += layout_.unit[j] * static_cast<uint64_t>(quotient[j][i] - layout_.low[j]);
      }
      tile.key[0][i] = key;
    }
    for (int r = 1; r <= D; ++r) {
      for (int i = 0; i < kLanes; ++i) {
        uint64_t wrapped = 0;
        for (int j = 0; j <= D; ++j) wrapped += rank[j][i] == D - r + 1 ? layout_.unit[j] : 0;
        tile.key[r][i] = tile.key[r - 1][i] + 1 - wrapped;
      }
    }
  }
#endif

  const KeyLayout<D> layout_;
  float scale_[D];
};

// Point by point, for any number of dimensions: the arithmetic of locate() and KeyLayout, with 5
// bits for the remainder and up to 127 for the key.
class AnyGeometry {
 public:
  using Key = unsigned __int128;
  using Tile = SimplexTile<Key, kMaxCorners>;
  int corners() const { return d_ + 1; }

  explicit AnyGeometry(int d) : d_(d) { feature_scale(d, scale_); }

  // `from`, `to` [d]: bounds of the features, not yet scaled. False when the
  // coordinates need more than 127 bits.
  bool fit(const double* from, const double* to) {
    double scaled_from[kMaxDimensions], scaled_to[kMaxDimensions];
    for (int i = 0; i < d_; ++i) {
      scaled_from[i] = from[i] * scale_[i];
      scaled_to[i] = to[i] * scale_[i];
    }
    bits_ = kRemainderBits;
    all_units_ = 0;
    unit_[d_] = 0;
    for (int j = 0; j < d_; ++j) {
      const CoordinateRange range = coordinate_range(d_, j, scaled_from, scaled_to);
      if (!range.representable || bits_ + range.width > 127) return false;
      low_[j] = range.low;
      unit_[j] = Key{1} << bits_;
      all_units_ += unit_[j];
      bits_ += range.width;
    }
    return true;
  }

  int key_bits() const { return bits_; }
  Key next(Key key, int j) const {
    const Key remainder = key & ((1u << kRemainderBits) - 1);
    return (remainder ? key - 1 : key + static_cast<unsigned>(d_) - all_units_) + unit_[j];
  }

  void locate(const Lanes* features, Tile& tile) const {
    for (int i = 0; i < kLanes; ++i) {
      float x[kMaxDimensions], weight[kMaxCorners];
      Key key[kMaxCorners];
      for (int j = 0; j < d_; ++j) x[j] = features[j][i] * scale_[j];
      locate_point(x, key, weight);
      for (int r = 0; r <= d_; ++r) {
        tile.key[r][i] = key[r];
        tile.weight[r][i] = weight[r];
      }
    }
  }

 private:
  static constexpr int kRemainderBits = 5;

  void locate_point(const float* scaled, Key* key, float* weight) const {
    const int d = d_;
    float elevated[kMaxCorners], delta[kMaxCorners], by_rank[kMaxCorners] = {};
    int quotient[kMaxCorners], rank[kMaxCorners] = {};
    float total = 0.0f;
    for (int j = d; j > 0; --j) {
      elevated[j] = total - static_cast<float>(j) * scaled[j - 1];
      total += scaled[j - 1];
    }
    elevated[0] = total;
    const float inverse = 1.0f / static_cast<float>(d + 1);
    int excess = 0;
    for (int j = 0; j <= d; ++j) {
      const float nearest = round_even(elevated[j] * inverse);
      quotient[j] = to_int(nearest);
      excess += quotient[j];
      delta[j] = elevated[j] - nearest * static_cast<float>(d + 1);
    }
    for (int i = 0; i < d; ++i) {
      for (int j = i + 1; j <= d; ++j) ++rank[delta[i] < delta[j] ? i : j];
    }
    Key at = 0;
    int coordinate[kMaxCorners];  // the coordinate with rank r
    for (int j = 0; j <= d; ++j) {
      const int moved = rank[j] + excess;
      const int wraps = (moved < 0) - (moved > d);
      rank[j] = moved + (d + 1) * wraps;
      quotient[j] += wraps;
      by_rank[rank[j]] = (elevated[j] - to_float(quotient[j] * (d + 1))) * inverse;
      coordinate[rank[j]] = j;
      if (j < d) at += unit_[j] * static_cast<unsigned>(quotient[j] - low_[j]);
    }
    for (int r = 1; r <= d; ++r) weight[r] = by_rank[d - r] - by_rank[d - r + 1];
    weight[0] = by_rank[d] + (1.0f - by_rank[0]);
    key[0] = at;
    for (int r = 1; r <= d; ++r) key[r] = at = at + 1 - unit_[coordinate[d - r + 1]];
  }

  const int d_;
  float scale_[kMaxDimensions];
  int32_t low_[kMaxDimensions];
  Key unit_[kMaxCorners];
  Key all_units_ = 0;
  int bits_ = 0;
};

}  // namespace wsss
