// What kernels of several element types share, without torch: the type sums are made in, the number of a thread.
#pragma once

#include <cstdint>

namespace wsss {

// Sums of half precisions are float32.
template <class T>
struct WideType {
  using Type = float;
};
template <>
struct WideType<double> {
  using Type = double;
};
template <class T>
using Wide = typename WideType<T>::Type;

__device__ __forceinline__ int64_t thread_number() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

}  // namespace wsss
