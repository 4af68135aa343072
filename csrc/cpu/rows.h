// Operations on rows of W lattice values: slice, splat, blur, and exchange of ghosts.
#pragma once

#include "lattice.h"

namespace wsss {

template <int W>
struct RowOps {
  using Float = typename Vec<W>::Float;

  // lanes [W] += `values` [rows, W], interpolated at the pixels of `tile`.
  static void slice(const Lattice& lattice, const float* values, int64_t tile, Lanes* lanes) {
    const Corners at(lattice, tile);
    switch (lattice.corners) {
      case 3: return slice_corners<3>(at, 3, values, lanes);
      case 6: return slice_corners<6>(at, 6, values, lanes);
      default: return slice_corners<0>(at, lattice.corners, values, lanes);
    }
  }

  // values [rows, W] += `lanes` [W] of the pixels of `tile`, spread over their corners.
  static void splat(const Lattice& lattice, float* values, int64_t tile, const Lanes* lanes) {
    const Corners at(lattice, tile);
    switch (lattice.corners) {
      case 3: return splat_corners<3>(at, 3, values, lanes);
      case 6: return splat_corners<6>(at, 6, values, lanes);
      default: return splat_corners<0>(at, lattice.corners, values, lanes);
    }
  }

  // One direction: to = from + (previous + next) / 2, for this thread's vertices.
  static void blur(const Lattice& lattice, int direction, const float* from, float* to, int rank,
                   int parts) {
    const auto [first, last] = lattice.vertex_part(rank, parts);
    const int32_t* next = lattice.next.get() + direction * lattice.vertices;
    const int32_t* previous = lattice.previous.get() + direction * lattice.vertices;
    int64_t v = first;
    if constexpr (W == 1) {
      for (; v + kLanes <= last; v += kLanes) {
        const Lanes around = gather(from, previous + v) + gather(from, next + v);
        store<kLanes>(to + v, load<kLanes>(from + v) + 0.5f * around);
      }
    }
    for (; v < last; ++v) {
      const Float behind = load<W>(from + static_cast<int64_t>(previous[v]) * W);
      const Float ahead = load<W>(from + static_cast<int64_t>(next[v]) * W);
      store<W>(to + v * W, load<W>(from + v * W) + 0.5f * (behind + ahead));
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
  // A tile's corners, and the rows of the tile after it. Wide rows are prefetched: they have too
  // many channels to stay in the cache.
  struct Corners {
    Corners(const Lattice& lattice, int64_t tile)
        : row(lattice.row.get() + tile * lattice.corners * kLanes),
          ahead(tile + 1 < tile_count(lattice.pixels) ? row + lattice.corners * kLanes : row),
          weight(lattice.weight.get() + tile * lattice.corners * kLanes) {}
    const int32_t* row;
    const int32_t* ahead;
    const float* weight;
  };

  static void prefetch(const float* values, const Corners& at, int corners, int lane) {
    if constexpr (W == 16) {
      for (int r = 0; r < corners; ++r) {
        __builtin_prefetch(values + static_cast<int64_t>(at.ahead[r * kLanes + lane]) * W);
      }
    }
  }

  // CORNERS = 0: any number of corners.
  template <int CORNERS>
  static void slice_corners(const Corners& at, int corners, const float* values, Lanes* lanes) {
    if (CORNERS) corners = CORNERS;
    if constexpr (W == 1) {
      for (int r = 0; r < corners; ++r) {
        lanes[0] += load<kLanes>(at.weight + r * kLanes) * gather(values, at.row + r * kLanes);
      }
    } else {
      alignas(64) float rows[kLanes * W];
      for (int i = 0; i < kLanes; ++i) {
        prefetch(values, at, corners, i);
        Float sum{};
        for (int r = 0; r < corners; ++r) {
          sum += at.weight[r * kLanes + i] *
                 load<W>(values + static_cast<int64_t>(at.row[r * kLanes + i]) * W);
        }
        store<W>(rows + i * W, sum);
      }
      Lanes sliced[W];
      to_lanes<W>(rows, sliced);
      for (int k = 0; k < W; ++k) lanes[k] += sliced[k];
    }
  }

  template <int CORNERS>
  static void splat_corners(const Corners& at, int corners, float* values, const Lanes* lanes) {
    if (CORNERS) corners = CORNERS;
    if constexpr (W == 1) {
      float share[kMaxCorners * kLanes];
      for (int r = 0; r < corners; ++r) {
        store<kLanes>(share + r * kLanes, load<kLanes>(at.weight + r * kLanes) * lanes[0]);
      }
      for (int i = 0; i < kLanes; ++i) {
        for (int r = 0; r < corners; ++r) values[at.row[r * kLanes + i]] += share[r * kLanes + i];
      }
    } else {
      alignas(64) float rows[kLanes * W];
      to_rows<W>(lanes, rows);
      for (int i = 0; i < kLanes; ++i) {
        prefetch(values, at, corners, i);
        const Float value = load<W>(rows + i * W);
        for (int r = 0; r < corners; ++r) {
          float* to = values + static_cast<int64_t>(at.row[r * kLanes + i]) * W;
          store<W>(to, load<W>(to) + at.weight[r * kLanes + i] * value);
        }
      }
    }
  }

  static Lanes gather(const float* values, const int32_t* row) {
#if defined(__AVX512F__)
    return reinterpret_cast<Lanes>(
        _mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, _mm512_loadu_si512(row), values, 4));
#else
    Lanes v;
    for (int i = 0; i < kLanes; ++i) v[i] = values[row[i]];
    return v;
#endif
  }
};

// Adds the ghosts that the team has splatted into, blurs along every direction and refreshes the
// ghosts. `each` calls its argument with (lattice, width, splatted rows, other rows) for all
// arrays; `reverse`: along the last direction first. Every thread of the team calls; starts and
// ends with a barrier.
template <class Each>
void blur(Team& team, int rank, int bands, const Each& each, bool reverse = false) {
  const int threads = team.size();
  each([&](const Lattice&, auto width, const Rows& splatted, const Rows& other) {
    if (rank == 0) {
      for (const Rows* rows : {&splatted, &other}) {
        std::fill(rows->get() + kNone * width(), rows->get(), 0.0f);
      }
    }
  });
  team.barrier();
  if (bands > 1) {
    each([&](const Lattice& lattice, auto width, const Rows& splatted, const Rows&) {
      RowOps<width()>::add_ghosts(lattice, splatted.get(), rank, threads);
    });
    team.barrier();
  }
  for (int j = 0; j < kMaxCorners; ++j) {
    bool any = false;
    each([&](const Lattice& lattice, auto width, const Rows& splatted, const Rows& other) {
      if (j >= lattice.corners) return;
      any = true;
      const float* from = (j % 2 == 0 ? splatted : other).get();
      float* to = (j % 2 == 0 ? other : splatted).get();
      const int direction = reverse ? lattice.corners - 1 - j : j;
      RowOps<width()>::blur(lattice, direction, from, to, rank, threads);
    });
    if (!any) break;
    team.barrier();
  }
  if (bands > 1) {
    each([&](const Lattice& lattice, auto width, const Rows& splatted, const Rows& other) {
      RowOps<width()>::refresh_ghosts(
          lattice, (lattice.corners % 2 == 0 ? splatted : other).get(), rank, threads);
    });
    team.barrier();
  }
}

}  // namespace wsss
