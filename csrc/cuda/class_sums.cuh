// Softmax of one pixel, whose classes are `plane` elements apart.
#pragma once

#include <cstdint>

#include "element_type.cuh"

namespace wsss::cuda {

// The largest value, the first class that has it, and sum exp(z - top), which is NaN if
// any value is, as in PyTorch.
template <class Real>
struct ClassSums {
  Real top, exponentials;
  int64_t largest;
};

// z(k) returns the value of class k in [0, classes); it is called twice for each.
template <class Real, class Values>
__device__ __forceinline__ ClassSums<Real> sums_of(Values z, int64_t classes) {
  ClassSums<Real> s{z(0), 0, 0};
#pragma unroll 8  // so that several values are on their way at a time
  for (int64_t k = 1; k < classes; ++k) {
    const Real value = z(k);
    if (value > s.top) {
      s.top = value;
      s.largest = k;
    }
  }
  for (int64_t k = 0; k < classes; ++k) s.exponentials += exponential(z(k) - s.top);
  return s;
}

template <class T>
__device__ __forceinline__ ClassSums<Wide<T>> class_sums(const T* z, int64_t plane,
                                                         int64_t classes) {
  return sums_of<Wide<T>>([=](int64_t k) { return static_cast<Wide<T>>(z[k * plane]); }, classes);
}

}  // namespace wsss::cuda
