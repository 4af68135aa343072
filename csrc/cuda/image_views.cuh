// Views of images on the device: a kernel computes weights and the values of all levels, one the
// first of two passes, one the last pass of each view, which writes its values. Each of them serves
// all views, since most are too small to fill a GPU.
#pragma once

#include <cstdint>

#include "../math/image_views.h"

#include "element_type.cuh"

namespace wsss::cuda {

// Where the pixels of a resized side read the source, and their weights.
struct DeviceSide {
  ResizedSide side;
  int32_t *first, *count;  // [size]
  int32_t* weights;        // [taps, size]
};

struct DeviceView {
  DeviceSide rows, columns;
  bool vertical_first;
  // After the first of two passes: [images, H, w, 3], or [images, h, W, 3] if that is the vertical
  // one; null if less than two sides change.
  uint8_t* middle;
  void* values;             // [images or 2 * images, h, w, 3]
  int64_t first_blocks[2];  // the first block for this view of first_pass and last_pass

  WSSS_HD int64_t pixels() const { return rows.side.size * columns.side.size; }
  WSSS_HD int64_t middle_pixels() const {
    return vertical_first ? rows.side.size * columns.side.source
                          : rows.side.source * columns.side.size;
  }
};

constexpr int kViews = 8;  // of one launch; its arguments hold them

struct DeviceViews {
  DeviceView at[kViews];
  int count;
  const uint8_t* images;  // [number, H, W, 3]
  int64_t number;
  bool mirror;
};

struct LevelTable {
  double mean[kChannels], std[kChannels];
  ElementType type;
  void* values;  // [3, 256]
};

__device__ __forceinline__ void write_level(const LevelTable& table, int64_t i) {
  const int channel = static_cast<int>(i / kLevels), level = static_cast<int>(i % kLevels);
  const float value = normalised_level(level, table.mean[channel], table.std[channel]);
  switch (table.type) {
    case ElementType::kFloat16: static_cast<__half*>(table.values)[i] = __half(value); return;
    case ElementType::kBFloat16:
      static_cast<__nv_bfloat16*>(table.values)[i] = __nv_bfloat16(value);
      return;
    default: static_cast<float*>(table.values)[i] = value;
  }
}

__device__ __forceinline__ void write_taps(const DeviceSide& s, int64_t i) {
  const PixelTaps pixel(s.side, i);
  const double total = pixel.total();
  s.first[i] = static_cast<int32_t>(pixel.first);
  s.count[i] = static_cast<int32_t>(pixel.last - pixel.first);
  for (int64_t j = pixel.first; j < pixel.last; ++j) {
    s.weights[(j - pixel.first) * s.side.size + i] = fixed_weight(pixel.weight(j), total);
  }
}

// One thread per level of a channel and per pixel of each side that changes.
__global__ static void prepare_views(DeviceViews views, LevelTable table) {
  int64_t i = thread_number();
  if (i < kChannels * kLevels) return write_level(table, i);
  i -= kChannels * kLevels;
  for (int v = 0; v < views.count; ++v) {
    for (const DeviceSide* s : {&views.at[v].rows, &views.at[v].columns}) {
      if (!s->side.changes()) continue;
      if (i < s->side.size) return write_taps(*s, i);
      i -= s->side.size;
    }
  }
}

// One pixel of a pass: weighted pixels that lie `step` bytes apart.
__device__ __forceinline__ void filter_pixel(const DeviceSide& s, int64_t i, const uint8_t* from,
                                             int64_t step, uint8_t* to) {
  int32_t sum[kChannels] = {kHalfWeight, kHalfWeight, kHalfWeight};
  const int32_t* weight = s.weights + i;
  for (int32_t t = 0; t < s.count[i]; ++t, from += step, weight += s.side.size) {
    for (int c = 0; c < kChannels; ++c) sum[c] += *weight * from[c];
  }
  for (int c = 0; c < kChannels; ++c) to[c] = to_pixel(sum[c]);
}

// Pixel (y, x) of image `b` after a pass over images [H, W, 3] of `width` columns.
__device__ __forceinline__ void shrink_pixel(const DeviceSide& rows, const uint8_t* images,
                                             int64_t width, int64_t b, int64_t y, int64_t x,
                                             uint8_t* to) {
  const int64_t row = b * rows.side.source + rows.first[y];
  filter_pixel(rows, y, images + (row * width + x) * kChannels, width * kChannels, to);
}
__device__ __forceinline__ void stretch_pixel(const DeviceSide& columns, const uint8_t* images,
                                              int64_t height, int64_t b, int64_t y, int64_t x,
                                              uint8_t* to) {
  const int64_t pixel = (b * height + y) * columns.side.source + columns.first[x];
  filter_pixel(columns, x, images + pixel * kChannels, kChannels, to);
}

// The view that this block of a kernel serves: first_pass (0) or last_pass (1).
__device__ __forceinline__ const DeviceView& view_of_block(const DeviceViews& views, int kernel) {
  int v = 0;
  while (v + 1 < views.count && blockIdx.x >= views.at[v + 1].first_blocks[kernel]) ++v;
  return views.at[v];
}
// The pixel of a thread, counted over the images of a view.
__device__ __forceinline__ int64_t pixel_number(const DeviceView& view, int kernel) {
  return (blockIdx.x - view.first_blocks[kernel]) * kThreads + threadIdx.x;
}

// The first pass of the views that need two; one thread per pixel.
__global__ static void first_pass(DeviceViews views) {
  const DeviceView& view = view_of_block(views, 0);
  const int64_t i = pixel_number(view, 0);
  if (view.middle == nullptr || i >= views.number * view.middle_pixels()) return;
  uint8_t* to = view.middle + i * kChannels;
  const DeviceSide &rows = view.rows, &columns = view.columns;
  if (view.vertical_first) {
    const int64_t x = i % columns.side.source, row = i / columns.side.source,
                  y = row % rows.side.size, b = row / rows.side.size;
    shrink_pixel(rows, views.images, columns.side.source, b, y, x, to);
  } else {
    const int64_t x = i % columns.side.size, row = i / columns.side.size,
                  y = row % rows.side.source, b = row / rows.side.source;
    stretch_pixel(columns, views.images, rows.side.source, b, y, x, to);
  }
}

// The last pass of every view. A block computes the bytes of kThreads consecutive pixels, then
// writes their values in the order of memory. A `Value` has the size of the results' dtype.
template <class Value>
__global__ void last_pass(DeviceViews views, const Value* levels) {
  __shared__ Value level[kChannels * kLevels];
  __shared__ uint8_t bytes[kThreads * kChannels];
  __shared__ int64_t opposite[kThreads];  // the pixel of the mirror image
  const DeviceView& view = view_of_block(views, 1);
  const DeviceSide &rows = view.rows, &columns = view.columns;
  const int64_t width = columns.side.size, height = rows.side.size,
                pixels = views.number * view.pixels(), i = pixel_number(view, 1);
  for (int at = threadIdx.x; at < kChannels * kLevels; at += kThreads) level[at] = levels[at];
  if (i < pixels) {
    const int64_t x = i % width, row = i / width, y = row % height, b = row / height;
    const uint8_t* from = view.middle ? view.middle : views.images;
    uint8_t* to = bytes + threadIdx.x * kChannels;
    opposite[threadIdx.x] = pixels + i + width - 1 - 2 * x;
    if (rows.side.changes() && !(view.middle && view.vertical_first)) {
      shrink_pixel(rows, from, width, b, y, x, to);
    } else if (columns.side.changes()) {
      stretch_pixel(columns, from, height, b, y, x, to);
    } else {
      for (int c = 0; c < kChannels; ++c) to[c] = from[i * kChannels + c];
    }
  }
  __syncthreads();
  const int64_t start = i - threadIdx.x, left = pixels - start;
  const int count = static_cast<int>(left < kThreads ? left : kThreads) * kChannels;
  Value* out = static_cast<Value*>(view.values);
  for (int at = threadIdx.x; at < count; at += kThreads) {
    const int pixel = at / kChannels, channel = at % kChannels;
    const Value value = level[channel * kLevels + bytes[at]];
    out[start * kChannels + at] = value;
    if (views.mirror) out[opposite[pixel] * kChannels + channel] = value;
  }
}

}  // namespace wsss::cuda
