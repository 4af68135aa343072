// Bilinear resizing on the device, and its transpose without atomics: who takes from a cell, and
// how much.
#pragma once

#include "../math/bilinear.h"

#include "element_type.cuh"

namespace wsss::cuda {

// How much of a cell a resized cell takes, and the range of those that take any.
template <class Real>
__device__ __forceinline__ Real share_of(int64_t from, int64_t to, int64_t source_size,
                                         int64_t size) {
  const auto source = bilinear_source<Real>(to, source_size, size);
  return (source.low == from ? 1 - source.fraction : Real(0)) +
         (source.high == from ? source.fraction : Real(0));
}
struct CellRange {
  int64_t first, last;
};
__device__ __forceinline__ CellRange takers(int64_t from, int64_t source_size, int64_t size) {
  const double step = static_cast<double>(size) / static_cast<double>(source_size);
  // A cell more on both sides, for roundings.
  const int64_t first = static_cast<int64_t>((static_cast<double>(from) - 0.5) * step) - 2;
  const int64_t last = static_cast<int64_t>((static_cast<double>(from) + 1.5) * step) + 2;
  return {from == 0 || first < 0 ? 0 : first, from + 1 == source_size || last > size ? size : last};
}

}  // namespace wsss::cuda
