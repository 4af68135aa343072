// Just enough of CUDA to run torch-free kernels as C++ on the CPU, where sanitizers see every access: blocks one after
// the other; their threads too, or all at once when the kernel has barriers. Warp functions are not here.
#pragma once

#include <barrier>
#include <cstdint>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static  // one block runs at a time

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;
inline std::barrier<>* block_barrier = nullptr;
inline void __syncthreads() { block_barrier->arrive_and_wait(); }

namespace wsss {

template <class Kernel>
void each_block(dim3 grid, Kernel kernel) {
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) kernel(dim3{x, y, z});
    }
  }
}

// kernel() for every thread of the grid, one after the other; without barriers.
template <class Kernel>
void launch(dim3 grid, dim3 block, Kernel kernel) {
  each_block(grid, [&](dim3 b) {
    blockIdx = b, blockDim = block, gridDim = grid;
    each_block(block, [&](dim3 t) {
      threadIdx = t;
      kernel();
    });
  });
}

// The same with a thread of the machine for every thread of a block, for kernels that call __syncthreads.
template <class Kernel>
void launch_together(dim3 grid, dim3 block, Kernel kernel) {
  each_block(grid, [&](dim3 b) {
    std::barrier<> barrier(block.x * block.y * block.z);
    block_barrier = &barrier;
    std::vector<std::thread> threads;
    each_block(block, [&](dim3 t) {
      threads.emplace_back([&, b, t] {
        blockIdx = b, blockDim = block, gridDim = grid, threadIdx = t;
        kernel();
      });
    });
    for (auto& thread : threads) thread.join();
  });
}

}  // namespace wsss
