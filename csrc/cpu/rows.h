// What happens to rows of W lattice values: slice, splat, blur, exchange of ghosts.
#pragma once

#include "lattice.h"

namespace wsss {

template <int W>
struct RowOps {
  using Float = typename Vec<W>::Float;

  // lanes [W] += what the pixels of `tile` see of `values` [rows, W].
  static void slice(const Lattice& lattice, const float* values, int64_t tile, Lanes* lanes) {
    const int32_t* row = lattice.row.get() + tile * lattice.corners * kLanes;
    const float* weight = lattice.weight.get() + tile * lattice.corners * kLanes;
    switch (lattice.corners) {
      case 3: return slice_corners<3>(row, weight, 3, values, lanes);
      case 6: return slice_corners<6>(row, weight, 6, values, lanes);
      default: return slice_corners<0>(row, weight, lattice.corners, values, lanes);
    }
  }

  // values [rows, W] += the pixels of `tile`, which have `lanes` [W].
  static void splat(const Lattice& lattice, float* values, int64_t tile, const Lanes* lanes) {
    const int32_t* row = lattice.row.get() + tile * lattice.corners * kLanes;
    const float* weight = lattice.weight.get() + tile * lattice.corners * kLanes;
    switch (lattice.corners) {
      case 3: return splat_corners<3>(row, weight, 3, values, lanes);
      case 6: return splat_corners<6>(row, weight, 6, values, lanes);
      default: return splat_corners<0>(row, weight, lattice.corners, values, lanes);
    }
  }

  // value += (previous + next) / 2 along the runs [first, last) of one direction, in place.
  static void blur(const Run& runs, int64_t first, int64_t last, float* values) {
    Float behind{};  // the previous vertex's old value
    for (int64_t i = first; i < last; ++i) {
      const int32_t at = runs[i];
      float* here = values + static_cast<int64_t>(at < 0 ? ~at : at) * W;
      const bool ends = i + 1 == last || runs[i + 1] < 0;
      const Float value = load<W>(here);
      Float around = at < 0 ? Float{} : behind;
      if (!ends) around += load<W>(values + static_cast<int64_t>(runs[i + 1]) * W);
      store<W>(here, value + 0.5f * around);
      behind = value;
    }
  }

  static void add_ghosts(const Lattice& lattice, float* values, int rank, int parts) {
    const auto [first, last] = lattice.ghost_part(rank, parts);
    for (size_t g = first; g < last; ++g) {
      float* vertex = values + static_cast<int64_t>(lattice.ghosts[g] >> 32) * W;
      const float* ghost = values + static_cast<int64_t>(lattice.ghosts[g] & 0xffffffffu) * W;
      store<W>(vertex, load<W>(vertex) + load<W>(ghost));
    }
  }

  static void refresh_ghosts(const Lattice& lattice, float* values, int rank, int parts) {
    const auto [first, last] = lattice.ghost_part(rank, parts);
    for (size_t g = first; g < last; ++g) {
      const float* vertex = values + static_cast<int64_t>(lattice.ghosts[g] >> 32) * W;
      store<W>(values + static_cast<int64_t>(lattice.ghosts[g] & 0xffffffffu) * W, load<W>(vertex));
    }
  }

 private:
  // CORNERS = 0: `corners` of them.
  template <int CORNERS>
  static void slice_corners(const int32_t* row, const float* weight, int corners, const float* values, Lanes* lanes) {
    if (CORNERS) corners = CORNERS;
    if constexpr (W == 1) {
      for (int r = 0; r < corners; ++r) lanes[0] += load<kLanes>(weight + r * kLanes) * gather(values, row + r * kLanes);
    } else {
      alignas(64) float rows[kLanes * W];
      for (int i = 0; i < kLanes; ++i) {
        Float sum{};
        for (int r = 0; r < corners; ++r) {
          sum += weight[r * kLanes + i] * load<W>(values + static_cast<int64_t>(row[r * kLanes + i]) * W);
        }
        store<W>(rows + i * W, sum);
      }
      Lanes sliced[W];
      to_lanes<W>(rows, sliced);
      for (int k = 0; k < W; ++k) lanes[k] += sliced[k];
    }
  }

  template <int CORNERS>
  static void splat_corners(const int32_t* row, const float* weight, int corners, float* values, const Lanes* lanes) {
    if (CORNERS) corners = CORNERS;
    if constexpr (W == 1) {
      float share[kMaxCorners * kLanes];
      for (int r = 0; r < corners; ++r) store<kLanes>(share + r * kLanes, load<kLanes>(weight + r * kLanes) * lanes[0]);
      for (int i = 0; i < kLanes; ++i) {
        for (int r = 0; r < corners; ++r) values[row[r * kLanes + i]] += share[r * kLanes + i];
      }
    } else {
      alignas(64) float rows[kLanes * W];
      to_rows<W>(lanes, rows);
      for (int i = 0; i < kLanes; ++i) {
        const Float value = load<W>(rows + i * W);
        for (int r = 0; r < corners; ++r) {
          float* to = values + static_cast<int64_t>(row[r * kLanes + i]) * W;
          store<W>(to, load<W>(to) + weight[r * kLanes + i] * value);
        }
      }
    }
  }

  static Lanes gather(const float* values, const int32_t* row) {
#if defined(__AVX512F__)
    return reinterpret_cast<Lanes>(_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, _mm512_loadu_si512(row), values, 4));
#else
    Lanes v;
    for (int i = 0; i < kLanes; ++i) v[i] = values[row[i]];
    return v;
#endif
  }
};

}  // namespace wsss
