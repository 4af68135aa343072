// Divides one allocation into pieces; measures its size beforehand.
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
  Arena() = default;  // only measures: its pieces must not be used
  Arena(char* base, int64_t size) : base_(base), size_(size) {}
  // Makes every piece a separate allocation, for tests that look for overruns and unset memory.
  explicit Arena(std::function<char*(int64_t)> separate) : separate_(std::move(separate)) {}

  template <class T>
  T* allocate(int64_t count) {
    const int64_t bytes = std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(T));
    if (separate_) return reinterpret_cast<T*>(separate_(bytes));
    const int64_t at = used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    peak_ = std::max(peak_, used_);
    if (base_ == nullptr) return nullptr;
    if (used_ > size_) {
      throw std::logic_error("wsss_fast: a CUDA workspace is larger than measured");
    }
    return reinterpret_cast<T*>(base_ + at);
  }

  // After release(mark), pieces allocated since mark() may be reused.
  int64_t mark() const { return used_; }
  void release(int64_t mark) { used_ = mark; }

  int64_t peak() const { return peak_; }

 private:
  static constexpr int64_t kAlignment = 256;
  char* base_ = nullptr;
  int64_t size_ = 0, used_ = 0, peak_ = 0;
  std::function<char*(int64_t)> separate_;
};

// Workspace of a call in one allocation: Workspace(arena, sizes...) takes its pieces from an arena.
template <class Workspace, class... Sizes>
Workspace workspace_of(Context& context, const Sizes&... sizes) {
  Arena measured;
  Workspace(measured, sizes...);
  Arena arena(static_cast<char*>(context.allocate(measured.peak())), measured.peak());
  return Workspace(arena, sizes...);
}

// Returns with_arena(bytes, use) for a call: it calls use(arena) with workspace of `bytes` bytes.
inline auto arenas(Context& context) {
  return [&context](int64_t bytes, const auto& use) {
    const size_t mark = context.mark();
    Arena arena(static_cast<char*>(context.allocate(std::max<int64_t>(bytes, 1))), bytes);
    use(arena);
    context.release(mark);
  };
}

}  // namespace wsss::cuda
