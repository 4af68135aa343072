// Uninitialised arrays that ask for huge pages: the rows of a lattice are visited in no order, and small pages would
// cost a TLB miss each, besides a page fault per 4 KiB of a fresh array.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace wsss {

template <class T>
class Buffer {
 public:
  T* get() const { return data_.get(); }
  T& operator[](int64_t i) const { return data_.get()[i]; }

  // Room for `count` elements of any value; what was there is lost unless it already fits.
  void reserve(int64_t count) {
    if (count <= capacity_) return;
    constexpr size_t kHuge = size_t{1} << 21, kLine = 64;
    size_t bytes = static_cast<size_t>(count) * sizeof(T);
    const size_t alignment = bytes >= kHuge ? kHuge : kLine;
    bytes = (bytes + alignment - 1) / alignment * alignment;
    data_.reset();
    capacity_ = 0;
    void* memory = std::aligned_alloc(alignment, bytes);
    if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (alignment == kHuge) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    data_.reset(static_cast<T*>(memory));
    capacity_ = count;
  }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t capacity_ = 0;
};

}  // namespace wsss
