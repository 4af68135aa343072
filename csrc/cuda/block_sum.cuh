// Sums in a fixed order: within a block by halving, then of the blocks' results by
// one block. No float atomics.
#pragma once

#include <cmath>
#include <cstdint>

#include "element_type.cuh"

namespace wsss::cuda {

constexpr int kSumThreads = kThreads;  // threads of a block that calls block_sum

// Returns the sum over the block's kSize threads in thread 0; all threads must call it.
template <int kSize = kSumThreads>
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double values[kSize];
  values[threadIdx.x] = value;
  __syncthreads();
  for (int half = kSize / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) values[threadIdx.x] += values[threadIdx.x + half];
    __syncthreads();
  }
  return values[0];
}

// Whether this block is the last of `blocks` to call this; what the others wrote before is then
// visible to all its threads. All threads must call it; *ticket is 0 before the first block does.
__device__ __forceinline__ bool is_last_block(int* ticket, unsigned blocks) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // the block's writes, ordered by the barrier, come before its ticket
    last = atomicAdd(ticket, 1) == static_cast<int>(blocks - 1);
    if (last) __threadfence();  // and reads of the other blocks' writes after it
  }
  __syncthreads();
  return last;
}

// Each block's sum of its threads' `value` goes to parts[part]; the last block to finish adds up
// all `blocks` parts in order: *result = factor * sum, or NaN if `invalid`. All threads of all
// blocks call it.
template <class Real>
__device__ __forceinline__ void sum_blocks(double value, double* parts, unsigned part,
                                           unsigned blocks, int* ticket, double factor,
                                           bool invalid, Real* result) {
  value = block_sum(value);
  if (threadIdx.x == 0) parts[part] = value;
  if (!is_last_block(ticket, blocks)) return;
  value = 0;
  for (unsigned i = threadIdx.x; i < blocks; i += kSumThreads) value += parts[i];
  value = block_sum(value);
  if (threadIdx.x == 0)
    *result = invalid ? static_cast<Real>(NAN) : static_cast<Real>(factor * value);
}

}  // namespace wsss::cuda
