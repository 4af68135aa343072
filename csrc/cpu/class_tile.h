// Values of all classes for 64 pixels: a block with which per-pixel losses stay in the L1 cache.
// Classes are far apart in memory, often by a power of two, so that reading them more than once
// where they are would evict them.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "simd.h"

#include "../math/exp.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace wsss {

template <class V, class Real>
V read(const Real* p) {
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <class V, class Real>
void write(Real* p, V v) {
  std::memcpy(p, &v, sizeof(v));
}

// a * b + c, rounded once where the machine can.
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
  return reinterpret_cast<Lanes>(_mm512_fmadd_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#else
  return a * b + c;
#endif
}
inline Lanes multiply_add(Lanes a, float b, Lanes c) { return multiply_add(a, Lanes{} + b, c); }
inline Lanes multiply_add(Lanes a, Lanes b, float c) { return multiply_add(a, b, Lanes{} + c); }
inline Lanes multiply_add(Lanes a, float b, float c) {
  return multiply_add(a, Lanes{} + b, Lanes{} + c);
}
inline double multiply_add(double a, double b, double c) { return a * b + c; }

// exp(x) for x <= 0 by exp_negative's polynomial; unlike there, NaN stays NaN, and -infinity gives
// 0.
inline Lanes exp_of(Lanes x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: the sum's lowest bits are the rounded quotient
  const Lanes shifted = multiply_add(x, 1.44269504088896341f, magic);
  const Lanes n = shifted - magic;
  const Lanes r = multiply_add(n, 2.12194440e-4f, multiply_add(n, -0.693359375f, x));
  Lanes p = multiply_add(r, 1.9875691500e-4f, 1.3981999507e-3f);
  p = multiply_add(p, r, 8.3334519073e-3f);
  p = multiply_add(p, r, 4.1665795894e-2f);
  p = multiply_add(p, r, 1.6666665459e-1f);
  p = multiply_add(p, r, 5.0000001201e-1f);
  p = multiply_add(p, r * r, r) + 1.0f;
#if defined(__AVX512F__)
  // p 2^n, NaN for NaN; 0 where x <= the floor.
  const __mmask16 above =
      _mm512_cmp_ps_mask(reinterpret_cast<__m512>(x), _mm512_set1_ps(kExpFloor), _CMP_NLE_UQ);
  return reinterpret_cast<Lanes>(
      _mm512_maskz_scalef_ps(above, reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(n)));
#else
  // Adds n to the exponent of p.
  const IntLanes power =
      reinterpret_cast<IntLanes>(p) + (reinterpret_cast<IntLanes>(shifted) << 23);
  return x <= kExpFloor ? Lanes{} : x == x ? reinterpret_cast<Lanes>(power) : x;
#endif
}
inline double exp_of(double x) { return std::exp(x); }

// log(x) for 1 <= x < 2^126; the polynomial of Cephes' logf, error below 2e-7 of the result + 1.
inline Lanes log_of(Lanes x) {
  const IntLanes bits = reinterpret_cast<IntLanes>(x);
  const Lanes raw = bits_to_float((bits & 0x7fffff) | 0x3f800000);
  const auto above = raw > 1.41421356f;
  const Lanes r = (above ? raw * 0.5f : raw) - 1.0f;
  const Lanes n = to_float((bits >> 23) - 127) + (above ? Lanes{} + 1.0f : Lanes{});
  Lanes p = r * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  const Lanes square = r * r;
  // ln 2 in two parts, as in exp_negative.
  return ((p * r * square - n * 2.12194440e-4f) - 0.5f * square) + r + n * 0.693359375f;
}
inline double log_of(double x) { return std::log(x); }

template <class Real>
struct ClassTile {
  static constexpr int64_t kPixels = 64;
  using V = typename SimdOf<Real>::V;
  static constexpr int64_t kStep = SimdOf<Real>::kCount;

  explicit ClassTile(int64_t classes) : classes(classes), values(classes * kPixels) {}

  Real* row(int64_t k) { return values.data() + k * kPixels; }
  const Real* row(int64_t k) const { return values.data() + k * kPixels; }

  // Loads `count` pixels and zeros the rest; classes are `plane` elements apart in memory.
  void load(const Real* from, int64_t plane, int64_t count) {
    for (int64_t k = 0; k < classes; ++k) {
      copy(row(k), from + k * plane, count);
      std::fill(row(k) + count, row(k) + kPixels, Real(0));
    }
  }

  // Prefetches a tile that will be read or written. The hardware does not: each
  // class is a stream of its own.
  void prefetch(const Real* from, int64_t plane, int64_t count) const {
    for (int64_t k = 0; k < classes; ++k) {
      for (int64_t x = 0; x < count; x += 64 / sizeof(Real)) {
        __builtin_prefetch(from + k * plane + x, 0, 2);
      }
    }
  }

  void store(Real* to, int64_t plane, int64_t count) const {
    for (int64_t k = 0; k < classes; ++k) copy(to + k * plane, row(k), count);
  }

  // Copies `count` pixels; a whole tile without a call of memcpy.
  static void copy(Real* to, const Real* from, int64_t count) {
    if (count == kPixels) {
      for (int64_t x = 0; x < kPixels; x += kStep) write(to + x, read<V>(from + x));
    } else {
      std::memcpy(to, from, sizeof(Real) * count);
    }
  }

  // Replaces the values of the pixels [x, x + kStep) by exp(z - top), where top is the largest. A
  // NaN, or an infinite top, makes the sum NaN, as in PyTorch.
  struct Sums {
    V top, exponentials;
  };
  Sums exponentiate(int64_t x) {
    Real* const first = values.data() + x;
    const int64_t count = classes;
    V tops[4], sum{};  // four independent maxima: a single one would be a chain of dependent steps
    for (V& top : tops) top = read<V>(first);
    int64_t next = 0;
    for (; next + 4 <= count; next += 4) {
      for (int64_t i = 0; i < 4; ++i) {
        tops[i] = larger(tops[i], read<V>(first + (next + i) * kPixels));
      }
    }
    for (; next < count; ++next) tops[0] = larger(tops[0], read<V>(first + next * kPixels));
    const V top = larger(larger(tops[0], tops[1]), larger(tops[2], tops[3]));
    for (int64_t k = 0; k < count; ++k) {
      const V e = exp_of(read<V>(first + k * kPixels) - top);
      write(first + k * kPixels, e);
      sum += e;
    }
    return {top, sum};
  }

  // Replaces the values by probabilities, and stores them.
  void softmax(Real* to, int64_t plane, int64_t count) {
    V inverse[kPixels / kStep];
    for (int64_t x = 0; x < kPixels; x += kStep) {
      inverse[x / kStep] = 1 / exponentiate(x).exponentials;
    }
    for (int64_t k = 0; k < classes; ++k) {
      for (int64_t x = 0; x < kPixels; x += kStep) {
        write(row(k) + x, read<V>(row(k) + x) * inverse[x / kStep]);
      }
      copy(to + k * plane, row(k), count);
    }
  }

  static V larger(V a, V b) { return a > b ? a : b; }

  // The sum of a tile's values of one class, in eight interleaved partial sums.
  static double sum(const Real* of) {
    double parts[8] = {};
    for (int64_t x = 0; x < kPixels; x += 8) {
      for (int i = 0; i < 8; ++i) parts[i] += of[x + i];
    }
    return ((parts[0] + parts[4]) + (parts[1] + parts[5])) +
           ((parts[2] + parts[6]) + (parts[3] + parts[7]));
  }

  const int64_t classes;
  std::vector<Real> values;  // [classes, kPixels]
};

}  // namespace wsss
