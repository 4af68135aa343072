// Bilinear resizing and softmax or sigmoid: one thread a pixel of the result, which reads the four cells around it.
#pragma once

#include <cfloat>
#include <cstdint>

#include "../math/bilinear.h"

#include "wide.cuh"

namespace wsss {

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float lowest(float) { return -FLT_MAX; }
__device__ __forceinline__ double lowest(double) { return -DBL_MAX; }

// logits [images, K, h, w] -> result [images, K, H, W]
template <class T>
__global__ void resize_and_activate(ResizeShape s, int64_t images, bool softmax, const T* logits, T* result) {
  using Real = Wide<T>;
  const int64_t i = thread_number(), cells = s.height * s.width, pixels = s.out_height * s.out_width;
  if (i >= images * pixels) return;
  const int64_t pixel = i % pixels, image = i / pixels;
  const auto row = bilinear_source<Real>(pixel / s.out_width, s.height, s.out_height);
  const auto column = bilinear_source<Real>(pixel % s.out_width, s.width, s.out_width);
  const T* from = logits + image * s.labels * cells;
  T* to = result + image * s.labels * pixels + pixel;
  auto mixed = [&](int64_t k) {
    auto at = [&](int64_t y, int64_t x) { return static_cast<Real>(from[k * cells + y * s.width + x]); };
    const Real low = (1 - column.fraction) * at(row.low, column.low) + column.fraction * at(row.low, column.high);
    const Real high = (1 - column.fraction) * at(row.high, column.low) + column.fraction * at(row.high, column.high);
    return (1 - row.fraction) * low + row.fraction * high;
  };
  if (!softmax) {
    for (int64_t k = 0; k < s.labels; ++k) to[k * pixels] = static_cast<T>(1 / (1 + exponential(-mixed(k))));
    return;
  }
  // Maximum and sum in one pass; the mixing is cheaper to repeat than to keep.
  Real top = lowest(Real(0)), sum = 0;
  for (int64_t k = 0; k < s.labels; ++k) {
    const Real z = mixed(k);
    if (z > top) {
      sum = sum * exponential(top - z) + 1;
      top = z;
    } else {
      sum += exponential(z - top);
    }
  }
  sum += top - top;  // an infinite maximum makes NaN, as in PyTorch
  for (int64_t k = 0; k < s.labels; ++k) to[k * pixels] = static_cast<T>(exponential(mixed(k) - top) / sum);
}

}  // namespace wsss
