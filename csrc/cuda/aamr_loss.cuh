// The activation-aware mask refinement loss and its gradient: one thread per pixel. Regions of
// salient pixels are found by a lock-free union-find over pixels; the root of a region is its first
// pixel, so that results do not depend on the order of threads. One block finds the regions of a
// small image; for large ones there is a kernel for each step.
#pragma once

#include <cmath>
#include <cstdint>

#include "../math/aamr_loss.h"
#include "../math/nearest.h"

#include "block_sum.cuh"
#include "class_sums.cuh"

namespace wsss::cuda {

constexpr int kNotSalient = -1;    // instead of a parent
constexpr int kSmallImage = 4096;  // pixels of an image whose regions one block finds
constexpr int kRegionThreads = 1024;

template <class Real>
struct AamrInput {
  AamrShape s;
  Real salient, active;
  double overlap;
  const Real *saliency, *response;  // [B, H, W], [B, H', W']
};

// Pixels of the regions where the loss is taken, and values that are invalid.
struct RegionTotals {
  double inside, invalid;
};

// The value of a map [B, H, W] at pixel `at` of an image of the logits' size (nearest resizing).
template <class Real>
__device__ __forceinline__ Real nearest_value(const Real* map, int64_t map_height,
                                              int64_t map_width, const AamrShape& s, int64_t image,
                                              int64_t at) {
  const int64_t row = at / s.width, y = nearest_source(row, map_height, s.height),
                x = nearest_source(at - row * s.width, map_width, s.width);
  return map[(image * map_height + y) * map_width + x];
}

struct PixelMarks {
  bool salient, active, invalid;
};
template <class Real>
__device__ __forceinline__ PixelMarks marks_of(const AamrInput<Real>& in, int64_t image,
                                               int64_t at) {
  const AamrShape& s = in.s;
  const Real shown = nearest_value(in.saliency, s.saliency_height, s.saliency_width, s, image, at);
  const Real activation =
      nearest_value(in.response, s.response_height, s.response_width, s, image, at);
  return {shown >= in.salient, activation >= in.active,
          !(shown >= 0 && shown <= 1 && activation == activation)};
}

// The regions of a call while they are found.
struct RegionWork {
  int* parents;  // [B, h, w]: of salient pixels, numbered within their image of fewer than 2^31
  int* sizes;    // [B, h, w, 2]: area and active pixels of each region, at its first pixel
  RegionTotals* parts;  // [blocks]; of large images
  int* tickets;         // [2]: of choose_regions and compute_region_losses
};

// Other threads may write at the same time; whatever is read belongs to the same region, and only
// roots change their tree. Each pixel on the way gets its parent's parent, so that ways stay short.
__device__ __forceinline__ int first_of_region(int* parent, int i) {
  for (int next = parent[i]; next != i;) {
    const int after = parent[next];
    parent[i] = after;
    i = next;
    next = after;
  }
  return i;
}

// Joins a salient pixel of an image with its salient neighbours to the left and above, corners
// included.
__device__ __forceinline__ void join_neighbours(const AamrShape& s, int* parent, int64_t at) {
  const int64_t y = at / s.width, x = at - y * s.width;
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

// Adds a salient pixel to the size of its region, and sets the region's first pixel as its parent.
__device__ __forceinline__ void measure_pixel(int* parent, int* sizes, int at, bool active) {
  const int first = first_of_region(parent, at);
  parent[at] = first;
  atomicAdd(sizes + 2 * first, 1);
  if (active) atomicAdd(sizes + 2 * first + 1, 1);
}

// Whether the loss is taken at a pixel, from its parent and the sizes of its image's regions.
__device__ __forceinline__ bool is_chosen(int parent, const int* sizes, bool active,
                                          double overlap) {
  if (parent == kNotSalient) return !active;
  return is_labelled(sizes[2 * parent], sizes[2 * parent + 1], overlap);
}

// region [B, h, w]: 1 where the loss is taken; totals [B]; one block of kRegionThreads for each
// image. Also sets the ticket of the next kernel to 0.
template <class Real>
__global__ void __launch_bounds__(kRegionThreads, 1)
    find_small_regions(AamrInput<Real> in, RegionWork work, unsigned char* region,
                       RegionTotals* totals) {
  const int pixels = static_cast<int>(in.s.pixels()), thread = static_cast<int>(threadIdx.x);
  const int64_t image = blockIdx.x;
  int *parent = work.parents + image * pixels, *sizes = work.sizes + 2 * image * pixels;
  region += image * pixels;
  int invalid = 0, inside = 0;
  for (int at = thread; at < pixels; at += kRegionThreads) {
    const PixelMarks marks = marks_of(in, image, at);
    parent[at] = marks.salient ? at : kNotSalient;
    sizes[2 * at] = sizes[2 * at + 1] = 0;
    region[at] = marks.active;
    invalid += marks.invalid;
  }
  __syncthreads();
  for (int at = thread; at < pixels; at += kRegionThreads) {
    if (parent[at] != kNotSalient) join_neighbours(in.s, parent, at);
  }
  __syncthreads();
  for (int at = thread; at < pixels; at += kRegionThreads) {
    if (parent[at] != kNotSalient) measure_pixel(parent, sizes, at, region[at]);
  }
  __syncthreads();
  for (int at = thread; at < pixels; at += kRegionThreads) {
    region[at] = is_chosen(parent[at], sizes, region[at], in.overlap);
    inside += region[at];
  }
  const double all_inside = block_sum<kRegionThreads>(inside);
  __syncthreads();  // block_sum's memory is reused
  const double all_invalid = block_sum<kRegionThreads>(invalid);
  if (thread == 0) totals[image] = {all_inside, all_invalid};
  if (thread == 0 && image == 0) work.tickets[1] = 0;
}

// Each salient pixel is a region; region [B, h, w]: for now, 1 where the response is active.
// kSumThreads threads per block.
template <class Real>
__global__ void mark_pixels(AamrInput<Real> in, RegionWork work, unsigned char* region) {
  const int64_t i = thread_number(), plane = in.s.pixels();
  bool invalid = false;
  if (i < in.s.images * plane) {
    const int64_t image = i / plane, at = i - image * plane;
    const PixelMarks marks = marks_of(in, image, at);
    work.parents[i] = marks.salient ? static_cast<int>(at) : kNotSalient;
    work.sizes[2 * i] = work.sizes[2 * i + 1] = 0;
    region[i] = marks.active;
    invalid = marks.invalid;
  }
  const double sum = block_sum(invalid);
  if (threadIdx.x == 0) work.parts[blockIdx.x].invalid = sum;
  if (i < 2) work.tickets[i] = 0;
}

__global__ static void join_regions(AamrShape s, int* parents) {
  const int64_t i = thread_number(), plane = s.pixels();
  if (i >= s.images * plane || parents[i] == kNotSalient) return;
  const int64_t start = i / plane * plane;
  join_neighbours(s, parents + start, i - start);
}

__global__ static void measure_regions(AamrShape s, RegionWork work, const unsigned char* active) {
  const int64_t i = thread_number(), plane = s.pixels();
  if (i >= s.images * plane || work.parents[i] == kNotSalient) return;
  const int64_t start = i / plane * plane;
  measure_pixel(
      work.parents + start, work.sizes + 2 * start, static_cast<int>(i - start), active[i]);
}

// region: 1 where the loss is taken; *totals of all images. kSumThreads threads per block.
__global__ static void choose_regions(AamrShape s, double overlap, RegionWork work,
                                      unsigned char* region, RegionTotals* totals) {
  const int64_t i = thread_number(), plane = s.pixels();
  bool inside = false;
  if (i < s.images * plane) {
    inside = is_chosen(work.parents[i], work.sizes + 2 * (i / plane * plane), region[i], overlap);
    region[i] = inside;
  }
  double all_inside = block_sum(inside), all_invalid = 0;
  if (threadIdx.x == 0) work.parts[blockIdx.x].inside = all_inside;
  if (!is_last_block(work.tickets, gridDim.x)) return;
  all_inside = 0;
  for (unsigned block = threadIdx.x; block < gridDim.x; block += kSumThreads) {
    all_inside += work.parts[block].inside;
    all_invalid += work.parts[block].invalid;
  }
  all_inside = block_sum(all_inside);
  __syncthreads();  // block_sum's memory is reused
  all_invalid = block_sum(all_invalid);
  if (threadIdx.x == 0) *totals = {all_inside, all_invalid};
}

// Where the results go.
template <class Real>
struct AamrOutput {
  Real* grad;     // [B, K, h, w]
  double* parts;  // of the loss, of each block
  int* ticket;
  Real* loss;
};

// The sum of `count` totals, for all threads of the block.
__device__ __forceinline__ RegionTotals sum_totals(const RegionTotals* totals, int64_t count) {
  __shared__ RegionTotals all;
  RegionTotals sum{};
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) {
    sum.inside += totals[i].inside;
    sum.invalid += totals[i].invalid;
  }
  if (count == 1) {  // without the sums over threads
    if (threadIdx.x == 0) all = sum;
    __syncthreads();
    return all;
  }
  const double inside = block_sum(sum.inside);
  __syncthreads();  // block_sum's memory is reused
  const double invalid = block_sum(sum.invalid);
  if (threadIdx.x == 0) all = {inside, invalid};
  __syncthreads();
  return all;
}

// The gradient and the loss, from `count` totals; kSumThreads threads per block.
template <class T>
__global__ void compute_region_losses(AamrInput<Wide<T>> in, const T* logits,
                                      const unsigned char* region, const RegionTotals* totals,
                                      int64_t count, AamrOutput<Wide<T>> out) {
  using Real = Wide<T>;
  const AamrShape& s = in.s;
  const RegionTotals all = sum_totals(totals, count);
  const int64_t i = thread_number(), plane = s.pixels();
  double part = 0;
  if (i < s.images * plane) {
    const int64_t image = i / plane, at = i - image * plane,
                  place = image * s.channels * plane + at;
    if (!region[i]) {
      for (int64_t k = 0; k < s.channels; ++k) out.grad[place + k * plane] = 0;
    } else {
      const T* z = logits + place;
      const auto sums = class_sums<T>(z + plane, plane, s.channels - 1);
      const Real log_odds = sums.top - static_cast<Real>(z[0]) + logarithm(sums.exponentials);
      const Real small = exponential(log_odds > 0 ? -log_odds : log_odds);
      const Real shown =
          nearest_value(in.saliency, s.saliency_height, s.saliency_width, s, image, at);
      const auto term = aamr_term<Real>(log_odds, shown, small, static_cast<Real>(log1p(small)));
      part = static_cast<double>(term.loss) / all.inside;
      const Real slope = term.slope * static_cast<Real>(1 / all.inside),
                 inverse = 1 / sums.exponentials;
      out.grad[place] = -slope;
      for (int64_t k = 1; k < s.channels; ++k) {
        out.grad[place + k * plane] =
            slope * (exponential(static_cast<Real>(z[k * plane]) - sums.top) * inverse);
      }
    }
  }
  sum_blocks(part, out.parts, blockIdx.x, gridDim.x, out.ticket, 1.0, all.invalid > 0, out.loss);
}

}  // namespace wsss::cuda
