// Hands out the pieces of one allocation, and measures beforehand how large it must be.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <utility>

#include "context.h"

namespace wsss::cuda {

class Arena {
 public:
  Arena() = default;  // only measures; its pieces must not be used
  Arena(char* base, int64_t size) : base_(base), size_(size) {}
  // Every piece is an allocation of its own, for tests that look for overruns and unset memory.
  explicit Arena(std::function<char*(int64_t)> apart) : apart_(std::move(apart)) {}

  template <class T>
  T* take(int64_t count) {
    const int64_t bytes = std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(T));
    if (apart_) return reinterpret_cast<T*>(apart_(bytes));
    const int64_t at = used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    peak_ = std::max(peak_, used_);
    if (base_ == nullptr) return nullptr;
    if (used_ > size_) {
      throw std::logic_error("wsss_fast: a CUDA workspace is larger than measured");
    }
    return reinterpret_cast<T*>(base_ + at);
  }

  // What was taken since mark() may be overwritten after release(mark).
  int64_t mark() const { return used_; }
  void release(int64_t mark) { used_ = mark; }

  int64_t peak() const { return peak_; }

 private:
  static constexpr int64_t kAlignment = 256;
  char* base_ = nullptr;
  int64_t size_ = 0, used_ = 0, peak_ = 0;
  std::function<char*(int64_t)> apart_;
};

// with_arena(bytes, use) for the context of a call: use(arena) with workspace of so many bytes, one
// allocation.
inline auto arenas(Context& context) {
  return [&context](int64_t bytes, const auto& use) {
    const size_t mark = context.mark();
    Arena arena(static_cast<char*>(context.allocate(std::max<int64_t>(bytes, 1))), bytes);
    use(arena);
    context.release(mark);
  };
}

}  // namespace wsss::cuda
