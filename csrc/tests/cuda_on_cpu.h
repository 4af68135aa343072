// Just enough of CUDA to run torch-free kernels as C++ on the CPU, where sanitizers see every access. Blocks run one
// after the other; the threads of a block are fibers that switch at barriers and warp functions, where they wait for the
// others as on a device. A grid can run in its natural or in reversed order: results that depend on it are races.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // one block runs at a time

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
  unsigned x, y, z;
};
inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline const char* cudaGetErrorString(cudaError_t) { return "none on the CPU"; }
inline cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t) {
  std::memset(at, value, bytes);
  return cudaSuccess;
}

namespace cuda_on_cpu {

inline bool reversed = false;  // order of blocks and threads

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "cuda_on_cpu: %s\n", what);
  std::abort();
}

// One block. A fiber runs thread after thread; a thread that must wait keeps its fiber, and another one goes on.
class Block {
 public:
  Block(dim3 size, const std::function<void()>& kernel)
      : size_(size), kernel_(kernel), threads_(size.x * size.y * size.z), warps_((threads_ + 31) / 32) {}

  void run() {
    current() = this;
    while (left_ > 0) {
      const unsigned before = events_;
      if (next_ < threads_) {
        resume(new_fiber());
      } else {
        for (unsigned f = 0; f < used_; ++f) resume(*fibers()[f]);
      }
      if (events_ == before) fail("threads wait for threads that have ended or never come");
    }
    current() = nullptr;
  }

  // Every thread of the block; none may have ended.
  void barrier() { meet(whole_, threads_); }

  // All 32 threads of the warp bring a value; returns the 32 values.
  const uint64_t* exchange(uint64_t value) {
    if (threads_ % 32 != 0) fail("a warp function in a block with a partial warp");
    Warp& warp = warps_[running_->thread / 32];
    // Two sets of values: a thread may come to the next exchange while others still read this one's.
    uint64_t* values = warp.values[warp.place.phase & 1];
    values[running_->thread % 32] = value;
    meet(warp.place, 32);
    return values;
  }

  static Block*& current() {
    static Block* block = nullptr;
    return block;
  }

 private:
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStack]};
    unsigned thread = 0;
    bool ended = false;
    void* fake_stack = nullptr;
  };
  struct Meeting {
    unsigned arrived = 0, phase = 0;
  };
  struct Warp {
    Meeting place;
    uint64_t values[2][32];
  };
  static constexpr size_t kStack = 128 << 10;

  void meet(Meeting& place, unsigned expected) {
    const unsigned phase = place.phase;
    ++events_;
    if (++place.arrived == expected) {
      place.arrived = 0;
      ++place.phase;
    }
    while (place.phase == phase) leave();
    ++events_;
  }

  // Fibers are kept from block to block.
  static std::vector<std::unique_ptr<Fiber>>& fibers() {
    static std::vector<std::unique_ptr<Fiber>> all;
    return all;
  }

  Fiber& new_fiber() {
    if (used_ == fibers().size()) fibers().push_back(std::make_unique<Fiber>());
    Fiber& fiber = *fibers()[used_++];
    fiber.ended = false;
    fiber.fake_stack = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber.stack.get(), kStack);
#endif
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Block::enter, 0);
    return fiber;
  }

  static void enter() {
    Block& block = *current();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &block.main_stack_, &block.main_size_);
#endif
    Fiber& self = *block.running_;
    while (block.next_ < block.threads_) {
      const unsigned order = block.next_++;
      self.thread = reversed ? block.threads_ - 1 - order : order;
      ++block.events_;
      block.place_thread(self.thread);
      block.kernel_();
      --block.left_;
    }
    self.ended = true;
    block.leave();
  }

  void place_thread(unsigned t) { threadIdx = {t % size_.x, t / size_.x % size_.y, t / size_.x / size_.y}; }

  void resume(Fiber& fiber) {
    if (fiber.ended) return;
    running_ = &fiber;
    place_thread(fiber.thread);
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, fiber.stack.get(), kStack);
    swapcontext(&main_, &fiber.context);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    swapcontext(&main_, &fiber.context);
#endif
  }

  void leave() {
    Fiber& self = *running_;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(self.ended ? nullptr : &self.fake_stack, main_stack_, main_size_);
    swapcontext(&self.context, &main_);
    __sanitizer_finish_switch_fiber(self.fake_stack, &main_stack_, &main_size_);
#else
    swapcontext(&self.context, &main_);
#endif
  }

  const dim3 size_;
  const std::function<void()>& kernel_;
  const unsigned threads_;
  unsigned next_ = 0;          // threads that were started
  unsigned left_ = threads_;   // threads that have not ended
  unsigned events_ = 0;        // starts, arrivals, departures: none in a whole round means a deadlock
  Meeting whole_;
  std::vector<Warp> warps_;
  unsigned used_ = 0;          // fibers
  Fiber* running_ = nullptr;
  ucontext_t main_;
  const void* main_stack_ = nullptr;
  size_t main_size_ = 0;
};

inline std::vector<char>& dynamic_shared() {
  static std::vector<char> memory;
  return memory;
}

// kernel() for every thread of the grid.
inline void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  if (block.x * block.y * block.z > 1024 || block.x == 0 || grid.x == 0 || grid.y == 0 || grid.y > 65535) {
    fail("no device runs such a grid");
  }
  if (shared_bytes > 48 << 10) fail("more shared memory than a block gets unasked");
  gridDim = grid, blockDim = block;
  const uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t b = reversed ? blocks - 1 - i : i;
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    // Fresh memory for every block, of the exact size, and not zero.
    dynamic_shared() = std::vector<char>(shared_bytes, '\xff');
    Block(block, kernel).run();
  }
}

// Out of bounds, but written by nobody who could be seen, when no sanitizer watches.
struct RedZone {
  char *from, *to;
};
inline std::vector<RedZone>& red_zones() {
  static std::vector<RedZone> zones;
  return zones;
}
inline void check_red_zones() {
  for (const RedZone& zone : red_zones()) {
    for (const char* at = zone.from; at < zone.to; ++at) {
      if (*at != 0x7e) fail("a kernel wrote behind an array");
    }
  }
}

// The memory [at, at + bytes) begins its life as NaN, -1 ...; what follows it up to `end` + `zone` is out of bounds.
// Arrays that began at `at` or behind it are forgotten.
inline void guard(char* at, int64_t bytes, char* end, int64_t zone) {
  if (at == nullptr) return;
#if !defined(__SANITIZE_ADDRESS__)
  check_red_zones();
  std::erase_if(red_zones(), [&](const RedZone& z) { return z.from >= at; });
  red_zones().push_back({at + bytes, end + zone});
#else
  __asan_unpoison_memory_region(at, bytes);
#endif
  std::memset(at, 0xff, bytes);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(at + bytes, end + zone - (at + bytes));
#else
  std::memset(at + bytes, 0x7e, end + zone - (at + bytes));
#endif
}

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::Block::current()->barrier(); }
inline unsigned __ballot_sync(unsigned, int predicate) {
  const uint64_t* values = cuda_on_cpu::Block::current()->exchange(predicate != 0);
  unsigned mask = 0;
  for (int i = 0; i < 32; ++i) mask |= static_cast<unsigned>(values[i]) << i;
  return mask;
}
inline int __shfl_sync(unsigned, int value, int lane) {
  return static_cast<int>(cuda_on_cpu::Block::current()->exchange(static_cast<uint32_t>(value))[lane & 31]);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int atomicAdd(int* at, int value) {
  const int old = *at;
  *at += value;
  return old;
}
#define WSSS_LAUNCH(kernel, grid, block, shared_bytes, queue, ...) \
  cuda_on_cpu::launch((grid), (block), (shared_bytes), [&] { (kernel)(__VA_ARGS__); })
#define WSSS_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(cuda_on_cpu::dynamic_shared().data())
#define WSSS_UNROLL
#define WSSS_UNROLL_BY(n)
