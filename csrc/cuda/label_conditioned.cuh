// Kernels of the label-conditioned logits, except for the matrix products; their counterparts on
// the CPU are in cpu/label_conditioned_kernel.h. Row t * S + k belongs to tap t and label k of a
// share of S labels. Sums have a fixed order and there are no atomics: results do not depend on
// scheduling. T is the tensors' type, sums are Wide<T>. Blocks are numbered by what would otherwise
// have to be divided (labels, images, channels).
#pragma once

#include <cstdint>

#include "../math/taps.h"

#include "element_type.cuh"

namespace wsss::cuda {

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

// The taps, passed as an argument where they fit, otherwise a table in device memory. Shifts fit 32
// bits, since those that leave the map are dropped.
struct DeviceTaps {
  Numbers numbers;
  const int32_t* table;  // null: they are in `numbers`
  int32_t count, sources;

  __device__ __forceinline__ int32_t at(int32_t i) const {
    return table ? table[i] : numbers.value[i];
  }
  __device__ __forceinline__ int32_t dy(int32_t t) const { return at(t); }
  __device__ __forceinline__ int32_t dx(int32_t t) const { return at(count + t); }
  // A tap's first source; t <= count.
  __device__ __forceinline__ int32_t first(int32_t t) const { return at(2 * count + t); }
  __device__ __forceinline__ int32_t source(int32_t j) const { return at(3 * count + 1 + j); }
  // The tap of a source (branch * cells + cell), or -1 for a shift that leaves the map.
  __device__ __forceinline__ int32_t tap(int32_t source) const {
    return at(3 * count + 1 + sources + source);
  }
};

// Calls use(i) for i = `first`, `first` + `step`, ... below `end`: dimensions of a grid are
// limited.
template <class Use>
__device__ __forceinline__ void strided(int64_t first, int64_t step, int64_t end, Use use) {
  for (int64_t i = first; i < end; i += step) use(i);
}

// weight [R, K, C, cells], scale [images, C] or null -> packed [images, T * K, C]: the sum of each
// tap's sources, times the scale. The grid is rows by blocks of channels.
template <class T>
__global__ void pack_weight(HeadShape s, DeviceTaps taps, int64_t images, const T* weight,
                            const T* scale, T* packed) {
  const int64_t c = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  if (c >= s.channels) return;
  const int32_t labels = static_cast<int32_t>(s.labels), row = static_cast<int32_t>(blockIdx.x),
                t = row / labels, k = row % labels;
  Wide<T> sum = 0;
  for (int32_t j = taps.first(t); j < taps.first(t + 1); ++j) {
    const int32_t cells = static_cast<int32_t>(s.cells), source = taps.source(j);
    const int64_t at = (static_cast<int64_t>(source / cells) * labels + k) * s.channels + c;
    sum += static_cast<Wide<T>>(weight[at * cells + source % cells]);
  }
  const int64_t step = static_cast<int64_t>(gridDim.x) * s.channels;
  T* to = packed + row * s.channels + c;
  for (int64_t image = 0; image < images; ++image) {
    to[image * step] =
        static_cast<T>(scale ? sum * static_cast<Wide<T>>(scale[image * s.channels + c]) : sum);
  }
}

constexpr int kUnpackChannels = 128, kMaxCells = 9;

// product [parts, T * S, C]: parts of the gradient of the packed weights of a share of labels.
// grad [R, K, C, cells] = their sum, each times scale [parts, C] unless null; zero for cells whose
// shift leaves the map. The grid is branches * S by blocks of kUnpackChannels channels.
template <class T>
__global__ void unpack_weight(HeadShape s, DeviceTaps taps, LabelShare share, int64_t parts,
                              const T* product, const T* scale, T* grad) {
  __shared__ Wide<T> tile[kUnpackChannels * kMaxCells];
  const int32_t labels = static_cast<int32_t>(share.count()), cells = static_cast<int32_t>(s.cells),
                branch = static_cast<int32_t>(blockIdx.x) / labels,
                k = static_cast<int32_t>(blockIdx.x) % labels,
                own = static_cast<int32_t>(threadIdx.x);
  const int64_t c0 = static_cast<int64_t>(blockIdx.y) * kUnpackChannels, c = c0 + own;
  const int64_t step = static_cast<int64_t>(taps.count) * labels * s.channels;
  for (int32_t cell = 0; cell < cells && c < s.channels; ++cell) {
    const int32_t t = taps.tap(branch * cells + cell);
    Wide<T> sum = 0;
    const T* from = product + (static_cast<int64_t>(t) * labels + k) * s.channels + c;
    for (int64_t part = 0; t >= 0 && part < parts; ++part) {
      const Wide<T> one = static_cast<Wide<T>>(from[part * step]);
      sum += scale ? one * static_cast<Wide<T>>(scale[part * s.channels + c]) : one;
    }
    tile[own * cells + cell] = sum;
  }
  __syncthreads();
  // The gradients of a block's channels are contiguous.
  const int64_t left = s.channels - c0;
  const int32_t n = cells * static_cast<int32_t>(left < kUnpackChannels ? left : kUnpackChannels);
  T* to = grad + ((branch * s.labels + share.first + k) * s.channels + c0) * cells;
  for (int32_t i = own; i < n; i += kUnpackChannels) to[i] = static_cast<T>(tile[i]);
}

// responses [images, T * K, step >= h*w], bias [R, K] -> logits [images, K, h, w]. With one tap the
// responses may be the logits themselves. The grid is blocks of pixels by labels by images.
template <class T>
__global__ void add_shifted(HeadShape s, DeviceTaps taps, int64_t images, int64_t step,
                            const T* responses, const T* bias, T* logits) {
  const int32_t height = static_cast<int32_t>(s.height), width = static_cast<int32_t>(s.width);
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pixel >= s.pixels()) return;
  const int32_t y = static_cast<int32_t>(pixel) / width, x = static_cast<int32_t>(pixel) % width;
  strided(blockIdx.z, gridDim.z, images, [&](int64_t image) {
    strided(blockIdx.y, gridDim.y, s.labels, [&](int64_t k) {
      Wide<T> sum = 0;
      for (int64_t r = 0; r < s.branches; ++r) sum += static_cast<Wide<T>>(bias[r * s.labels + k]);
      const T* from = responses + (image * taps.count * s.labels + k) * step + pixel;
      for (int32_t t = 0; t < taps.count; ++t) {
        const int32_t dy = taps.dy(t), dx = taps.dx(t), sy = y + dy, sx = x + dx;
        if (sy < 0 || sy >= height || sx < 0 || sx >= width) continue;
        sum +=
            static_cast<Wide<T>>(from[t * s.labels * step + static_cast<int64_t>(dy) * width + dx]);
      }
      logits[(image * s.labels + k) * s.pixels() + pixel] = static_cast<T>(sum);
    });
  });
}

// The transpose: grad [images, K, h, w] -> gradients of the T * S rows of a share, zero where the
// shift leaves the map; rows are `row_step` apart and images `step`. The same grid.
template <class T>
__global__ void gather_shifted(HeadShape s, DeviceTaps taps, LabelShare share, int64_t images,
                               int64_t step, int64_t row_step, const T* grad, T* gradients) {
  const int32_t height = static_cast<int32_t>(s.height), width = static_cast<int32_t>(s.width);
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pixel >= s.pixels()) return;
  const int32_t y = static_cast<int32_t>(pixel) / width, x = static_cast<int32_t>(pixel) % width;
  strided(blockIdx.z, gridDim.z, images, [&](int64_t image) {
    strided(blockIdx.y, gridDim.y, share.count(), [&](int64_t k) {
      const T* from = grad + (image * s.labels + share.first + k) * s.pixels() + pixel;
      T* to = gradients + image * step + k * row_step + pixel;
#pragma unroll 4
      for (int32_t t = 0; t < taps.count; ++t) {
        const int32_t dy = taps.dy(t), dx = taps.dx(t), sy = y - dy, sx = x - dx;
        const bool on_map = sy >= 0 && sy < height && sx >= 0 && sx < width;
        to[t * share.count() * row_step] =
            on_map ? from[-(static_cast<int64_t>(dy) * width + dx)] : static_cast<T>(0.0f);
      }
    });
  });
}

// from [rows, V * packs] -> to: each row times its number in scale [rows], or, with kByColumn, each
// column times scale [rows / rows_per_image, V * packs]. The block is a row_block.
template <bool kByColumn, int V, class T>
__global__ void scale_rows(int64_t rows, int64_t packs, int64_t rows_per_image, const T* from,
                           const T* scale, T* to) {
  strided(row_number(), row_count(), rows, [&](int64_t row) {
    const T* factor = kByColumn ? scale + row / rows_per_image * packs * V : scale + row;
    strided(threadIdx.x, blockDim.x, packs, [&](int64_t i) {
      const int64_t at = (row * packs + i) * V;
      Pack<V, T> x = load<V>(from + at);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const Wide<T> by = static_cast<Wide<T>>(factor[kByColumn ? i * V + v : 0]);
        x.at[v] = static_cast<T>(static_cast<Wide<T>>(x.at[v]) * by);
      }
      store(to + at, x);
    });
  });
}

constexpr int kTile = 32, kTileRows = 8;  // the block of turn_features is kTile by kTileRows

// features [images, C, P] -> turned [images, P, C], times scale [images, C] unless null. The grid
// is tiles of pixels by tiles of channels by images.
template <class T>
__global__ void turn_features(int64_t images, int64_t channels, int64_t pixels, const T* features,
                              const T* scale, T* turned) {
  __shared__ Wide<T> tile[kTile][kTile + 1];
  const int own = static_cast<int>(threadIdx.x), first = static_cast<int>(threadIdx.y);
  const int64_t p0 = static_cast<int64_t>(blockIdx.x) * kTile;
  strided(blockIdx.z, gridDim.z, images, [&](int64_t image) {
    strided(blockIdx.y, gridDim.y, (channels + kTile - 1) / kTile, [&](int64_t block) {
      const int64_t c0 = block * kTile;
      for (int i = first; i < kTile; i += kTileRows) {
        const int64_t row = image * channels + c0 + i;
        if (c0 + i >= channels || p0 + own >= pixels) continue;
        const Wide<T> x = static_cast<Wide<T>>(features[row * pixels + p0 + own]);
        tile[i][own] = scale ? x * static_cast<Wide<T>>(scale[row]) : x;
      }
      __syncthreads();
      for (int i = first; i < kTile; i += kTileRows) {
        if (p0 + i >= pixels || c0 + own >= channels) continue;
        turned[(image * pixels + p0 + i) * channels + c0 + own] = static_cast<T>(tile[own][i]);
      }
      __syncthreads();
    });
  });
}

constexpr int kWarp = 32, kWarps = 8;  // the blocks of the next kernels are kWarp by kWarps

// gradient [rows, V * packs] of the scaled features, of which each row belongs to one channel of an
// image: grad_scale [rows], unless null, is the sum of gradient * features, and the gradient is
// multiplied by the scale. One warp per row.
template <int V, class T>
__global__ void finish_rows(int64_t rows, int64_t packs, const T* features, const T* scale,
                            T* gradient, T* grad_scale) {
  __shared__ Wide<T> part[kWarps][kWarp];
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  Wide<T> sum = 0;
  if (row < rows) {
    const Wide<T> factor = static_cast<Wide<T>>(scale[row]);
#pragma unroll 2
    for (int64_t i = lane; i < packs; i += kWarp) {
      const int64_t at = (row * packs + i) * V;
      Pack<V, T> g = load<V>(gradient + at);
      if (grad_scale) {
        const Pack<V, T> x = load<V>(features + at);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          sum += static_cast<Wide<T>>(x.at[v]) * static_cast<Wide<T>>(g.at[v]);
        }
      }
#pragma unroll
      for (int v = 0; v < V; ++v) {
        g.at[v] = static_cast<T>(static_cast<Wide<T>>(g.at[v]) * factor);
      }
      store(gradient + at, g);
    }
  }
  part[warp][lane] = sum;
  __syncthreads();
  if (lane != 0 || row >= rows || !grad_scale) return;
  for (int i = 1; i < kWarp; ++i) sum += part[warp][i];
  grad_scale[row] = static_cast<T>(sum);
}

// The same for gradient [images, P, V * packs] in channels-last order; scale and grad_scale are
// [images, V * packs]. The grid is blocks of kWarp packs by images.
template <int V, class T>
__global__ void finish_columns(int64_t images, int64_t pixels, int64_t packs, const T* features,
                               const T* scale, T* gradient, T* grad_scale) {
  __shared__ Wide<T> part[kWarps][V][kWarp];
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  strided(blockIdx.y, gridDim.y, images, [&](int64_t image) {
    Wide<T> sum[V] = {};
    if (pack < packs) {
      const Pack<V, T> factor = load<V>(scale + (image * packs + pack) * V);
#pragma unroll 4
      for (int64_t p = warp; p < pixels; p += kWarps) {
        const int64_t at = ((image * pixels + p) * packs + pack) * V;
        Pack<V, T> g = load<V>(gradient + at);
        const Pack<V, T> x = load<V>(features + at);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const Wide<T> one = static_cast<Wide<T>>(g.at[v]);
          sum[v] += static_cast<Wide<T>>(x.at[v]) * one;
          g.at[v] = static_cast<T>(one * static_cast<Wide<T>>(factor.at[v]));
        }
        store(gradient + at, g);
      }
    }
#pragma unroll
    for (int v = 0; v < V; ++v) part[warp][v][lane] = sum[v];
    __syncthreads();
    if (warp == 0 && pack < packs && grad_scale) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        for (int i = 1; i < kWarps; ++i) sum[v] += part[i][v][lane];
        grad_scale[(image * packs + pack) * V + v] = static_cast<T>(sum[v]);
      }
    }
    __syncthreads();
  });
}

// grad_bias [R, K] = sum over images and pixels of grad [images, K, h, w], the same for every
// branch. One block per label, of which each warp sums every kWarps-th image.
template <class T>
__global__ void bias_gradient(HeadShape s, int64_t images, const T* grad, T* grad_bias) {
  constexpr int kThreadsInAll = kWarp * kWarps;
  __shared__ Wide<T> part[kThreadsInAll];
  const int own = static_cast<int>(threadIdx.y) * kWarp + static_cast<int>(threadIdx.x);
  const int64_t k = blockIdx.x, pixels = s.pixels();
  Wide<T> sum = 0;
  for (int64_t image = threadIdx.y; image < images; image += kWarps) {
    const T* from = grad + (image * s.labels + k) * pixels;
#pragma unroll 8
    for (int64_t i = threadIdx.x; i < pixels; i += kWarp) sum += static_cast<Wide<T>>(from[i]);
  }
  part[own] = sum;
  __syncthreads();
  for (int step = kThreadsInAll / 2; step > 0; step /= 2) {
    if (own < step) part[own] += part[own + step];
    __syncthreads();
  }
  for (int64_t r = own; r < s.branches; r += kThreadsInAll) {
    grad_bias[r * s.labels + k] = static_cast<T>(part[0]);
  }
}

}  // namespace wsss::cuda
