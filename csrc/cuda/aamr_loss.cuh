// The activation-aware mask refinement loss and its gradient: one thread per pixel. Regions of
// salient pixels are found by a lock-free union-find over pixels; the root of a region is its first
// pixel, so that results do not depend on the order of threads.
#pragma once

#include <cmath>
#include <cstdint>

#include "../math/aamr_loss.h"
#include "../math/nearest.h"

#include "block_sum.cuh"
#include "class_sums.cuh"

namespace wsss::cuda {

constexpr int kNotSalient = -1;  // instead of a parent

// The value of a map [B, H, W] at pixel `at` of an image of the logits' size (nearest resizing).
template <class Real>
__device__ __forceinline__ Real nearest_value(const Real* map, int64_t map_height,
                                              int64_t map_width, const AamrShape& s, int64_t image,
                                              int64_t at) {
  const int64_t y = nearest_source(at / s.width, map_height, s.height),
                x = nearest_source(at % s.width, map_width, s.width);
  return map[(image * map_height + y) * map_width + x];
}

// Pixels are numbered within their image, which has fewer than 2^31 of them. Other threads may
// write at the same time; whatever is read belongs to the same region.
__device__ __forceinline__ int first_of_region(const int* parent, int i) {
  while (parent[i] != i) i = parent[i];
  return i;
}

// parent [B, h, w]: each salient pixel for itself; region [B, h, w]: for now, 1
// where the response is active.
template <class Real>
__global__ void mark_pixels(AamrShape s, Real salient, Real active, const Real* saliency,
                            const Real* response, int* parent, unsigned char* region,
                            int* invalid) {
  const int64_t i = thread_number(), plane = s.pixels();
  if (i >= s.images * plane) return;
  const int64_t image = i / plane, at = i % plane;
  const Real shown = nearest_value(saliency, s.saliency_height, s.saliency_width, s, image, at);
  const Real activation =
      nearest_value(response, s.response_height, s.response_width, s, image, at);
  if (!(shown >= 0 && shown <= 1 && activation == activation)) atomicAdd(invalid, 1);
  parent[i] = shown >= salient ? static_cast<int>(at) : kNotSalient;
  region[i] = activation >= active;
}

// Joins a salient pixel with its salient neighbours to the left and above, corners included.
__global__ static void join_regions(AamrShape s, int* parents) {
  const int64_t i = thread_number(), plane = s.pixels();
  if (i >= s.images * plane || parents[i] == kNotSalient) return;
  int* parent = parents + i / plane * plane;
  const int64_t at = i % plane, y = at / s.width, x = at % s.width;
  const int64_t steps[4][2] = {{0, -1}, {-1, -1}, {-1, 0}, {-1, 1}};
  for (const auto& step : steps) {
    const int64_t v = y + step[0], u = x + step[1];
    if (v < 0 || u < 0 || u >= s.width || parent[v * s.width + u] == kNotSalient) continue;
    int a = static_cast<int>(at), b = static_cast<int>(v * s.width + u);
    while (true) {
      a = first_of_region(parent, a);
      b = first_of_region(parent, b);
      if (a == b) break;
      const int later = a > b ? a : b, earlier = a > b ? b : a;
      const int seen = atomicCAS(parent + later, later, earlier);
      if (seen == later) break;
      a = seen, b = earlier;  // another thread was faster; go on from what it wrote
    }
  }
}

// sizes [B, h, w, 2], zero before: area and active pixels of each region, at its first pixel.
__global__ static void measure_regions(AamrShape s, const int* parents, const unsigned char* active,
                                       int* sizes) {
  const int64_t i = thread_number(), plane = s.pixels();
  if (i >= s.images * plane || parents[i] == kNotSalient) return;
  const int64_t start = i / plane * plane;
  int* size = sizes + 2 * (start + first_of_region(parents + start, static_cast<int>(i - start)));
  atomicAdd(size, 1);
  if (active[i]) atomicAdd(size + 1, 1);
}

// region: 1 where the loss is taken; parts: the number of those pixels in each block.
// kSumThreads threads per block.
__global__ static void choose_region(AamrShape s, double overlap, const int* parents,
                                     const int* sizes, unsigned char* region, double* parts) {
  const int64_t i = thread_number(), plane = s.pixels();
  bool inside = false;
  if (i < s.images * plane) {
    inside = !region[i];
    if (parents[i] != kNotSalient) {
      const int64_t start = i / plane * plane;
      const int* size =
          sizes + 2 * (start + first_of_region(parents + start, static_cast<int>(i - start)));
      inside = is_labelled(size[0], size[1], overlap);
    }
    region[i] = inside;
  }
  const double count = block_sum(inside);
  if (threadIdx.x == 0) parts[blockIdx.x] = count;
}

// The gradient, and the sum of each block's losses; `count`: pixels of the regions.
// kSumThreads threads per block.
template <class T>
__global__ void compute_region_losses(AamrShape s, const T* logits, const Wide<T>* saliency,
                                      const unsigned char* region, const double* count,
                                      Wide<T>* grad, double* parts) {
  using Real = Wide<T>;
  const int64_t i = thread_number(), plane = s.pixels();
  double part = 0;
  if (i < s.images * plane) {
    const int64_t image = i / plane, at = i % plane, place = image * s.channels * plane + at;
    if (!region[i]) {
      for (int64_t k = 0; k < s.channels; ++k) grad[place + k * plane] = 0;
    } else {
      const T* z = logits + place;
      const auto sums = class_sums<T>(z + plane, plane, s.channels - 1);
      const Real log_odds = sums.top - static_cast<Real>(z[0]) + logarithm(sums.exponentials);
      const Real small = exponential(log_odds > 0 ? -log_odds : log_odds);
      const Real shown = nearest_value(saliency, s.saliency_height, s.saliency_width, s, image, at);
      const auto term = aamr_term<Real>(log_odds, shown, small, static_cast<Real>(log1p(small)));
      part = static_cast<double>(term.loss) / *count;
      const Real slope = term.slope * static_cast<Real>(1 / *count),
                 inverse = 1 / sums.exponentials;
      grad[place] = -slope;
      for (int64_t k = 1; k < s.channels; ++k) {
        grad[place + k * plane] =
            slope * (exponential(static_cast<Real>(z[k * plane]) - sums.top) * inverse);
      }
    }
  }
  part = block_sum(part);
  if (threadIdx.x == 0) parts[blockIdx.x] = part;
}

}  // namespace wsss::cuda
