// The few operations that csrc/math writes once for float and for vectors of float. cpu/simd.h adds
// the overloads for vectors; it must come before any template of csrc/math, because built-in
// vectors have no namespace to be found in.
#pragma once

#ifdef __CUDACC__
#define WSSS_HD __host__ __device__ __forceinline__
#else
#define WSSS_HD inline
#endif

namespace wsss {

WSSS_HD int to_int(float x) { return static_cast<int>(x); }
WSSS_HD float to_float(int x) { return static_cast<float>(x); }
WSSS_HD int less(float a, float b) { return a < b; }
WSSS_HD int less(int a, int b) { return a < b; }
WSSS_HD float keep_if_equal(int a, int b, float x) { return a == b ? x : 0.0f; }

// Nearest even, for |x| < 2^22 (the caller bounds the coordinates).
template <class F>
WSSS_HD F round_even(F x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23
  return (x + magic) - magic;
}

}  // namespace wsss
