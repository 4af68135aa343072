// Vector types of the compiler (GCC and Clang lower them to whatever the target has), and the helpers that let
// csrc/math run on them.
#pragma once

#include <cstdint>
#include <cstring>

#include "../math/scalar.h"

namespace wsss {

constexpr int kLanes = 16;  // pixels located at a time; also the width of a tile of pixels

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

// Unaligned: rows of the lattice start anywhere.
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
using Row8 = Vec<8>::Float;

inline IntLanes to_int(Lanes x) { return __builtin_convertvector(x, IntLanes); }
inline Lanes to_float(IntLanes x) { return __builtin_convertvector(x, Lanes); }
inline IntLanes less(Lanes a, Lanes b) { return -(a < b); }
inline IntLanes less(IntLanes a, IntLanes b) { return -(a < b); }
inline Lanes keep_if_equal(IntLanes a, IntLanes b, Lanes x) { return a == b ? x : Lanes{}; }
inline Lanes bits_to_float(IntLanes x) { return reinterpret_cast<Lanes>(x); }

inline Vec<8>::Int to_int(Row8 x) { return __builtin_convertvector(x, Vec<8>::Int); }
inline Row8 bits_to_float(Vec<8>::Int x) { return reinterpret_cast<Row8>(x); }

inline float sum(Row8 v) {
  float x[8];
  store<8>(x, v);
  const Vec<4>::Float low = load<4>(x) + load<4>(x + 4);
  return (low[0] + low[2]) + (low[1] + low[3]);
}

inline float maximum(Row8 v) {
  float x[8];
  store<8>(x, v);
  const Vec<4>::Float low = load<4>(x), high = load<4>(x + 4);
  const Vec<4>::Float most = low > high ? low : high;
  const float a = most[0] > most[2] ? most[0] : most[2];
  const float b = most[1] > most[3] ? most[1] : most[3];
  return a > b ? a : b;
}

}  // namespace wsss
