// How kernels are started and how a thread reads a few floats at once. Without nvcc the same names come from the emulator
// (csrc/tests/cuda_on_cpu.h), so that tests run every kernel on the CPU.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "../tests/cuda_on_cpu.h"
#endif

namespace wsss::cuda {

constexpr int kThreads = 256;  // of a block

#ifdef __CUDACC__
using Stream = cudaStream_t;

inline void check_cuda(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

template <class... P, class... A>
void launch(Stream stream, dim3 grid, dim3 block, void (*kernel)(P...), A... arguments) {
  kernel<<<grid, block, 0, stream>>>(static_cast<P>(arguments)...);
  check_cuda(cudaGetLastError());
}

// For kernels that use barriers, shuffles or shared memory; here the same, not in the emulator.
template <class... P, class... A>
void launch_together(Stream stream, dim3 grid, dim3 block, void (*kernel)(P...), A... arguments) {
  launch(stream, grid, block, kernel, arguments...);
}

inline void copy_to_host(Stream stream, void* to, const void* from, size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream));
  check_cuda(cudaStreamSynchronize(stream));
}

// Blocks of kThreads that fill the device, for kernels whose amount of work only the device knows.
inline unsigned resident_blocks() {
  int device = 0, multiprocessors = 0;
  check_cuda(cudaGetDevice(&device));
  check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  return static_cast<unsigned>(multiprocessors) * 8;
}
#endif

inline unsigned blocks_for(int64_t items, int64_t per_block = kThreads) {
  const int64_t blocks = (items + per_block - 1) / per_block;
  if (blocks > INT32_MAX) throw std::runtime_error("wsss_fast: too many elements for one CUDA launch");
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks);
}

// A block whose x runs over the pieces of a row, y over rows: no thread divides to find its place.
inline dim3 row_block(int pieces) {
  const unsigned x = static_cast<unsigned>(pieces < 64 ? pieces : 64);
  return dim3(x, kThreads / x);
}

__device__ __forceinline__ int64_t thread_number() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t thread_count() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }
// The same in a row_block.
__device__ __forceinline__ int64_t row_number() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
}
__device__ __forceinline__ int64_t row_count() { return static_cast<int64_t>(gridDim.x) * blockDim.y; }

// V floats that one instruction moves.
template <int V>
struct alignas(4 * V) Pack {
  float at[V];
};

template <int V>
__device__ __forceinline__ Pack<V> load(const float* from) {
  return *reinterpret_cast<const Pack<V>*>(from);
}

template <int V>
__device__ __forceinline__ void store(float* to, const Pack<V>& x) {
  *reinterpret_cast<Pack<V>*>(to) = x;
}

template <int V>
__device__ __forceinline__ void add_scaled(Pack<V>& sum, float weight, const Pack<V>& x) {
#pragma unroll
  for (int i = 0; i < V; ++i) sum.at[i] = fmaf(weight, x.at[i], sum.at[i]);
}

// The widest Pack for rows of `width` floats that start at `base`.
inline int pack_width(int64_t width, const void* base = nullptr) {
  const int64_t either = width * 4 | static_cast<int64_t>(reinterpret_cast<uintptr_t>(base));
  return either % 16 == 0 ? 4 : either % 8 == 0 ? 2 : 1;
}

}  // namespace wsss::cuda
