// Sums in a fixed order: within a block by halving, then of the blocks' results by
// one block. No float atomics.
#pragma once

#include <cstdint>

#include "element_type.cuh"

namespace wsss::cuda {

constexpr int kSumThreads = kThreads;  // threads of a block that calls block_sum

// Returns the sum over the block's kSumThreads threads in thread 0; all threads must call it.
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double values[kSumThreads];
  values[threadIdx.x] = value;
  __syncthreads();
  for (int half = kSumThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) values[threadIdx.x] += values[threadIdx.x + half];
    __syncthreads();
  }
  return values[0];
}

// result = factor * sum of parts, or NaN if `invalid` is not 0; one block.
template <class Real>
__global__ void sum_parts(const double* parts, int64_t count, double factor, const int* invalid,
                          Real* result) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) sum += parts[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    *result = *invalid ? static_cast<Real>(NAN) : static_cast<Real>(factor * sum);
  }
}

}  // namespace wsss::cuda
