// From an ElementType to the type that a kernel is compiled for, and the type of its sums.
#pragma once

#include <cfloat>
#include <cmath>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "launch.cuh"

namespace wsss::cuda {

// Half precisions are summed in float32.
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

// Calls run(T{}) with T = float, double, __half or __nv_bfloat16.
template <class Run>
void with_element_type(ElementType type, Run run) {
  switch (type) {
    case ElementType::kFloat32: return run(float{});
    case ElementType::kFloat64: return run(double{});
    case ElementType::kFloat16: return run(__half{});
    case ElementType::kBFloat16: return run(__nv_bfloat16{});
  }
}

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
__device__ __forceinline__ float lowest(float) { return -FLT_MAX; }
__device__ __forceinline__ double lowest(double) { return -DBL_MAX; }

}  // namespace wsss::cuda
