// A permutohedral lattice over the pixels of one image, built and filtered by a team of threads.
//
// The pixels are cut into bands, each with a hash table of its own, so construction and splatting
// need no atomics. A vertex that several bands touch belongs to the first; the others splat into a
// "ghost" row, which is added to the true row before the blur and refreshed after it. The number of
// bands depends on the image only: results are the same to the bit for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "buffer.h"
#include "geometry.h"
#include "team.h"

namespace wsss {

// More bands let more threads work inside one image, but share more vertices (4 bands of 500x375:
// 16 % ghosts).
inline int band_count(int64_t pixels) {
  int bands = 1;
  while (bands < 16 && bands * 2 * int64_t{32768} <= pixels) bands *= 2;
  return bands;
}

// Pixels are handled in tiles of kLanes.
inline int64_t tile_count(int64_t pixels) { return (pixels + kLanes - 1) / kLanes; }

// A band's tiles, as [first, last).
inline std::pair<int64_t, int64_t> band_tiles(int64_t pixels, int band, int bands) {
  return Team::part(tile_count(pixels), band, bands);
}

constexpr int32_t kNone = -1;

// Rows of floats; row kNone, before the first, can be had too, for zeros. Row 0 starts a cache
// line.
class Rows {
 public:
  void reserve(int64_t floats) { memory_.reserve(kFront + floats); }
  float* get() const { return memory_.get() + kFront; }
  static constexpr int kFront = kLanes;

 private:
  Buffer<float> memory_;
};

// Rows of the value array: vertices [0, vertices), then ghosts.
struct Lattice {
  int corners = 0;  // D+1
  int64_t pixels = 0;
  int64_t vertices = 0;
  int64_t rows = 0;      // vertices + ghosts
  Buffer<int32_t> row;   // [tiles, corners, kLanes]; lanes that are no pixel have weights of 0
  Buffer<float> weight;  // likewise
  Rows mass;             // [rows, 1] what a splat of ones leaves, before ghosts are added
  // Rows that only band b splats into, bands + 1 entries each: [vertex_rows[b], vertex_rows[b+1])
  // and [ghost_rows[b], ghost_rows[b+1]).
  std::vector<int64_t> vertex_rows, ghost_rows;
  // Ghost rows with their vertex: (vertex << 32 | ghost), sorted, so that a vertex's ghosts are
  // together.
  std::vector<uint64_t> ghosts;
  // [corners, vertices] neighbours per direction, kNone where there is none
  Buffer<int32_t> next, previous;

  // Thread `rank`'s ghosts: no vertex is split between threads.
  std::pair<size_t, size_t> ghost_part(int rank, int parts) const {
    auto [first, last] = Team::part(static_cast<int64_t>(ghosts.size()), rank, parts);
    return {vertex_start(first), vertex_start(last)};
  }

  // Thread `rank`'s vertices: no cache line is split between threads.
  std::pair<int64_t, int64_t> vertex_part(int rank, int parts) const {
    const auto [first, last] = Team::part((vertices + kLanes - 1) / kLanes, rank, parts);
    return {first * kLanes, std::min(last * kLanes, vertices)};
  }

 private:
  size_t vertex_start(size_t i) const {
    while (i > 0 && i < ghosts.size() && (ghosts[i] >> 32) == (ghosts[i - 1] >> 32)) ++i;
    return i;
  }
};

// Fills the features of a tile's pixels, divided by their standard deviations, and says how many
// pixels there are; the other lanes hold anything finite. Refers to a callable that outlives it:
// int(int64_t tile, Lanes f[d]).
class TileFeatures {
 public:
  template <class F>
  TileFeatures(const F& f)
      : of_(&f), call_([](const void* of, int64_t tile, Lanes* to) {
          return (*static_cast<const F*>(of))(tile, to);
        }) {}
  int operator()(int64_t tile, Lanes* f) const { return call_(of_, tile, f); }

 private:
  const void* of_;
  int (*call_)(const void*, int64_t, Lanes*);
};

// The builder, which the threads of a team share.
using BuildState = std::shared_ptr<void>;

// Every thread of the team calls. The features of `d` dimensions lie in [from, to]. Throws when
// their coordinates do not fit 127 bits. In lattice.cpp, since it is the larger part of what there
// is to compile.
void build_lattice(Team& team, int rank, BuildState& state, Lattice& lattice, int d, int64_t pixels,
                   const double* from, const double* to, const TileFeatures& features);

}  // namespace wsss
