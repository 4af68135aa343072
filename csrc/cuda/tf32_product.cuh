// The kernel of TF32 products: a block computes a tile of 128 x 128, of which each of its 8 warps
// computes 64 x 32. While it multiplies 16 columns of a by 16 rows of b, the next
// ones are copied to shared memory. Sums have a fixed order.
#pragma once

#include <cstdint>

#include <cstring>

#include "launch.cuh"

#ifndef __CUDACC__
#include "../tests/tensor_cores_on_cpu.h"
#endif

namespace wsss::cuda {

#ifdef __CUDACC__
// sums [16, 8] += a [16, 8] b [8, 8] by a warp, with factors that are rounded to TF32. PTX ISA,
// mma.m16n8k8: thread 4 g + t has of a (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4); of b (t, g),
// (t + 4, g); of the sums (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1).
__device__ __forceinline__ void multiply_add_tf32(float (&sums)[4], const float (&a)[4],
                                                  const float (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#endif
}

// Starts copying the first `valid` of V numbers to shared memory, with zeros after them. Both
// addresses are aligned to V numbers.
template <int V>
__device__ __forceinline__ void start_copy(float* to, const float* from, int valid) {
#if __CUDA_ARCH__ >= 800
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const int bytes = valid * static_cast<int>(sizeof(float));
  if constexpr (V == 4) {
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
        : "memory");
  } else {
    static_assert(V == 1);
    asm volatile(
        "cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes)
        : "memory");
  }
#endif
}
// Waits for the copies that this thread has started.
__device__ __forceinline__ void finish_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
#endif

// To 10 bits after the point, ties away from zero. A NaN stays one: its first bits are not zero on
// any GPU.
__device__ __forceinline__ float rounded_to_tf32(float x) {
  constexpr uint32_t kExponent = 0x7f800000u, kDropped = 0x1fffu;
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  if ((bits & kExponent) != kExponent) bits += (kDropped + 1) / 2;
  bits &= ~kDropped;
  memcpy(&x, &bits, sizeof(bits));
  return x;
}

constexpr int kProductThreads = 256, kProductTile = 128, kProductDepth = 16;

// One factor, seen as [outer, inner], where `inner` is the dimension that is summed over. In memory
// outer or inner numbers are contiguous, with `row_step` from a row to the next.
struct Factor {
  const float* data;
  int64_t step, row_step, outer, inner;
};

// The part of a factor in shared memory: [128, 16], or [16, 128] if outer numbers are contiguous.
// Rows are padded so that the threads of a warp read from different banks.
template <bool kOuterContiguous>
struct FactorTile {
  static constexpr int kRows = kOuterContiguous ? kProductDepth : kProductTile,
                       kColumns = kOuterContiguous ? kProductTile : kProductDepth,
                       kStep = kColumns + (kOuterContiguous ? 8 : 4);
  static constexpr int kFloats = kRows * kStep;

  static __device__ __forceinline__ int at(int outer, int inner) {
    return kOuterContiguous ? inner * kStep + outer : outer * kStep + inner;
  }
};

// A thread's copies of one part of a factor after the other to shared memory, V numbers at a time,
// rounded to TF32; beyond the factor, zeros.
template <bool kOuterContiguous, int V>
class FactorCopies {
 public:
  // From the outer number `first` of a matrix.
  __device__ __forceinline__ FactorCopies(const Factor& f, int64_t matrix, int64_t first)
      : factor_(f) {
    const int64_t left = f.outer - first;
    outer_ = static_cast<int>(left < kProductTile ? left : kProductTile);
    from_ = f.data + matrix * f.step + row() * f.row_step + column() +
            (kOuterContiguous ? first : first * f.row_step);
  }

  // Starts copying the next part, of which `left` inner numbers are not beyond the factor.
  __device__ __forceinline__ void start(int64_t left, float* to) {
    const int inner = static_cast<int>(left < kProductDepth ? left : kProductDepth),
              rows = (kOuterContiguous ? inner : outer_) - row(),
              columns = (kOuterContiguous ? outer_ : inner) - column(),
              valid = columns < 0   ? 0
                      : columns < V ? columns
                                    : V;
    const float* from = from_;
    to += row() * Tile::kStep + column();
#pragma unroll
    for (int i = 0; i < Tile::kRows; i += kRowsAtOnce) {
      const int count = i < rows ? valid : 0;
      // Nothing is read where nothing is valid, but the address must be one of the factor.
      start_copy<V>(to + i * Tile::kStep, count ? from : factor_.data, count);
      from += kRowsAtOnce * factor_.row_step;
    }
    from_ += kOuterContiguous ? kProductDepth * factor_.row_step : kProductDepth;
  }

  // Rounds this thread's copies, which must be complete.
  __device__ __forceinline__ void round(float* at) const {
    at += row() * Tile::kStep + column();
#pragma unroll
    for (int i = 0; i < Tile::kRows; i += kRowsAtOnce) {
      Pack<V> x = load<V>(at + i * Tile::kStep);
#pragma unroll
      for (int v = 0; v < V; ++v) x.at[v] = rounded_to_tf32(x.at[v]);
      store(at + i * Tile::kStep, x);
    }
  }

 private:
  using Tile = FactorTile<kOuterContiguous>;
  static constexpr int kPacks = Tile::kColumns / V, kRowsAtOnce = kProductThreads / kPacks;

  static __device__ __forceinline__ int row() { return static_cast<int>(threadIdx.x) / kPacks; }
  static __device__ __forceinline__ int column() {
    return static_cast<int>(threadIdx.x) % kPacks * V;
  }

  const Factor& factor_;
  const float* from_;
  int outer_;
};

// out [a.outer, b.outer] = a b for each matrix of the batch. The grid is tiles of a by tiles of b
// by matrices.
template <bool kOuterA, bool kOuterB, int V>
__global__ void __launch_bounds__(kProductThreads, 2)
    multiply_tiles(Factor a, Factor b, float* out, int64_t out_step, int64_t out_row_step) {
  using TileA = FactorTile<kOuterA>;
  using TileB = FactorTile<kOuterB>;
  constexpr int kDown = 4, kAcross = 4, kStage = TileA::kFloats + TileB::kFloats;
  alignas(16) __shared__ float shared[2][kStage];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32,
            group = lane / 4, member = lane % 4;
  // Of this thread's first numbers, in the tile.
  const int row0 = warp / 4 * 64 + group, column0 = warp % 4 * 32 + group;
  const int64_t top = static_cast<int64_t>(blockIdx.x) * kProductTile,
                left = static_cast<int64_t>(blockIdx.y) * kProductTile;
  FactorCopies<kOuterA, V> copies_a(a, blockIdx.z, top);
  FactorCopies<kOuterB, V> copies_b(b, blockIdx.z, left);
  const auto start_copies = [&](int64_t inner, float* to) {
    copies_a.start(a.inner - inner, to);
    copies_b.start(a.inner - inner, to + TileA::kFloats);
  };
  float sums[kDown][kAcross][4] = {};
  start_copies(0, shared[0]);
  int stage = 0;
  for (int64_t inner = 0; inner < a.inner; inner += kProductDepth, stage ^= 1) {
    float *tile_a = shared[stage], *tile_b = tile_a + TileA::kFloats;
    finish_copies();
    copies_a.round(tile_a);
    copies_b.round(tile_b);
    // All copies are complete, and no thread reads the other tiles any more.
    __syncthreads();
    if (inner + kProductDepth < a.inner) start_copies(inner + kProductDepth, shared[stage ^ 1]);
#pragma unroll(V == 1 ? 1 : 2)  // copies of single numbers leave fewer registers
    for (int k = 0; k < kProductDepth; k += 8) {
      float across[kAcross][2];
#pragma unroll
      for (int j = 0; j < kAcross; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          across[j][i] = tile_b[TileB::at(column0 + j * 8, k + member + i * 4)];
        }
      }
#pragma unroll
      for (int d = 0; d < kDown; ++d) {
        float down[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          down[i] = tile_a[TileA::at(row0 + d * 16 + i % 2 * 8, k + member + i / 2 * 4)];
        }
#pragma unroll
        for (int j = 0; j < kAcross; ++j) multiply_add_tf32(sums[d][j], down, across[j]);
      }
    }
  }
  out += blockIdx.z * out_step;
#pragma unroll
  for (int d = 0; d < kDown; ++d) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t row = top + row0 + d * 16 + i / 2 * 8;
#pragma unroll
      for (int j = 0; j < kAcross; ++j) {
        const int64_t column = left + warp % 4 * 32 + j * 8 + member * 2 + i % 2;
        if (row < a.outer && column < b.outer) out[row * out_row_step + column] = sums[d][j][i];
      }
    }
  }
}

}  // namespace wsss::cuda
