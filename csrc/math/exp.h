// exp(x) for x <= 0, on vectors of floats; the polynomial of Cephes'
// expf, relative error below 2e-7.
#pragma once

#include <cmath>

#include "scalar.h"

namespace wsss {

// Below this, exp_negative returns 0: the result would be under 1e-20, and zeros keep slow
// denormal numbers out of the lattice.
constexpr float kExpFloor = -46.0f;

template <class T>
inline T exp_negative(T x) {
  const auto visible = x > kExpFloor;
  const T bounded = visible ? x : T{} + kExpFloor;
  const T n = round_even(bounded * 1.44269504088896341f);
  // ln 2 in two parts, the first exact in 15 bits (Cody and Waite).
  const T r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
  T p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const T scale = bits_to_float((to_int(n) + 127) << 23);
  return visible ? p * scale : x < T{} ? T{} : x;  // -infinity becomes 0, NaN stays
}
inline double exp_negative(double x) { return std::exp(x); }

}  // namespace wsss
