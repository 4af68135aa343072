// Bilinear resizing on the device, and its transpose without atomics: which pixels of the result
// read a cell of the source, and with which weight.
#pragma once

#include "../math/bilinear.h"

#include "element_type.cuh"

namespace wsss::cuda {

// Whether pixel `to` of the result reads source cell `from`, and the cell's weight, which may be 0.
template <class Real>
struct CellUse {
  bool reads;
  Real weight;
};
template <class Real>
__device__ __forceinline__ CellUse<Real> use_of(int64_t from, int64_t to, int64_t source_size,
                                                int64_t size) {
  const auto source = bilinear_source<Real>(to, source_size, size);
  return {source.low == from || source.high == from,
          (source.low == from ? 1 - source.fraction : Real(0)) +
              (source.high == from ? source.fraction : Real(0))};
}
struct PixelRange {
  int64_t first, last;
};
// A range that contains all pixels of the result that read source cell `from`.
__device__ __forceinline__ PixelRange pixels_reading(int64_t from, int64_t source_size,
                                                     int64_t size) {
  const double step = static_cast<double>(size) / static_cast<double>(source_size);
  // With a margin of a pixel on both sides, for rounding errors.
  const int64_t first = static_cast<int64_t>((static_cast<double>(from) - 0.5) * step) - 2;
  const int64_t last = static_cast<int64_t>((static_cast<double>(from) + 1.5) * step) + 2;
  return {from == 0 || first < 0 ? 0 : first, from + 1 == source_size || last > size ? size : last};
}

// The first pixel of the result whose lower source cell is `low` or a later one.
// `step`: source cells between two pixels of the result.
template <class Real>
__device__ __forceinline__ int64_t first_pixel_reading(int64_t low, int64_t source_size,
                                                       int64_t size, Real step) {
  if (low <= 0) return 0;
  if (low >= source_size) return size;
  const auto lower = [=](int64_t i) {
    return bilinear_source<Real>(i, source_size, size, step).low;
  };
  int64_t first = static_cast<int64_t>((static_cast<Real>(low) + Real(0.5)) / step);
  if (first > size) first = size;
  // The estimate is rounded; `lower` never decreases.
#pragma unroll 1
  while (first > 0 && lower(first - 1) >= low) --first;
#pragma unroll 1
  while (first < size && lower(first) < low) ++first;
  return first;
}
template <class Real>
__device__ __forceinline__ int64_t first_pixel_reading(int64_t low, int64_t source_size,
                                                       int64_t size) {
  return first_pixel_reading<Real>(
      low, source_size, size, static_cast<Real>(source_size) / static_cast<Real>(size));
}

}  // namespace wsss::cuda
