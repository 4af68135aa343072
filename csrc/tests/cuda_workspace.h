// Workspace for CUDA code that runs in the emulator, filled with values that are easy to notice.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "../cuda/arena.h"

namespace wsss::testing {

// Memory that is not zero where it is not set: as float a large negative number, as
// integer an index out of range.
struct Pieces {
  std::vector<std::unique_ptr<char[]>> held;
  char* allocate(int64_t bytes) {
    held.emplace_back(new char[bytes]);
    std::memset(held.back().get(), 0xcd, bytes);
    return held.back().get();
  }
};

// A call of an op.
class TestContext : public cuda::Context {
 public:
  TestContext() : Context("test", nullptr) {}
  void* allocate(int64_t bytes) override { return pieces_.allocate(bytes); }
  using Context::allocate;
  size_t mark() const override { return pieces_.held.size(); }
  void release(size_t mark) override { pieces_.held.resize(mark); }
  void multiply(cuda::ElementType, const cuda::Matrices&, const cuda::Matrices&,
                const cuda::Matrices&) override {}

 private:
  Pieces pieces_;
};

// with_arena of the CUDA code: each piece a separate allocation, or all in one.
inline auto arenas(bool separate) {
  return [separate](int64_t bytes, const auto& use) {
    Pieces pieces;
    cuda::Arena arena =
        separate ? cuda::Arena([&](int64_t piece) { return pieces.allocate(piece); })
                 : cuda::Arena(pieces.allocate(std::max<int64_t>(bytes, 1)), bytes);
    use(arena);
  };
}

}  // namespace wsss::testing
