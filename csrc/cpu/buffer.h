// Uninitialised arrays for kernels. Large ones ask for huge pages, because the rows of a lattice
// are visited in no order and small pages would cost a TLB miss each; and are kept for the next
// call, because the system clears a fresh page before the first touch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace wsss {

class Memory {
 public:
  static constexpr size_t kHuge = size_t{1} << 21;  // bytes from which an array is large

  struct Piece {
    void* address = nullptr;
    size_t bytes = 0;
  };

  static Piece take(size_t bytes) {
    const bool large = bytes >= kHuge;
    const size_t alignment = large ? kHuge : kLine;
    Piece piece{nullptr, (bytes + alignment - 1) / alignment * alignment};
    if (large) {
      Kept& kept = instance();
      const std::lock_guard<std::mutex> lock(kept.mutex);
      const auto it = kept.pieces.lower_bound(piece.bytes);
      if (it != kept.pieces.end() && it->first <= 2 * piece.bytes) {
        piece = {it->second, it->first};
        kept.pieces.erase(it);
        kept.bytes -= piece.bytes;
        return piece;
      }
    }
    piece.address = std::aligned_alloc(alignment, piece.bytes);
    if (piece.address == nullptr) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (large) madvise(piece.address, piece.bytes, MADV_HUGEPAGE);
#endif
    return piece;
  }

  static void give(Piece piece) {
    if (piece.bytes >= kHuge) {
      Kept& kept = instance();
      const std::lock_guard<std::mutex> lock(kept.mutex);
      if (kept.bytes + piece.bytes <= kMostKept) {
        kept.pieces.emplace(piece.bytes, piece.address);
        kept.bytes += piece.bytes;
        return;
      }
    }
    std::free(piece.address);
  }

 private:
  static constexpr size_t kLine = 64;
  static constexpr size_t kMostKept = size_t{128} << 20;

  struct Kept {
    std::mutex mutex;
    std::multimap<size_t, void*> pieces;  // by size
    size_t bytes = 0;
  };
  static Kept& instance() {
    static Kept& kept = *new Kept;  // never destroyed: other statics may still give back
    return kept;
  }
};

template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept : piece_(std::exchange(other.piece_, {})) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(piece_, other.piece_);
    return *this;
  }
  ~Buffer() {
    if (piece_.address != nullptr) Memory::give(piece_);
  }

  T* get() const { return static_cast<T*>(piece_.address); }
  T& operator[](int64_t i) const { return get()[i]; }

  // Room for `count` elements of any value; what was there is lost unless it already fits.
  void reserve(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    if (bytes <= piece_.bytes) return;
    if (piece_.address != nullptr) Memory::give(std::exchange(piece_, {}));
    piece_ = Memory::take(bytes);
  }

  // The same for arrays of short calls, which would spend their time on fresh pages: always a large
  // one.
  void reserve_large(int64_t count) {
    reserve(std::max(count, static_cast<int64_t>(Memory::kHuge / sizeof(T))));
  }

 private:
  Memory::Piece piece_;
};

}  // namespace wsss
