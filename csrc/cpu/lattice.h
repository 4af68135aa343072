// A permutohedral lattice of the pixels of one image, built and filtered by a team of threads.
//
// The pixels are cut into bands, each with its own hash table, so that construction and splatting
// need no atomics. A vertex that several bands touch belongs to the first; the others splat into a
// "ghost" row, which is added to the owner's row before the blur and updated after it. The number
// of bands depends on the image only: results are the same to the bit for any number of threads.
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

// More bands let more threads work inside one image, but share more vertices (4
// bands of 500x375: 16 % ghosts).
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

// Rows of floats, preceded by row kNone, which holds zeros. Row 0 starts at a cache line.
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
  Buffer<int32_t> row;   // [tiles, corners, kLanes]
  Buffer<float> weight;  // [tiles, corners, kLanes]; 0 in lanes without a pixel
  Rows mass;             // [rows, 1] the result of splatting ones, before ghosts are added
  // [bands + 1] each: the rows that only band b splats into are [vertex_rows[b], vertex_rows[b+1])
  // and [ghost_rows[b], ghost_rows[b+1]).
  std::vector<int64_t> vertex_rows, ghost_rows;
  // Ghost rows with their vertex, as (vertex << 32 | ghost), sorted: a
  // vertex's ghosts are adjacent.
  std::vector<uint64_t> ghosts;
  // [corners, vertices] neighbours per direction, kNone where there is none
  Buffer<int32_t> next, previous;

  // The ghosts of thread `rank`, without splitting a vertex' ghosts between threads.
  std::pair<size_t, size_t> ghost_part(int rank, int parts) const {
    auto [first, last] = Team::part(static_cast<int64_t>(ghosts.size()), rank, parts);
    return {vertex_start(first), vertex_start(last)};
  }

  // The vertices of thread `rank`, without splitting a cache line between threads.
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

// A reference to a callable int(int64_t tile, Lanes f[d]), which must outlive it. It fills the
// features of a tile's pixels, divided by their standard deviations, and returns the number of
// pixels; the other lanes may hold any finite values.
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

// The state of a build, shared by the threads of a team.
using BuildState = std::shared_ptr<void>;

// Builds `lattice` from features of `d` dimensions in [from, to]; every thread of the team calls.
// Throws when their coordinates need more than 127 bits.
void build_lattice(Team& team, int rank, BuildState& state, Lattice& lattice, int d, int64_t pixels,
                   const double* from, const double* to, const TileFeatures& features);

}  // namespace wsss
