// Vector types of the compiler (GCC and Clang lower them to what the target supports), and the
// overloads with which csrc/math runs on them.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "../math/scalar.h"

namespace wsss {

constexpr int kLanes = 16;  // pixels processed together: a tile

template <int V>
struct Vec {
  typedef float Float __attribute__((vector_size(4 * V)));
  typedef int32_t Int __attribute__((vector_size(4 * V)));
};
template <>
struct Vec<1> {
  typedef float Float;
  typedef int32_t Int;
};

// Unaligned loads and stores: rows of the lattice start anywhere.
template <int V>
inline typename Vec<V>::Float load(const float* p) {
  typename Vec<V>::Float v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <int V>
inline void store(float* p, typename Vec<V>::Float v) {
  std::memcpy(p, &v, sizeof(v));
}

using Lanes = Vec<kLanes>::Float;
using IntLanes = Vec<kLanes>::Int;

// Stores a cache line without reading it into the caches first, where the target can. Other threads
// see it after fence_stores() and their usual synchronisation.
inline void store_past_caches(float* line, const Lanes& v) {
#if defined(__SSE2__)
  __m128 parts[4];
  std::memcpy(parts, &v, sizeof v);
  for (int i = 0; i < 4; ++i) _mm_stream_ps(line + 4 * i, parts[i]);
#else
  store<kLanes>(line, v);
#endif
}
inline void fence_stores() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// The values that are computed together: 16 floats, or one double.
template <class Real>
struct SimdOf;
template <>
struct SimdOf<float> {
  using V = Lanes;
  static constexpr int64_t kCount = kLanes;
};
template <>
struct SimdOf<double> {
  using V = double;
  static constexpr int64_t kCount = 1;
};

inline IntLanes to_int(Lanes x) { return __builtin_convertvector(x, IntLanes); }
inline Lanes to_float(IntLanes x) { return __builtin_convertvector(x, Lanes); }
inline IntLanes less(Lanes a, Lanes b) { return -(a < b); }
inline IntLanes less(IntLanes a, IntLanes b) { return -(a < b); }
inline Lanes keep_if_equal(IntLanes a, IntLanes b, Lanes x) { return a == b ? x : Lanes{}; }
inline Lanes bits_to_float(IntLanes x) { return reinterpret_cast<Lanes>(x); }

// GCC computes on vectors of 16 lanes one by one where the target has none; some kernels use 8
// there.
using EightLanes = Vec<8>::Float;
inline Vec<8>::Int to_int(EightLanes x) { return __builtin_convertvector(x, Vec<8>::Int); }
inline EightLanes bits_to_float(Vec<8>::Int x) { return reinterpret_cast<EightLanes>(x); }

inline bool all(IntLanes x) {
  int32_t lane[kLanes], every = -1;
  std::memcpy(lane, &x, sizeof lane);
  for (int i = 0; i < kLanes; ++i) every &= lane[i];
  return every != 0;
}

// Transposes 16 rows of W floats (W a power of two) to W vectors of 16 lanes, and back.
#if defined(__AVX512F__) && !defined(__clang__)
// Each step is a perfect (un)shuffle of all 16 W numbers: it rotates the
// bits of their positions by one.
template <int W>
inline void to_lanes(const float* rows, Lanes* lanes) {
  constexpr IntLanes even = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30},
                     odd = even + 1;
  Lanes v[W], next[W];
  for (int i = 0; i < W; ++i) v[i] = load<kLanes>(rows + i * kLanes);
  for (int step = 1; step < W; step *= 2) {
    for (int i = 0; i < W / 2; ++i) {
      next[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even);
      next[W / 2 + i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], odd);
    }
    for (int i = 0; i < W; ++i) v[i] = next[i];
  }
  for (int i = 0; i < W; ++i) lanes[i] = v[i];
}
template <int W>
inline void to_rows(const Lanes* lanes, float* rows) {
  constexpr IntLanes low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23}, high = low + 8;
  Lanes v[W], next[W];
  for (int i = 0; i < W; ++i) v[i] = lanes[i];
  for (int step = 1; step < W; step *= 2) {
    for (int i = 0; i < W / 2; ++i) {
      next[2 * i] = __builtin_shuffle(v[i], v[W / 2 + i], low);
      next[2 * i + 1] = __builtin_shuffle(v[i], v[W / 2 + i], high);
    }
    for (int i = 0; i < W; ++i) v[i] = next[i];
  }
  for (int i = 0; i < W; ++i) store<kLanes>(rows + i * kLanes, v[i]);
}
#else
template <int W>
inline void to_lanes(const float* rows, Lanes* lanes) {
  for (int k = 0; k < W; ++k) {
    for (int i = 0; i < kLanes; ++i) lanes[k][i] = rows[i * W + k];
  }
}
template <int W>
inline void to_rows(const Lanes* lanes, float* rows) {
  for (int i = 0; i < kLanes; ++i) {
    for (int k = 0; k < W; ++k) rows[i * W + k] = lanes[k][i];
  }
}
#endif

}  // namespace wsss
