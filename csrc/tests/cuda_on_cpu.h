// An emulator of the parts of CUDA that csrc/cuda uses: its kernels and host code run as C++ on the
// CPU, where sanitizers check every access. Blocks run one after another; with launch_with_barriers
// the threads of a block are fibers that switch at barriers and shuffles. It cannot detect races
// between blocks or warps, nor errors of memory ordering.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "fibers_on_cpu.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__ [[maybe_unused]]
#define __host__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // one block runs at a time

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

// The half precisions: storage and conversions, rounding to nearest even.
class __nv_bfloat16 {
 public:
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits_ = static_cast<uint16_t>(x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fff);
  }
  explicit operator float() const {
    const uint32_t bits = uint32_t{bits_} << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }

 private:
  uint16_t bits_;
};
class __half {
 public:
  __half() = default;
  explicit __half(float x) {
    const float size = std::fabs(x);
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (!(size == size)) {
      bits_ = 0x7fff;
    } else if (size >= 65520.0f) {
      // The middle between the largest number and the next power of two.
      bits_ = sign | 0x7c00;
    } else if (size < 0.00006103515625f) {  // subnormal: multiples of 2^-24
      bits_ = sign | static_cast<uint16_t>(std::nearbyint(size * 16777216.0f));
    } else {
      uint32_t bits;
      std::memcpy(&bits, &size, 4);
      bits_ =
          sign |
          static_cast<uint16_t>((bits + 0xfff + (bits >> 13 & 1) - (uint32_t{112} << 23)) >> 13);
    }
  }
  explicit operator float() const {
    const uint32_t sign = uint32_t{bits_} >> 15 << 31, exponent = bits_ >> 10 & 31;
    const uint32_t fraction = bits_ & 1023;
    if (exponent == 0) {  // zero or subnormal
      const float size = static_cast<float>(fraction) * 0x1p-24f;
      return sign ? -size : size;
    }
    const uint32_t bits = sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }

 private:
  uint16_t bits_;
};

inline int32_t atomicAdd(int32_t* at, int32_t value) {
  const int32_t before = *at;
  *at += value;
  return before;
}
inline int32_t atomicMax(int32_t* at, int32_t value) {
  const int32_t before = *at;
  *at = std::max(before, value);
  return before;
}
inline int32_t atomicCAS(int32_t* at, int32_t expected, int32_t desired) {
  const int32_t old = *at;
  if (old == expected) *at = desired;
  return old;
}

inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

namespace cuda_on_cpu {

// The threads of one block. Each runs until it has to wait; when all remaining threads wait at
// the same place, they resume.
class Block {
 public:
  static constexpr unsigned kWarp = 32;

  Block(dim3 block, const std::function<void()>& kernel) : kernel_(kernel) {
    const size_t threads = size_t{block.x} * block.y * block.z;
    // Fibers are reused by the next block, because stacks are expensive.
    while (pool().size() < threads) pool().push_back(std::make_unique<Fiber>());
    for (unsigned z = 0; z < block.z; ++z) {
      for (unsigned y = 0; y < block.y; ++y) {
        for (unsigned x = 0; x < block.x; ++x) {
          fibers_.push_back(pool()[fibers_.size()].get());
          fibers_.back()->index = dim3(x, y, z);
          fibers_.back()->state = kReady;
        }
      }
    }
  }

  void run() {
    running_ = this;
    for (Fiber* fiber : fibers_) resume(*fiber);
    for (bool left = true; left;) {
      left = false;
      // A warp resumes when all its running threads wait at a shuffle or other joint work, the
      // block when all wait at the barrier.
      bool moved = false, all_at_barrier = true;
      for (size_t first = 0; first < fibers_.size(); first += kWarp) {
        const size_t last = std::min<size_t>(first + kWarp, fibers_.size());
        bool all_shuffle = true;
        for (size_t i = first; i < last; ++i) {
          if (fibers_[i]->state == kDone) continue;
          left = true;
          all_shuffle =
              all_shuffle && (fibers_[i]->state == kShuffle || fibers_[i]->state == kJoint);
          all_at_barrier = all_at_barrier && fibers_[i]->state == kBarrier;
        }
        bool any = false;
        for (size_t i = first; i < last && all_shuffle; ++i) {
          any = any || fibers_[i]->state != kDone;
        }
        if (!any) continue;
        exchange(first, last);
        for (size_t i = first; i < last; ++i) resume(*fibers_[i]);
        moved = true;
      }
      if (!left || moved) continue;
      if (!all_at_barrier) fail("threads of a warp wait at different places");
      for (Fiber* fiber : fibers_) resume(*fiber);
    }
    running_ = nullptr;
  }

  static Block& running() {
    if (running_ == nullptr) fail("a shuffle or barrier needs launch_with_barriers");
    return *running_;
  }

  void barrier() { wait(kBarrier); }

  [[noreturn]] static void fail(const char* what) {
    std::fprintf(stderr, "cuda_on_cpu: %s\n", what);
    std::abort();
  }

  // Calls work(own of each thread) once, when all threads of a full warp have come here.
  void join_warp(void* own, void (*work)(void* const* each)) {
    current_->own = own;
    current_->work = work;
    wait(kJoint);
  }

  // The asynchronous copies that the thread has started and not finished.
  std::vector<std::function<void()>>& started_copies() { return current_->copies; }

  // `mask` must contain all threads of a full warp.
  float shuffle_xor(unsigned mask, float value, int offset) {
    Fiber& own = *current_;
    if (mask != 0xffffffffu) fail("a shuffle of part of a warp");
    own.value = value;
    own.offset = offset;
    wait(kShuffle);
    return own.value;
  }

 private:
  static constexpr size_t kStack = 128 << 10;
  enum State { kReady, kShuffle, kJoint, kBarrier, kDone };
  struct Fiber {
    dim3 index;
    std::unique_ptr<char[]> stack{new char[kStack]};
    bool started = false;
    Place place;
    void* fake_stack = nullptr;  // of AddressSanitizer
    State state = kReady;
    float value = 0.0f;
    int offset = 0;
    void* own = nullptr;
    void (*work)(void* const*) = nullptr;
    std::vector<std::function<void()>> copies;
  };

  static std::vector<std::unique_ptr<Fiber>>& pool() {
    static std::vector<std::unique_ptr<Fiber>> all;
    return all;
  }

  void resume(Fiber& fiber) {
    if (fiber.state == kDone) return;
    current_ = &fiber;
    threadIdx = fiber.index;
    fiber.state = kReady;
    if (!fiber.started) {
      fiber.started = true;
      fiber.place.start(fiber.stack.get(), kStack, &Block::enter);
    }
    before_switch(&fake_stack_, fiber.stack.get(), kStack);
    Place::switch_stack(scheduler_, fiber.place);
    after_switch(fake_stack_, nullptr, nullptr);
  }

  // The code of a fiber: runs the kernel for one block after another.
  static void enter() {
    running_->after_switch(nullptr, &running_->stack_bottom_, &running_->stack_size_);
    while (true) {
      running_->kernel_();
      if (!running_->current_->copies.empty()) fail("a thread ended before its copies");
      running_->wait(kDone);
    }
  }

  void wait(State state) {
    Fiber& own = *current_;
    own.state = state;
    before_switch(&own.fake_stack, stack_bottom_, stack_size_);
    Place::switch_stack(own.place, scheduler_);
    // This may be another block.
    running_->after_switch(own.fake_stack, &running_->stack_bottom_, &running_->stack_size_);
  }

  void exchange(size_t first, size_t last) {
    float value[kWarp] = {};
    void* own[kWarp] = {};
    if (last - first != kWarp) fail("a shuffle in a partial warp");
    for (size_t i = first; i < last; ++i) {
      if (fibers_[i]->state == kDone) fail("a shuffle after a thread of the warp returned");
      if (fibers_[i]->state != fibers_[first]->state || fibers_[i]->work != fibers_[first]->work) {
        fail("threads of a warp wait at different places");
      }
      value[i - first] = fibers_[i]->value;
      own[i - first] = fibers_[i]->own;
    }
    if (fibers_[first]->state == kJoint) return fibers_[first]->work(own);
    for (size_t i = first; i < last; ++i) {
      fibers_[i]->value = value[(i - first) ^ fibers_[i]->offset];
    }
  }

#if defined(__SANITIZE_ADDRESS__)
  void before_switch(void** save, const void* bottom, size_t size) {
    __sanitizer_start_switch_fiber(save, bottom, size);
  }
  void after_switch(void* saved, const void** bottom, size_t* size) {
    __sanitizer_finish_switch_fiber(saved, bottom, size);
  }
#else
  void before_switch(void**, const void*, size_t) {}
  void after_switch(void*, const void**, size_t*) {}
#endif

  inline static Block* running_ = nullptr;
  const std::function<void()> kernel_;
  std::vector<Fiber*> fibers_;
  Fiber* current_ = nullptr;
  Place scheduler_;
  void* fake_stack_ = nullptr;
  const void* stack_bottom_ = nullptr;
  size_t stack_size_ = 0;
};

inline bool capturing = false;  // what is_capturing() returns
inline bool reversed = false;   // reverses the order of blocks, and of threads in launch()

template <class Work>
void each_index(dim3 size, const Work& work) {
  const unsigned count = size.x * size.y * size.z;
  for (unsigned i = 0; i < count; ++i) {
    const unsigned at = reversed ? count - 1 - i : i;
    work(dim3(at % size.x, at / size.x % size.y, at / size.x / size.y));
  }
}

}  // namespace cuda_on_cpu

inline void __threadfence() {}
inline float __fdividef(float a, float b) { return a / b; }
inline void __syncthreads() { cuda_on_cpu::Block::running().barrier(); }
inline float __shfl_xor_sync(unsigned mask, float value, int offset) {
  return cuda_on_cpu::Block::running().shuffle_xor(mask, value, offset);
}

namespace wsss {

// Calls kernel() for every thread of the grid, one after another; without barriers and shuffles.
template <class Kernel>
void launch(dim3 grid, dim3 block, const Kernel& kernel) {
  blockDim = block, gridDim = grid;
  cuda_on_cpu::each_index(grid, [&](dim3 b) {
    blockIdx = b;
    cuda_on_cpu::each_index(block, [&](dim3 t) {
      threadIdx = t;
      kernel();
    });
  });
}

// The same with one fiber per thread of a block.
template <class Kernel>
void launch_with_barriers(dim3 grid, dim3 block, const Kernel& kernel) {
  blockDim = block, gridDim = grid;
  cuda_on_cpu::each_index(grid, [&](dim3 b) {
    blockIdx = b;
    cuda_on_cpu::Block(block, kernel).run();
  });
}

}  // namespace wsss

// What csrc/cuda/launch.cuh defines with nvcc.
namespace wsss::cuda {

struct Stream {};
template <class Context>
Stream stream_of(const Context&) {
  return {};
}

template <class... P, class... A>
void launch(Stream, dim3 grid, dim3 block, void (*kernel)(P...), A... arguments) {
  wsss::launch(grid, block, [&] { kernel(static_cast<P>(arguments)...); });
}

template <class... P, class... A>
void launch_with_barriers(Stream, dim3 grid, dim3 block, void (*kernel)(P...), A... arguments) {
  wsss::launch_with_barriers(grid, block, [&] { kernel(static_cast<P>(arguments)...); });
}

inline void copy_to_host(Stream, void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}
inline void fill_bytes(Stream, void* to, int value, size_t bytes) { std::memset(to, value, bytes); }
inline unsigned resident_blocks(Stream) { return 3; }
inline int current_device(Stream) { return 0; }
inline int compute_capability(Stream) { return 9; }
inline bool is_capturing(Stream) { return cuda_on_cpu::capturing; }

}  // namespace wsss::cuda
