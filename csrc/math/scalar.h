// The operations with which csrc/math serves both floats and vectors of floats. cpu/simd.h adds the
// overloads for vectors. It must be included before math/exp.h and math/lattice.h, because
// argument-dependent lookup does not find functions for built-in vector types.
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
