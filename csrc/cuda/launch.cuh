// Launching kernels, and vector loads and stores. Without nvcc the emulator
// (csrc/tests/cuda_on_cpu.h) defines the same names, so that tests run every kernel on the CPU.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "context.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "../tests/cuda_on_cpu.h"
#endif

namespace wsss::cuda {

constexpr int kThreads = 256;  // per block

#ifdef __CUDACC__
// The stream of a call, and the op to name in error messages.
struct Stream {
  cudaStream_t handle;
  const char* op;
};
inline Stream stream_of(const Context& context) {
  return {static_cast<cudaStream_t>(context.stream()), context.op()};
}

[[noreturn]] inline void fail_cuda(cudaError_t status, const char* op) {
  std::string text = std::string("CUDA error in ") + op + ": " + cudaGetErrorString(status);
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction ||
      status == cudaErrorUnsupportedPtxVersion || status == cudaErrorSymbolNotFound) {
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);  // unchecked: only for the message
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    text += ". The GPU has compute capability " + std::to_string(major) + "." +
            std::to_string(minor) + "; this library was compiled for";
#ifdef __CUDA_ARCH_LIST__
    for (const int arch : {__CUDA_ARCH_LIST__}) {
      text.append(" ")
          .append(std::to_string(arch / 100))
          .append(".")
          .append(std::to_string(arch / 10 % 10));
    }
#else
    text += " others";
#endif
  }
  throw std::runtime_error(text);
}

inline void check_cuda(cudaError_t status, const char* op) {
  if (status != cudaSuccess) fail_cuda(status, op);
}

template <class... P, class... A>
void launch(Stream stream, dim3 grid, dim3 block, void (*kernel)(P...), A... arguments) {
  kernel<<<grid, block, 0, stream.handle>>>(static_cast<P>(arguments)...);
  check_cuda(cudaGetLastError(), stream.op);
}

// For kernels that use barriers, shuffles or shared memory, which the emulator runs differently.
template <class... P, class... A>
void launch_with_barriers(Stream stream, dim3 grid, dim3 block, void (*kernel)(P...),
                          A... arguments) {
  launch(stream, grid, block, kernel, arguments...);
}

inline void copy_to_host(Stream stream, void* to, const void* from, size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream.handle), stream.op);
  check_cuda(cudaStreamSynchronize(stream.handle), stream.op);
}

// Sets every byte to `value`.
inline void fill_bytes(Stream stream, void* to, int value, size_t bytes) {
  check_cuda(cudaMemsetAsync(to, value, bytes, stream.handle), stream.op);
}

inline int current_device(Stream stream) {
  int device = 0;
  check_cuda(cudaGetDevice(&device), stream.op);
  return device;
}

// The major number of the device's compute capability.
inline int compute_capability(Stream stream) {
  int major = 0;
  check_cuda(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, current_device(stream)),
      stream.op);
  return major;
}

// Whether the stream's work may be recorded in a graph instead of running.
inline bool is_capturing(Stream stream) {
  cudaStreamCaptureStatus status;
  if (cudaStreamIsCapturing(stream.handle, &status) == cudaSuccess) {
    return status != cudaStreamCaptureStatusNone;
  }
  cudaGetLastError();  // the default stream, while another one is captured
  return true;
}

// Enough blocks of kThreads to fill the device, for kernels whose amount
// of work only the device knows.
inline unsigned resident_blocks(Stream stream) {
  int multiprocessors = 0;
  check_cuda(cudaDeviceGetAttribute(
                 &multiprocessors, cudaDevAttrMultiProcessorCount, current_device(stream)),
             stream.op);
  return static_cast<unsigned>(multiprocessors) * 8;
}
#endif

inline unsigned blocks_for(int64_t items, int64_t per_block = kThreads) {
  const int64_t blocks = (items + per_block - 1) / per_block;
  if (blocks > INT32_MAX) {
    throw std::invalid_argument("wsss_fast: too many elements for one CUDA launch");
  }
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks);
}

// A block whose x runs over the packs of a row and y over rows, so that no thread has to divide.
inline dim3 row_block(int packs) {
  const unsigned x = static_cast<unsigned>(packs < 64 ? packs : 64);
  return dim3(x, kThreads / x);
}

__device__ __forceinline__ int64_t thread_number() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t thread_count() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}
// The row of a thread in a row_block, and the number of rows in the grid.
__device__ __forceinline__ int64_t row_number() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
}
__device__ __forceinline__ int64_t row_count() {
  return static_cast<int64_t>(gridDim.x) * blockDim.y;
}

// V floats or doubles that one instruction loads or stores.
template <int V, class Real = float>
struct alignas(V * sizeof(Real)) Pack {
  static_assert(V * sizeof(Real) <= 16);
  Real at[V];
};

template <int V, class Real>
__device__ __forceinline__ Pack<V, Real> load(const Real* from) {
  return *reinterpret_cast<const Pack<V, Real>*>(from);
}

template <int V, class Real>
__device__ __forceinline__ void store(Real* to, const Pack<V, Real>& x) {
  *reinterpret_cast<Pack<V, Real>*>(to) = x;
}

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) {
  return fma(a, b, c);
}

template <int V, class Real>
__device__ __forceinline__ void add_scaled(Pack<V, Real>& sum, Real weight,
                                           const Pack<V, Real>& x) {
#pragma unroll
  for (int i = 0; i < V; ++i) sum.at[i] = multiply_add(weight, x.at[i], sum.at[i]);
}

// The widest Pack for rows of `width` values that start at `base`.
template <class Real = float>
int pack_width(int64_t width, const void* base = nullptr) {
  const int64_t size = sizeof(Real),
                either = width * size | static_cast<int64_t>(reinterpret_cast<uintptr_t>(base));
  return static_cast<int>(either % 16 == 0 ? 16 / size : either % 8 == 0 ? 8 / size : 1);
}

}  // namespace wsss::cuda
