// PAR and PAMR: the weights of all neighbours of a pixel are computed once and stored; a step reads
// those of its pixel into registers and applies them to every mask. Blocks are tiles, so that most
// neighbours are in the L1 cache.
#pragma once

#include <cmath>
#include <cstdint>

#include "../math/pixel_adaptive_refine.h"

#include "launch.cuh"

namespace wsss::cuda {

constexpr int kTileWidth = 32, kTileHeight = 16;
constexpr int kMasksInStep = 2;

// Rows and columns to the neighbours at a dilation. They are no larger than the image, beyond whose
// border all neighbours are equal.
struct Offset {
  int y, x;
};
struct Dilation {
  Offset offset;
  PositionWeights position;
};
constexpr int kDilationsPerLaunch = 32;
struct DilationList {
  Dilation at[kDilationsPerLaunch];
};

// A chunk of images on the device.
struct RefineArrays {
  int64_t images, channels, masks;
  int height, width, dilations;
  bool pamr;
  Dilation* table;  // [dilations]
  float* weights;   // [images, 8 dilations, height, width]
  float* scales;    // [images, channels, height, width], of differences

  WSSS_HD int64_t area() const { return int64_t{height} * width; }
  WSSS_HD int neighbours() const { return kRing * dilations; }
};

// A block works on a tile of one image, for one group of masks. Blocks are numbered by image, tile
// and group, so that those that read the same weights follow each other.
WSSS_HD int64_t tiles_across(int64_t width) { return (width + kTileWidth - 1) / kTileWidth; }
WSSS_HD int64_t tiles_of(int64_t height, int64_t width) {
  return (height + kTileHeight - 1) / kTileHeight * tiles_across(width);
}

// A thread's pixel of images of this size, which may lie outside, and its group.
struct TilePixel {
  int64_t image, y, x, group;

  __device__ __forceinline__ TilePixel(int64_t height, int64_t width, int64_t groups = 1) {
    const int64_t across = tiles_across(width), tiles = tiles_of(height, width),
                  place = blockIdx.x / groups, tile = place % tiles;
    group = blockIdx.x % groups;
    image = place / tiles;
    y = tile / across * kTileHeight + threadIdx.y;
    x = tile % across * kTileWidth + threadIdx.x;
  }
};

// Rows and columns of the neighbours, at -1, 0 and 1 times the dilation, as offsets in a plane. An
// unsigned sum of two is extended to an address by one instruction, a signed one by four.
struct Ring {
  unsigned row[3], column[3];

  Ring() = default;
  __device__ __forceinline__ Ring(int y, int x, Offset by, int height, int width) {
    const int rows[] = {y > by.y ? y - by.y : 0, y, by.y < height - 1 - y ? y + by.y : height - 1},
              columns[] = {x > by.x ? x - by.x : 0, x, by.x < width - 1 - x ? x + by.x : width - 1};
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      row[i] = static_cast<unsigned>(rows[i] * width);
      column[i] = static_cast<unsigned>(columns[i]);
    }
  }
  __device__ __forceinline__ unsigned at(int k) const {
    return row[ring_y(k) + 1] + column[ring_x(k) + 1];
  }
};

// Writes `count` entries of the table; one thread each.
__global__ static void store_dilations(DilationList list, int count, Dilation* to) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < count) to[i] = list.at[i];
}

// The standard deviation of a channel around a pixel: of its neighbours, for PAMR also of the pixel
// itself, once per dilation.
__device__ __forceinline__ float deviation(const RefineArrays& a, const float* plane, int y,
                                           int x) {
  const float own = plane[y * a.width + x];
  const auto repeats = static_cast<float>(a.pamr ? a.dilations : 0),
             count = static_cast<float>(a.neighbours()) + repeats;
  float sum = repeats * own, squares = 0;
  for (int d = 0; d < a.dilations; ++d) {
    const Ring ring(y, x, a.table[d].offset, a.height, a.width);
#pragma unroll
    for (int k = 0; k < kRing; ++k) sum += plane[ring.at(k)];
  }
  const float mean = sum / count;
  squares = repeats * (own - mean) * (own - mean);
  for (int d = 0; d < a.dilations; ++d) {
    const Ring ring(y, x, a.table[d].offset, a.height, a.width);
#pragma unroll
    for (int k = 0; k < kRing; ++k) {
      const float difference = plane[ring.at(k)] - mean;
      squares = multiply_add(difference, difference, squares);
    }
  }
  return sqrtf(squares / (count - 1));
}

// One thread per pixel of each image.
__global__ static void __launch_bounds__(kTileWidth* kTileHeight)
    refine_weights(RefineArrays a, const float* image) {
  const TilePixel pixel(a.height, a.width);
  if (pixel.y >= a.height || pixel.x >= a.width) return;
  const int y = static_cast<int>(pixel.y), x = static_cast<int>(pixel.x), own = y * a.width + x;
  const int64_t area = a.area();
  const float* planes = image + pixel.image * a.channels * area;
  float* scales = a.scales + pixel.image * a.channels * area + own;
#pragma unroll 1
  for (int64_t c = 0; c < a.channels; ++c) {
    scales[c * area] = colour_scale(deviation(a, planes + c * area, y, x), a.pamr);
  }
  float* weight = a.weights + pixel.image * a.neighbours() * area + own;
  // The sum of exponentials, relative to the largest so far.
  float highest = -INFINITY, sum = 0;
  for (int d = 0; d < a.dilations; ++d) {
    const Ring ring(y, x, a.table[d].offset, a.height, a.width);
    float distance[kRing] = {};
#pragma unroll 1
    for (int64_t c = 0; c < a.channels; ++c) {
      const float* plane = planes + c * area;
      const float centre = plane[own], scale = scales[c * area];
#pragma unroll
      for (int k = 0; k < kRing; ++k) {
        distance[k] += colour_distance((plane[ring.at(k)] - centre) * scale, a.pamr);
      }
    }
#pragma unroll
    for (int k = 0; k < kRing; ++k) {
      const float logit = -distance[k] / static_cast<float>(a.channels);
      weight[(kRing * d + k) * area] = logit;
      if (logit > highest) {
        sum = sum * expf(highest - logit) + 1;
        highest = logit;
      } else {
        sum += expf(logit - highest);  // a NaN stays
      }
    }
  }
  const float by = 1 / sum;
  for (int d = 0; d < a.dilations; ++d) {
    const PositionWeights position = a.table[d].position;
#pragma unroll
    for (int k = 0; k < kRing; ++k) {
      float& w = weight[(kRing * d + k) * area];
      w = multiply_add(expf(w - highest), by, a.pamr ? 0.0f : position.at(k));
    }
  }
}

// A value of which the compiler knows nothing: it would compute the places of all neighbours ahead
// of a loop, for which there are no registers.
__device__ __forceinline__ unsigned computed_here(unsigned x) {
#ifdef __CUDACC__
  asm volatile("" : "+r"(x));
#endif
  return x;
}

// Neighbours at dilations [first, first + D) of `a.table`, whose offsets are known to the host.
template <int D>
struct DilationsOfStep {
  int64_t first;
  Offset offsets[D];
};

// Adds the weighted neighbours in M planes, one after the other, to `sum`.
template <int M, int D>
__device__ __forceinline__ void add_neighbours(const float (&weight)[kRing * D],
                                               const Ring (&rings)[D], const float* planes,
                                               int64_t area, float (&sum)[M]) {
#pragma unroll
  for (int d = 0; d < D; ++d) {
    Ring ring = rings[d];
    for (unsigned& row : ring.row) row = computed_here(row);
#pragma unroll
    for (int i = 0; i < kRing; ++i) {
      const unsigned at = ring.at(i);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        sum[m] = multiply_add(weight[kRing * d + i], (planes + m * area)[at], sum[m]);
      }
    }
  }
}

// to = sum of weights times neighbours, added to what earlier dilations gave. One thread per pixel
// of each image and group of masks.
template <int D>
__global__ void __launch_bounds__(kTileWidth* kTileHeight)
    refine_step(RefineArrays a, DilationsOfStep<D> dilations, int64_t groups, int64_t group_size,
                const float* from, float* to) {
  const TilePixel pixel(a.height, a.width, groups);
  if (pixel.y >= a.height || pixel.x >= a.width) return;
  const int y = static_cast<int>(pixel.y), x = static_cast<int>(pixel.x), own = y * a.width + x;
  const int64_t area = a.area();
  const float* weights =
      a.weights + (pixel.image * a.neighbours() + kRing * dilations.first) * area + own;
  float weight[kRing * D];
#pragma unroll
  for (int n = 0; n < kRing * D; ++n) weight[n] = weights[n * area];
  Ring rings[D];
#pragma unroll
  for (int d = 0; d < D; ++d) rings[d] = {y, x, dilations.offsets[d], a.height, a.width};
  const int64_t first = pixel.group * group_size,
                last = first + group_size < a.masks ? first + group_size : a.masks,
                plane = (pixel.image * a.masks + first) * area;
  const float* values = from + plane;
  float* result = to + plane + own;
  const bool adds = dilations.first > 0;
  int64_t k = first;
  for (; k + kMasksInStep <= last; k += kMasksInStep) {
    float sum[kMasksInStep];
#pragma unroll
    for (int m = 0; m < kMasksInStep; ++m) sum[m] = adds ? result[m * area] : 0.0f;
    add_neighbours(weight, rings, values, area, sum);
#pragma unroll
    for (int m = 0; m < kMasksInStep; ++m) result[m * area] = sum[m];
    values += kMasksInStep * area;
    result += kMasksInStep * area;
  }
  for (; k < last; ++k, values += area, result += area) {
    float sum[1] = {adds ? *result : 0.0f};
    add_neighbours(weight, rings, values, area, sum);
    *result = sum[0];
  }
}

// The transposed step. Gradients are first collected in planes that extend beyond the image by the
// largest dilation, then those outside are added to the pixel of the border that they repeat. So
// every sum has a fixed order and needs no atomic operations.
struct ExtendedPlanes {
  int64_t above, left, height, width;  // `height` and `width` include the extension
  float* values;                       // [images, masks, height, width]
};

constexpr int kMasksTogether = 8;

// One thread per pixel of the extended planes of each image and group of masks.
__global__ static void __launch_bounds__(kTileWidth* kTileHeight, 1)
    collect_gradient(RefineArrays a, ExtendedPlanes to, int64_t groups, const float* grad) {
  const TilePixel pixel(to.height, to.width, groups);
  if (pixel.y >= to.height || pixel.x >= to.width) return;
  const int64_t area = a.area(), first = pixel.group * kMasksTogether;
  const float* weight = a.weights + pixel.image * a.neighbours() * area;
  const float* values = grad + (pixel.image * a.masks + first) * area;
  float sum[kMasksTogether] = {};
  for (int d = 0; d < a.dilations; ++d) {
    const Dilation dilation = a.table[d];
#pragma unroll
    for (int i = 0; i < kRing; ++i, weight += area) {
      const int64_t y = pixel.y - to.above - ring_y(i) * dilation.offset.y,
                    x = pixel.x - to.left - ring_x(i) * dilation.offset.x;
      if (y < 0 || y >= a.height || x < 0 || x >= a.width) continue;
      const int64_t at = y * a.width + x;
      const float w = weight[at];
#pragma unroll
      for (int k = 0; k < kMasksTogether; ++k) {
        if (first + k < a.masks) sum[k] = multiply_add(w, values[k * area + at], sum[k]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kMasksTogether; ++k) {
    if (first + k >= a.masks) return;
    const int64_t plane = (pixel.image * a.masks + first + k) * to.height * to.width;
    to.values[plane + pixel.y * to.width + pixel.x] = sum[k];
  }
}

// One thread per pixel of each mask.
__global__ static void fold_gradient(RefineArrays a, ExtendedPlanes from, float* grad) {
  const int64_t i = thread_number();
  if (i >= a.images * a.masks * a.area()) return;
  const int64_t x = i % a.width, y = i / a.width % a.height, plane = i / a.area();
  const int64_t top = y == 0 ? 0 : y + from.above, left = x == 0 ? 0 : x + from.left,
                bottom = y == a.height - 1 ? from.height : y + from.above + 1,
                right = x == a.width - 1 ? from.width : x + from.left + 1;
  const float* values = from.values + plane * from.height * from.width;
  float sum = 0;
  for (int64_t v = top; v < bottom; ++v) {
    for (int64_t u = left; u < right; ++u) sum += values[v * from.width + u];
  }
  grad[i] = sum;
}

}  // namespace wsss::cuda
