// Lattices of arbitrary points, as plain arrays (see permutohedral_lattice in
// wsss_fast/ops/lattice.py), and the filter on them. Every vertex and every point is computed by
// one thread in a fixed order: results do not depend on the threads.
#pragma once

#include <algorithm>
#include <cmath>

#include "lattice.h"
#include "point_lattice.h"

namespace wsss {

// features [points, d] in units of the standard deviations.
inline void build_tiles(const float* features, int64_t points, int d, int threads,
                        Lattice& lattice) {
  double from[kMaxDimensions], to[kMaxDimensions];
  for (int i = 0; i < d; ++i) {
    float low = INFINITY, high = -INFINITY;
    bool finite = true;
    for (int64_t p = 0; p < points; ++p) {
      const float x = features[p * d + i];
      finite = finite && std::isfinite(x);
      low = std::min(low, x);
      high = std::max(high, x);
    }
    if (!finite) {
      throw std::invalid_argument("permutohedral_lattice: features has NaN or infinite values");
    }
    from[i] = std::min(low, 0.0f);  // the origin may be a vertex, too
    to[i] = std::max(high, 0.0f);
  }
  BuildState state;
  Team::run(std::min(threads, band_count(points)), [&](Team& team, int rank) {
    build_lattice(team, rank, state, lattice, d, points, from, to, [&](int64_t tile, Lanes* f) {
      const int count = static_cast<int>(std::min<int64_t>(kLanes, points - tile * kLanes));
      for (int j = 0; j < d; ++j) f[j] = Lanes{};
      for (int i = 0; i < count; ++i) {
        for (int j = 0; j < d; ++j) f[j][i] = features[(tile * kLanes + i) * d + j];
      }
      return count;
    });
  });
}

// Converts tiles and ghosts to the arrays of a PointLattice: `row` [N, c], `weight` [N, c],
// `entry` [N * c], `first` [M + 1].
inline void flatten(const Lattice& lattice, int32_t* row, float* weight, int32_t* entry,
                    int32_t* first) {
  std::vector<int32_t> vertex_of_ghost(lattice.rows - lattice.vertices);
  for (const uint64_t pair : lattice.ghosts) {
    vertex_of_ghost[static_cast<int64_t>(pair & 0xffffffffu) - lattice.vertices] =
        static_cast<int32_t>(pair >> 32);
  }
  const int c = lattice.corners;
  std::fill(first, first + lattice.vertices + 1, 0);
  for (int64_t p = 0; p < lattice.pixels; ++p) {
    for (int r = 0; r < c; ++r) {
      const int64_t from = (p / kLanes * c + r) * kLanes + p % kLanes;
      const int32_t at = lattice.row[from];
      const int32_t v = at < lattice.vertices ? at : vertex_of_ghost[at - lattice.vertices];
      row[p * c + r] = v;
      weight[p * c + r] = lattice.weight[from];
      ++first[v + 1];
    }
  }
  for (int64_t v = 0; v < lattice.vertices; ++v) first[v + 1] += first[v];
  std::vector<int32_t> at(first, first + lattice.vertices);
  for (int64_t e = 0; e < lattice.pixels * c; ++e) entry[at[row[e]]++] = static_cast<int32_t>(e);
}

// Filters values [points, channels] to out [points, channels]. C = 0: any number of channels;
// CORNERS = 0: any number of corners.
template <class T, int C, int CORNERS>
class PointFilter {
 public:
  PointFilter(const PointLattice& lattice, const T* values, T* out, int64_t channels)
      : l_(lattice), values_(values), out_(out), channels_(C ? C : channels) {
    for (auto& s : storage_) s.reserve(l_.vertices * channels_);
  }

  // Every thread of the team calls run().
  void run(Team& team, int rank, bool reverse) {
    const auto [first, last] = Team::part(l_.vertices, rank, team.size());
    T* here = storage_[0].get();
    T* there = storage_[1].get();
    splat(first, last, here);
    team.barrier();
    for (int i = 0; i < l_.corners; ++i) {
      blur(reverse ? l_.corners - 1 - i : i, first, last, here, there);
      std::swap(here, there);
      team.barrier();
    }
    const auto [from, to] = Team::part(l_.points, rank, team.size());
    slice(from, to, here);
  }

 private:
  // The weighted sum of rows: in registers when their length is known, because the compiler cannot
  // rule out that `to` overlaps with the rows.
  struct Sum {
    Sum(T* to, int64_t channels) : to(to), channels(channels) {
      if (C == 0) std::fill(to, to + channels, T{});
    }
    ~Sum() {
      if (C != 0) std::copy(here, here + C, to);
    }
    void add(T weight, const T* row) {
      for (int64_t k = 0; k < (C ? C : channels); ++k) (C ? here : to)[k] += weight * row[k];
    }
    T* const to;
    const int64_t channels;
    T here[C ? C : 1] = {};
  };

  int64_t channels() const { return C ? C : channels_; }
  uint32_t corners() const { return static_cast<uint32_t>(CORNERS ? CORNERS : l_.corners); }

  void splat(int64_t first, int64_t last, T* rows) const {
    for (int64_t v = first; v < last; ++v) {
      Sum sum(rows + v * channels(), channels());
      for (int32_t i = l_.first[v]; i < l_.first[v + 1]; ++i) {
        const uint32_t e = static_cast<uint32_t>(l_.entry[i]);
        sum.add(l_.weight[e], values_ + static_cast<int64_t>(e / corners()) * channels());
      }
    }
  }

  void blur(int j, int64_t first, int64_t last, const T* from, T* to) const {
    const int32_t* next = l_.next + j * l_.vertices;
    const int32_t* previous = l_.previous + j * l_.vertices;
    for (int64_t v = first; v < last; ++v) {
      const T* ahead = next[v] < 0 ? nullptr : from + next[v] * channels();
      const T* behind = previous[v] < 0 ? nullptr : from + previous[v] * channels();
      for (int64_t k = 0; k < channels(); ++k) {
        const T around = (behind ? behind[k] : T{}) + (ahead ? ahead[k] : T{});
        to[v * channels() + k] = from[v * channels() + k] + T(0.5) * around;
      }
    }
  }

  void slice(int64_t first, int64_t last, const T* rows) const {
    const T gain = T(1) / (T(1) + std::ldexp(T(1), 1 - l_.corners));
    for (int64_t p = first; p < last; ++p) {
      Sum sum(out_ + p * channels(), channels());
      for (int r = 0; r < l_.corners; ++r) {
        const int64_t e = p * l_.corners + r;
        sum.add(l_.weight[e] * gain, rows + static_cast<int64_t>(l_.row[e]) * channels());
      }
    }
  }

  const PointLattice l_;
  const T* values_;
  T* out_;
  const int64_t channels_;
  Buffer<T> storage_[2];  // [vertices, channels]
};

}  // namespace wsss
