// Kernels of the label-conditioned logits, except for the matrix products; their counterparts on
// the CPU are in cpu/label_conditioned_kernel.h. Row t * S + k belongs to tap t and label k of a
// share of S labels. One thread per element, sums in a fixed order and no atomics: results do not
// depend on scheduling. T is the tensors' type, sums are Wide<T>.
#pragma once

#include <cstdint>

#include "../math/taps.h"

#include "element_type.cuh"

namespace wsss::cuda {

// Taps in device memory. Shifts fit 32 bits, since those that leave the map are dropped.
struct DeviceTaps {
  int32_t count;
  const int32_t *dy, *dx;  // [T]
  const int32_t* first;    // [T + 1]
  const int32_t* source;   // [first[T]]
};

// Numbers passed as a kernel's argument: unlike a copy from the host they need no memory that must
// outlive the call, so that it can be captured in a CUDA graph.
struct Numbers {
  static constexpr int32_t kMax = 256;
  int32_t value[kMax];
};

__global__ static void store_numbers(Numbers numbers, int32_t count, int32_t* to) {
  const int32_t i = static_cast<int32_t>(threadIdx.x);
  if (i < count) to[i] = numbers.value[i];
}

// weight [R, K, C, cells] -> packed [T * S, C]
template <class T>
__global__ void pack_weight(HeadShape s, DeviceTaps taps, LabelShare share, const T* weight,
                            T* packed) {
  const int64_t i = thread_number();
  if (i >= taps.count * share.count() * s.channels) return;
  const int64_t row = i / s.channels, c = i % s.channels, t = row / share.count();
  const int64_t k = share.first + row % share.count();
  Wide<T> sum = 0;
  for (int32_t j = taps.first[t]; j < taps.first[t + 1]; ++j) {
    const int64_t branch = taps.source[j] / s.cells, cell = taps.source[j] % s.cells;
    sum +=
        static_cast<Wide<T>>(weight[((branch * s.labels + k) * s.channels + c) * s.cells + cell]);
  }
  packed[i] = static_cast<T>(sum);
}

// packed [T * K, C] of gradients -> grad [R, K, C, cells]. Merged taps have the same gradient;
// cells whose shift leaves the map are not written.
template <class T>
__global__ void unpack_weight(HeadShape s, DeviceTaps taps, const Wide<T>* packed, T* grad) {
  const int64_t i = thread_number();
  if (i >= taps.count * s.labels * s.channels) return;
  const int64_t row = i / s.channels, c = i % s.channels, t = row / s.labels, k = row % s.labels;
  for (int32_t j = taps.first[t]; j < taps.first[t + 1]; ++j) {
    const int64_t branch = taps.source[j] / s.cells, cell = taps.source[j] % s.cells;
    grad[((branch * s.labels + k) * s.channels + c) * s.cells + cell] = static_cast<T>(packed[i]);
  }
}

// packed [rows, C], scale [images, C] -> scaled [images, rows, C]
template <class T>
__global__ void scale_weight(int64_t images, int64_t rows, int64_t channels, const T* packed,
                             const T* scale, T* scaled) {
  const int64_t i = thread_number();
  if (i >= images * rows * channels) return;
  const int64_t c = i % channels, image = i / (rows * channels);
  const Wide<T> factor = static_cast<Wide<T>>(scale[image * channels + c]);
  scaled[i] = static_cast<T>(static_cast<Wide<T>>(packed[i % (rows * channels)]) * factor);
}

// responses [images, T * S, h*w], bias [R, K] -> logits of the share, in [images, K, h, w]
template <class T>
__global__ void add_shifted(HeadShape s, DeviceTaps taps, LabelShare share, int64_t images,
                            const T* responses, const T* bias, T* logits) {
  const int64_t i = thread_number(), pixels = s.pixels(), labels = share.count();
  if (i >= images * labels * pixels) return;
  const int64_t pixel = i % pixels, k = i / pixels % labels, image = i / (pixels * labels);
  const int64_t y = pixel / s.width, x = pixel % s.width;
  Wide<T> sum = 0;
  for (int64_t r = 0; r < s.branches; ++r) {
    sum += static_cast<Wide<T>>(bias[r * s.labels + share.first + k]);
  }
  for (int32_t t = 0; t < taps.count; ++t) {
    const int64_t sy = y + taps.dy[t], sx = x + taps.dx[t];
    if (sy < 0 || sy >= s.height || sx < 0 || sx >= s.width) continue;
    sum += static_cast<Wide<T>>(
        responses[((image * taps.count + t) * labels + k) * pixels + sy * s.width + sx]);
  }
  logits[(image * s.labels + share.first + k) * pixels + pixel] = static_cast<T>(sum);
}

// The transpose: grad [images, K, h, w] -> gradients [images, T * K, h*w], zero
// where the shift leaves the map.
template <class T>
__global__ void gather_shifted(HeadShape s, DeviceTaps taps, int64_t images, const T* grad,
                               T* gradients) {
  const int64_t i = thread_number(), pixels = s.pixels();
  if (i >= images * taps.count * s.labels * pixels) return;
  const int64_t pixel = i % pixels, row = i / pixels;
  const int64_t k = row % s.labels, t = row / s.labels % taps.count,
                image = row / (s.labels * taps.count);
  const int64_t y = pixel / s.width - taps.dy[t], x = pixel % s.width - taps.dx[t];
  const bool on_map = y >= 0 && y < s.height && x >= 0 && x < s.width;
  gradients[i] =
      on_map ? grad[(image * s.labels + k) * pixels + y * s.width + x] : static_cast<T>(0.0f);
}

// product [images, rows, C]: d loss / d (scaled weights); sum [rows, C] += sum over images of
// product * scale. A null scale is 1; `start` sets the sum to zero first.
template <class T>
__global__ void add_products(int64_t images, int64_t rows, int64_t channels, const T* product,
                             const T* scale, bool start, Wide<T>* sum) {
  const int64_t i = thread_number();
  if (i >= rows * channels) return;
  Wide<T> total = start ? Wide<T>(0) : sum[i];
  for (int64_t image = 0; image < images; ++image) {
    const Wide<T> one = static_cast<Wide<T>>(product[image * rows * channels + i]);
    total += scale ? one * static_cast<Wide<T>>(scale[image * channels + i % channels]) : one;
  }
  sum[i] = total;
}

constexpr int kScaleChannels = 32, kScaleParts = 8;  // the block of scale_gradient

// grad_scale [images, C] = sum over rows of packed * product. Blocks of kScaleChannels x
// kScaleParts threads, the grid is channels by images.
template <class T>
__global__ void scale_gradient(int64_t rows, int64_t channels, const T* packed, const T* product,
                               T* grad_scale) {
  __shared__ Wide<T> part[kScaleParts][kScaleChannels];
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kScaleChannels + threadIdx.x,
                image = blockIdx.y;
  Wide<T> sum = 0;
  if (c < channels) {
    for (int64_t row = threadIdx.y; row < rows; row += kScaleParts) {
      sum += static_cast<Wide<T>>(packed[row * channels + c]) *
             static_cast<Wide<T>>(product[(image * rows + row) * channels + c]);
    }
  }
  part[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && c < channels) {
    for (int i = 1; i < kScaleParts; ++i) sum += part[i][threadIdx.x];
    grad_scale[image * channels + c] = static_cast<T>(sum);
  }
}

constexpr int kBiasThreads = 256;

// grad_bias [R, K] = sum over images and pixels of grad [images, K, h, w], the same for every
// branch. One block per label.
template <class T>
__global__ void bias_gradient(HeadShape s, int64_t images, const T* grad, T* grad_bias) {
  __shared__ Wide<T> part[kBiasThreads];
  const int64_t k = blockIdx.x, pixels = s.pixels();
  Wide<T> sum = 0;
  for (int64_t i = threadIdx.x; i < images * pixels; i += kBiasThreads) {
    sum += static_cast<Wide<T>>(grad[(i / pixels * s.labels + k) * pixels + i % pixels]);
  }
  part[threadIdx.x] = sum;
  __syncthreads();
  for (int step = kBiasThreads / 2; step > 0; step /= 2) {
    if (static_cast<int>(threadIdx.x) < step) part[threadIdx.x] += part[threadIdx.x + step];
    __syncthreads();
  }
  for (int64_t r = threadIdx.x; r < s.branches; r += kBiasThreads) {
    grad_bias[r * s.labels + k] = static_cast<T>(part[0]);
  }
}

}  // namespace wsss::cuda
