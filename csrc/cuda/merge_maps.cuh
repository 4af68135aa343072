// Class maps of a batch of images from outputs of several views. All views and both sizes of the
// maps are computed by one kernel, a thread per pixel: what it reads again is in the caches. The
// views' shapes are kernel arguments; which channels are wanted is copied to the device as
// arguments of a kernel, too: a copy from pageable memory would wait for the device.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "bilinear.cuh"
#include "merge_maps.h"

namespace wsss::cuda {

struct OutputViews {
  int count;
  OutputView at[kMostViews];
};

// The wanted maps ("rows"), those of an image one after the other. On the device.
struct WantedRows {
  int64_t count;
  const int32_t* channel;  // [count]
  const int32_t* image;    // [count]
  const int32_t* first;    // [images + 1]: the rows of an image are first[i]..first[i + 1]
};

// What a kernel's arguments can carry besides others: 4 KB in all.
constexpr int kCarried = 960;
struct Carried {
  int32_t value[kCarried];
};

__global__ void store_values(Carried values, int64_t count, int32_t* to) {
  const int64_t i = thread_number();
  if (i < count) to[i] = values.value[i];
}

// A pixel of the small or the full maps; pixels of the small maps come first.
struct MapPixel {
  bool small;
  int64_t at;  // y * width + x
};
__device__ __forceinline__ MapPixel map_pixel(int64_t pixel, const MapSize& small) {
  const int64_t smalls = small.height * small.width;
  return {pixel < smalls, pixel < smalls ? pixel : pixel - smalls};
}

// The view of an image plus that of its mirror image, mirrored back, resized, at a pixel.
template <class T>
__device__ __forceinline__ Wide<T> resized_pair(const OutputView& view, int64_t image,
                                                int64_t images, int64_t channel,
                                                const MapSize& size, int64_t y, int64_t x) {
  using Real = Wide<T>;
  const auto row = bilinear_source<Real>(y, view.height, size.resized_height);
  const auto column = bilinear_source<Real>(x, view.width, size.resized_width);
  const T* from =
      static_cast<const T*>(view.data) + image * view.image_stride + channel * view.channel_stride;
  const T* mirrored = from + images * view.image_stride;
  return row.read([&](int64_t v) {
    const int64_t start = v * view.row_stride;
    return column.read([&](int64_t u) {
      return static_cast<Real>(from[start + u * view.column_stride]) +
             static_cast<Real>(mirrored[start + (view.width - 1 - u) * view.column_stride]);
    });
  });
}

// small, full [rows, height, width] = the sum over all views
template <class T>
__global__ void sum_views(OutputViews views, int64_t images, WantedRows rows, MapSize small_size,
                          MapSize full_size, Wide<T>* small, Wide<T>* full) {
  const int64_t smalls = small_size.height * small_size.width,
                fulls = full_size.height * full_size.width;
  const int64_t i = thread_number();
  if (i >= rows.count * (smalls + fulls)) return;
  const int64_t r = i / (smalls + fulls);
  const MapPixel pixel = map_pixel(i % (smalls + fulls), small_size);
  const MapSize& size = pixel.small ? small_size : full_size;
  const int64_t y = pixel.at / size.width, x = pixel.at % size.width;
  Wide<T> sum = 0;
  for (int v = 0; v < views.count; ++v) {
    sum += resized_pair<T>(views.at[v], rows.image[r], images, rows.channel[r], size, y, x);
  }
  (pixel.small ? small : full)[r * (pixel.small ? smalls : fulls) + pixel.at] = sum;
}

// small, full [rows, height, width] = the softmax over `channels` channels of the mean over all
// views; with `present_only` over those of an image's rows.
template <class T>
__global__ void softmax_views(OutputViews views, int64_t images, int64_t channels,
                              bool present_only, WantedRows rows, MapSize small_size,
                              MapSize full_size, Wide<T>* small, Wide<T>* full) {
  using Real = Wide<T>;
  const int64_t smalls = small_size.height * small_size.width,
                fulls = full_size.height * full_size.width;
  const int64_t i = thread_number();
  if (i >= images * (smalls + fulls)) return;
  const int64_t image = i / (smalls + fulls);
  const int32_t first = rows.first[image], last = rows.first[image + 1];
  if (first == last) return;
  const MapPixel pixel = map_pixel(i % (smalls + fulls), small_size);
  const MapSize& size = pixel.small ? small_size : full_size;
  const int64_t y = pixel.at / size.width, x = pixel.at % size.width;
  auto mean = [&](int64_t channel) {
    Real sum = 0;
    for (int v = 0; v < views.count; ++v) {
      sum += resized_pair<T>(views.at[v], image, images, channel, size, y, x) / 2;
    }
    return sum / static_cast<Real>(views.count);
  };
  // Maximum and sum in one pass; repeating the interpolation is cheaper than storing its results.
  Real top = lowest(Real(0)), sum = 0;
  const int64_t terms = present_only ? last - first : channels;
  for (int64_t k = 0; k < terms; ++k) {
    const Real z = mean(present_only ? rows.channel[first + k] : k);
    if (z > top) {
      sum = sum * exponential(top - z) + 1;
      top = z;
    } else {
      sum += exponential(z - top);
    }
  }
  sum += top - top;  // an infinite maximum gives NaN, as in PyTorch
  for (int32_t r = first; r < last; ++r) {
    (pixel.small ? small : full)[r * (pixel.small ? smalls : fulls) + pixel.at] =
        exponential(mean(rows.channel[r]) - top) / sum;
  }
}

// Minimum and maximum of some values; NaN if one of them is NaN, as in PyTorch.
template <class Real>
struct Extremes {
  Real low, high;

  __device__ __forceinline__ void include(const Extremes& other) {
    low = other.low < low || other.low != other.low ? other.low : low;
    high = other.high > high || other.high != other.high ? other.high : high;
  }
};
template <class Real>
__device__ __forceinline__ Extremes<Real> no_extremes() {
  return {static_cast<Real>(INFINITY), static_cast<Real>(-INFINITY)};
}

constexpr int kMostParts = 32;  // of a map; each one's extremes are computed by a block
constexpr int64_t kPartPixels = 4 * kThreads;

// extremes [rows, sizes, parts]; maps of both sizes, or of the full one if `small` is null.
template <class Real>
__global__ void find_extremes(int parts, int64_t smalls, int64_t fulls, const Real* small,
                              const Real* full, Extremes<Real>* extremes) {
  __shared__ Real lows[kThreads], highs[kThreads];
  const int64_t sizes = small ? 2 : 1, map = blockIdx.x / parts, part = blockIdx.x % parts;
  const bool is_full = map % sizes == sizes - 1;
  const int64_t pixels = is_full ? fulls : smalls;
  const Real* values = (is_full ? full : small) + map / sizes * pixels;
  Extremes<Real> own = no_extremes<Real>();
  for (int64_t i = part * kThreads + threadIdx.x; i < pixels; i += parts * kThreads) {
    own.include({values[i], values[i]});
  }
  lows[threadIdx.x] = own.low, highs[threadIdx.x] = own.high;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) {
      own.include({lows[threadIdx.x + half], highs[threadIdx.x + half]});
      lows[threadIdx.x] = own.low, highs[threadIdx.x] = own.high;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) extremes[blockIdx.x] = own;
}

enum class Scaling { kNone, kMaximum, kRange };  // kRange: where the mask is not 0

constexpr int kPerThread = 8;  // pixels, so that few threads read the extremes of a map's parts

// Maps, masks and values of one size; maps and values may be the same memory.
template <class Real, class Out>
struct MapsOfSize {
  int64_t pixels;       // of a map
  const uint8_t* mask;  // [images, pixels], only for kRange
  const Real* values;   // [rows, pixels]
  Out* maps;            // [rows, pixels]

  WSSS_HD int64_t threads() const { return (pixels + kPerThread - 1) / kPerThread; }
};

// The maps of both sizes from their values; extremes [rows, sizes, parts]. Without small maps,
// small has no pixels.
template <class Real, class Out>
__global__ void scale_maps(Scaling scaling, WantedRows rows, const Extremes<Real>* extremes,
                           int parts, MapsOfSize<Real, Out> small, MapsOfSize<Real, Out> full) {
  const int64_t all_threads = small.threads() + full.threads(), i = thread_number();
  if (i >= rows.count * all_threads) return;
  const int64_t r = i / all_threads, thread = i % all_threads;
  const bool is_full = thread >= small.threads();
  const int64_t sizes = small.pixels > 0 ? 2 : 1, map = r * sizes + (is_full ? sizes - 1 : 0);
  const MapsOfSize<Real, Out>& of = is_full ? full : small;
  Extremes<Real> all = no_extremes<Real>();
  for (int p = 0; scaling != Scaling::kNone && p < parts; ++p) {
    all.include(extremes[map * parts + p]);
  }
  const Real low = scaling == Scaling::kRange ? all.low : Real(0);
  const Real range = all.high - low + static_cast<Real>(1e-5);
  for (int64_t at = is_full ? thread - small.threads() : thread; at < of.pixels;
       at += of.threads()) {
    const Real value = of.values[r * of.pixels + at];
    const bool scaled = scaling == Scaling::kMaximum ||
                        (scaling == Scaling::kRange && of.mask[rows.image[r] * of.pixels + at]);
    of.maps[r * of.pixels + at] = static_cast<Out>(scaled ? (value - low) / range : value);
  }
}

}  // namespace wsss::cuda
