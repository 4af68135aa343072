// The emulator's part for matrix products: asynchronous copies to shared memory, which
// happen as late as they may, at the wait, and products of small matrices by a warp.
#pragma once

#include "cuda_on_cpu.h"

namespace wsss::cuda {

// Copies the first `valid` of V numbers, and writes zeros after them.
template <int V>
void start_copy(float* to, const float* from, int valid) {
  using cuda_on_cpu::Block;
  const auto size = V * sizeof(float);
  if (reinterpret_cast<uintptr_t>(to) % size || reinterpret_cast<uintptr_t>(from) % size) {
    Block::fail("an asynchronous copy that is not aligned");
  }
  Block::running().started_copies().push_back([=] {
    std::copy_n(from, valid, to);
    std::fill_n(to + valid, V - valid, 0.0f);
  });
}
inline void finish_copies() {
  auto& copies = cuda_on_cpu::Block::running().started_copies();
  for (const auto& copy : copies) copy();
  copies.clear();
}

// sums [16, 8] += a [16, 8] b [8, 8] by a warp, whose threads hold the numbers as the PTX
// instruction mma.m16n8k8 has them.
inline void multiply_add_tf32(float (&sums)[4], const float (&a)[4], const float (&b)[2]) {
  struct Own {
    float* sums;
    const float *a, *b;
  } own{sums, a, b};
  cuda_on_cpu::Block::running().join_warp(&own, [](void* const* each) {
    float left[16][8], right[8][8];
    for (int lane = 0; lane < 32; ++lane) {
      const Own& from = *static_cast<Own*>(each[lane]);
      const int group = lane / 4, member = lane % 4;
      for (int i = 0; i < 4; ++i) left[group + i % 2 * 8][member + i / 2 * 4] = from.a[i];
      for (int i = 0; i < 2; ++i) right[member + i * 4][group] = from.b[i];
    }
    for (const float* factors : {&left[0][0], &left[8][0], &right[0][0]}) {
      for (int i = 0; i < 64; ++i) {
        uint32_t bits;
        std::memcpy(&bits, factors + i, 4);
        if (bits & 0x1fffu) cuda_on_cpu::Block::fail("a factor that is not rounded to TF32");
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      const Own& to = *static_cast<Own*>(each[lane]);
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        double sum = to.sums[i];
        for (int k = 0; k < 8; ++k) {
          sum += static_cast<double>(left[row][k]) * right[k][column];
        }
        to.sums[i] = static_cast<float>(sum);
      }
    }
  });
}

}  // namespace wsss::cuda
