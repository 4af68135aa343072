// Bilinear resizing and softmax or sigmoid: one thread per pixel of the result, which reads the
// four cells around it. The gradient of a cell is gathered from the pixels that read it, in a fixed
// order: with float atomics, as in torch's upsample_bilinear2d_backward, runs would differ.
#pragma once

#include <cstdint>

#include "bilinear.cuh"
#include "block_sum.cuh"

namespace wsss::cuda {

// logits [images, K, h, w] -> result [images, K, H, W]
template <class T>
__global__ void resize_and_activate(ResizeShape s, int64_t images, bool softmax, const T* logits,
                                    T* result) {
  using Real = Wide<T>;
  const int64_t i = thread_number(), cells = s.height * s.width,
                pixels = s.out_height * s.out_width;
  if (i >= images * pixels) return;
  const int64_t pixel = i % pixels, image = i / pixels;
  const auto row = bilinear_source<Real>(pixel / s.out_width, s.height, s.out_height);
  const auto column = bilinear_source<Real>(pixel % s.out_width, s.width, s.out_width);
  const T* from = logits + image * s.labels * cells;
  T* to = result + image * s.labels * pixels + pixel;
  auto resized = [&](int64_t k) {
    auto at = [&](int64_t y, int64_t x) {
      return static_cast<Real>(from[k * cells + y * s.width + x]);
    };
    return row.read([&](int64_t y) { return column.read([&](int64_t x) { return at(y, x); }); });
  };
  if (!softmax) {
    for (int64_t k = 0; k < s.labels; ++k) {
      to[k * pixels] = static_cast<T>(1 / (1 + exponential(-resized(k))));
    }
    return;
  }
  // Maximum and sum in one pass; repeating the interpolation is cheaper than storing its results.
  Real top = lowest(Real(0)), sum = 0;
  for (int64_t k = 0; k < s.labels; ++k) {
    const Real z = resized(k);
    if (z > top) {
      sum = sum * exponential(top - z) + 1;
      top = z;
    } else {
      sum += exponential(z - top);
    }
  }
  sum += top - top;  // an infinite maximum gives NaN, as in PyTorch
  for (int64_t k = 0; k < s.labels; ++k) {
    to[k * pixels] = static_cast<T>(exponential(resized(k) - top) / sum);
  }
}

// inner [images, H, W] = sum over k of grad * result, which the gradient of softmax subtracts.
template <class T>
__global__ void sum_products(int64_t images, int64_t labels, int64_t pixels, const T* grad,
                             const T* result, Wide<T>* inner) {
  const int64_t i = thread_number();
  if (i >= images * pixels) return;
  const int64_t start = i / pixels * labels * pixels + i % pixels;
  Wide<T> sum = 0;
  for (int64_t k = 0; k < labels; ++k) {
    sum += static_cast<Wide<T>>(grad[start + k * pixels]) *
           static_cast<Wide<T>>(result[start + k * pixels]);
  }
  inner[i] = sum;
}

// The sum of every `stride`-th term of a logit's gradient, which comes from the pixels that read
// it. `inner` is null for the sigmoid.
template <class T>
__device__ __forceinline__ double gradient_terms(const ResizeShape& s, int64_t at, const T* grad,
                                                 const T* result, const Wide<T>* inner,
                                                 int64_t first, int64_t stride) {
  using Real = Wide<T>;
  const int64_t x = at % s.width, y = at / s.width % s.height, plane = at / (s.width * s.height);
  const int64_t pixels = s.out_height * s.out_width;
  const PixelRange rows = pixels_reading(y, s.height, s.out_height),
                   columns = pixels_reading(x, s.width, s.out_width);
  const int64_t wide = columns.last - columns.first, count = (rows.last - rows.first) * wide;
  double sum = 0;
  for (int64_t i = first; i < count; i += stride) {
    const int64_t row = rows.first + i / wide, column = columns.first + i % wide,
                  pixel = row * s.out_width + column;
    const auto of_row = use_of<Real>(y, row, s.height, s.out_height),
               of_column = use_of<Real>(x, column, s.width, s.out_width);
    if (!of_row.reads || !of_column.reads) continue;
    const Real share = of_row.weight * of_column.weight;
    const Real g = static_cast<Real>(grad[plane * pixels + pixel]),
               p = static_cast<Real>(result[plane * pixels + pixel]);
    const Real slope = inner ? g - inner[plane / s.labels * pixels + pixel] : g * (1 - p);
    sum += static_cast<double>(share * (slope * p));
  }
  return sum;
}

// grad_logits [images, K, h, w], `logits` values: one thread per value, for few pixels per cell ...
template <class T>
__global__ void gather_cells(ResizeShape s, int64_t logits, const T* grad, const T* result,
                             const Wide<T>* inner, T* grad_logits) {
  const int64_t at = thread_number();
  if (at < logits) {
    grad_logits[at] =
        static_cast<T>(static_cast<Wide<T>>(gradient_terms<T>(s, at, grad, result, inner, 0, 1)));
  }
}

// ... or one block of kSumThreads for one value after another.
template <class T>
__global__ void gather_cells_by_block(ResizeShape s, int64_t logits, const T* grad, const T* result,
                                      const Wide<T>* inner, T* grad_logits) {
  for (int64_t at = blockIdx.x; at < logits; at += gridDim.x) {
    const double sum =
        block_sum(gradient_terms<T>(s, at, grad, result, inner, threadIdx.x, kSumThreads));
    if (threadIdx.x == 0) grad_logits[at] = static_cast<T>(static_cast<Wide<T>>(sum));
    __syncthreads();  // block_sum's memory is reused
  }
}

}  // namespace wsss::cuda
