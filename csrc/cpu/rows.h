// What happens to rows of lattice values: slice, splat, blur, exchange of ghosts.
#pragma once

#include <memory>

#include "lattice.h"

namespace wsss {

// One pairwise kernel: its lattice, and two value arrays of which one is read while the other is written.
struct Term {
  Lattice lattice;
  std::unique_ptr<float[]> storage[2];  // [rows, width] each
  size_t capacity = 0;

  float* values(int parity) { return storage[parity & 1].get(); }

  void reserve(int width) {
    const size_t need = static_cast<size_t>(lattice.rows) * width;
    if (need <= capacity) return;
    for (auto& s : storage) s.reset(new float[need]);
    capacity = need;
  }
};

// Rows of N vectors of V floats; N = 0: any multiple of V, given by `width`. The fixed sizes keep sums in registers.
template <int V, int N>
struct RowOps {
  using Float = typename Vec<V>::Float;

  // tile [count, width] += sum over corners of weight * row, for the pixels from `pixel`
  static void slice(const Lattice& lattice, const float* values, int width, int64_t pixel, int count, float* tile) {
    lattice.corners == 3 ? slice_pixels<3>(lattice, values, width, pixel, count, tile)
                         : slice_pixels<6>(lattice, values, width, pixel, count, tile);
  }

  // row += weight * tile [count, width], for every corner of the pixels from `pixel`
  static void splat(const Lattice& lattice, float* values, int width, int64_t pixel, int count, const float* tile) {
    lattice.corners == 3 ? splat_pixels<3>(lattice, values, width, pixel, count, tile)
                         : splat_pixels<6>(lattice, values, width, pixel, count, tile);
  }

  // value += (previous + next) / 2 along the runs [first, last) of one direction, in place; `scratch` [width] holds
  // the previous vertex's old value.
  static void blur(const std::vector<int32_t>& runs, size_t first, size_t last, float* values, int width,
                   float* scratch) {
    const int n = N ? N : width / V;
    for (size_t i = first; i < last; ++i) {
      const bool starts = runs[i] < 0;
      const bool ends = i + 1 == last || runs[i + 1] < 0;
      float* here = values + static_cast<int64_t>(starts ? ~runs[i] : runs[i]) * n * V;
      const float* next = ends ? here : values + static_cast<int64_t>(runs[i + 1]) * n * V;
      for (int at = 0; at < n * V; at += V) {
        const Float value = load<V>(here + at);
        const Float ahead = ends ? Float{} : load<V>(next + at);
        const Float behind = starts ? Float{} : load<V>(scratch + at);
        store<V>(scratch + at, value);
        store<V>(here + at, value + 0.5f * (ahead + behind));
      }
    }
  }

  static void add_ghosts(const Lattice& lattice, float* values, int width, int rank, int parts) {
    const auto [first, last] = lattice.ghost_part(rank, parts);
    for (size_t g = first; g < last; ++g) {
      float* vertex = values + (lattice.ghosts[g] >> 32) * width;
      const float* ghost = values + (lattice.ghosts[g] & 0xffffffffu) * width;
      for (int at = 0; at < width; at += V) store<V>(vertex + at, load<V>(vertex + at) + load<V>(ghost + at));
    }
  }

  static void refresh_ghosts(const Lattice& lattice, float* values, int width, int rank, int parts) {
    const auto [first, last] = lattice.ghost_part(rank, parts);
    for (size_t g = first; g < last; ++g) {
      const float* vertex = values + (lattice.ghosts[g] >> 32) * width;
      std::memcpy(values + (lattice.ghosts[g] & 0xffffffffu) * width, vertex, sizeof(float) * width);
    }
  }

 private:
  template <int CORNERS, int M>
  static void gather(const int32_t* row, const float* weight, const float* values, int64_t width, float* out) {
    Float sum[M];
    for (int i = 0; i < M; ++i) sum[i] = load<V>(out + V * i);
    for (int r = 0; r < CORNERS; ++r) {
      const float* from = values + row[r] * width;
      for (int i = 0; i < M; ++i) sum[i] += weight[r] * load<V>(from + V * i);
    }
    for (int i = 0; i < M; ++i) store<V>(out + V * i, sum[i]);
  }

  template <int CORNERS>
  static void slice_pixels(const Lattice& lattice, const float* values, int width, int64_t pixel, int count,
                           float* tile) {
    const int32_t* row = lattice.row.get() + pixel * CORNERS;
    const float* weight = lattice.weight.get() + pixel * CORNERS;
    for (int p = 0; p < count; ++p, row += CORNERS, weight += CORNERS) {
      if constexpr (N > 0) {
        gather<CORNERS, N>(row, weight, values, N * V, tile + p * N * V);
      } else {
        float* out = tile + static_cast<int64_t>(p) * width;
        int at = 0;
        for (; at + 4 * V <= width; at += 4 * V) gather<CORNERS, 4>(row, weight, values + at, width, out + at);
        for (; at < width; at += V) gather<CORNERS, 1>(row, weight, values + at, width, out + at);
      }
    }
  }

  template <int CORNERS>
  static void splat_pixels(const Lattice& lattice, float* values, int width, int64_t pixel, int count,
                           const float* tile) {
    const int32_t* row = lattice.row.get() + pixel * CORNERS;
    const float* weight = lattice.weight.get() + pixel * CORNERS;
    const int n = N ? N : width / V;
    for (int p = 0; p < count; ++p, row += CORNERS, weight += CORNERS) {
      const float* in = tile + static_cast<int64_t>(p) * n * V;
      for (int r = 0; r < CORNERS; ++r) {
        float* to = values + static_cast<int64_t>(row[r]) * n * V;
        for (int at = 0; at < n * V; at += V) store<V>(to + at, load<V>(to + at) + weight[r] * load<V>(in + at));
      }
    }
  }
};

}  // namespace wsss
