// Uninitialised arrays for kernels. All but small ones are cached for the next call, because the
// system clears every fresh page: up to 128 MiB for the process, until it ends. Large ones use huge
// pages, because the rows of a lattice are visited in random order and small pages would cost a TLB
// miss each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace wsss {

// Asks the system to back the huge pages within an array with huge pages when they are first
// written: clearing small ones costs more than writing them.
inline void prefer_huge_pages(void* address, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kMask = (uintptr_t{1} << 21) - 1;
  const uintptr_t start = reinterpret_cast<uintptr_t>(address);
  const uintptr_t first = (start + kMask) & ~kMask, last = (start + bytes) & ~kMask;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)address, (void)bytes;
#endif
}

class Allocator {
 public:
  static constexpr size_t kHugePage = size_t{1} << 21;  // arrays from this size on are large
  static constexpr size_t kCached = size_t{1} << 16;    // from this size on they are cached

  struct Block {
    void* address = nullptr;
    size_t bytes = 0;
  };

  static Block allocate(size_t bytes) {
    const bool large = bytes >= kHugePage;
    const size_t alignment = large ? kHugePage : kCacheLine;
    Block block{nullptr, (bytes + alignment - 1) / alignment * alignment};
    if (block.bytes >= kCached) {
      Cache& cache = instance();
      const std::lock_guard<std::mutex> lock(cache.mutex);
      const auto it = cache.blocks.lower_bound(block.bytes);
      if (it != cache.blocks.end() && it->first <= 2 * block.bytes) {
        block = {it->second, it->first};
        cache.blocks.erase(it);
        cache.bytes -= block.bytes;
        return block;
      }
    }
    block.address = std::aligned_alloc(alignment, block.bytes);
    if (block.address == nullptr) throw std::bad_alloc();
    if (large) prefer_huge_pages(block.address, block.bytes);
    return block;
  }

  static void release(Block block) {
    if (block.bytes >= kCached) {
      Cache& cache = instance();
      const std::lock_guard<std::mutex> lock(cache.mutex);
      if (cache.bytes + block.bytes <= kMaxCached) {
        cache.blocks.emplace(block.bytes, block.address);
        cache.bytes += block.bytes;
        return;
      }
    }
    std::free(block.address);
  }

 private:
  static constexpr size_t kCacheLine = 64;
  static constexpr size_t kMaxCached = size_t{128} << 20;

  struct Cache {
    std::mutex mutex;
    std::multimap<size_t, void*> blocks;  // by size
    size_t bytes = 0;
  };
  static Cache& instance() {
    static Cache& cache = *new Cache;  // never destroyed: other statics may still release blocks
    return cache;
  }
};

template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept : block_(std::exchange(other.block_, {})) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~Buffer() { release(); }

  // Of memory that another one owns, and that must not be written.
  static Buffer view(const T* memory) {
    Buffer buffer;
    buffer.block_.address = const_cast<T*>(memory);  // its 0 bytes say that it is not owned
    return buffer;
  }

  T* get() const { return static_cast<T*>(block_.address); }
  T& operator[](int64_t i) const { return get()[i]; }

  // Makes room for `count` elements. Contents are lost if the buffer has to grow.
  void reserve(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    if (bytes <= block_.bytes) return;
    release();
    block_ = Allocator::allocate(bytes);
  }

  // Makes room for `count` elements and keeps the first `used` ones.
  void extend(int64_t count, int64_t used) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    if (bytes <= block_.bytes) return;
    Buffer larger;
    larger.block_ = Allocator::allocate(std::max(bytes, 2 * block_.bytes));
    if (used > 0) std::memcpy(larger.get(), get(), static_cast<size_t>(used) * sizeof(T));
    std::swap(block_, larger.block_);
  }

  // reserve() for arrays of short calls, where clearing fresh pages would dominate:
  // always a large, cached block.
  void reserve_large(int64_t count) {
    reserve(std::max(count, static_cast<int64_t>(Allocator::kHugePage / sizeof(T))));
  }

 private:
  void release() {
    if (block_.bytes != 0) Allocator::release(std::exchange(block_, {}));
  }

  Allocator::Block block_;
};

}  // namespace wsss
