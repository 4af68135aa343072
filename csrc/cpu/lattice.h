// A permutohedral lattice over the pixels of one image, built and filtered by a team of threads.
//
// The pixels are cut into bands, each with a hash table of its own, so construction and splatting need no atomics. A
// vertex that several bands touch belongs to the first; the others splat into a "ghost" row, which is added to the true
// row before the blur and refreshed after it. The number of bands depends on the image only: results are the same to
// the bit for any number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "simd.h"  // before csrc/math, see scalar.h
#include "team.h"

#include "../math/lattice.h"

namespace wsss {

// Vertex key -> number in order of first occurrence. Key and number share a slot: one cache miss per look-up.
class VertexTable {
 public:
  VertexTable() : slots_(1 << 12, Slot{kEmpty, 0}), shift_(64 - 12) {}

  int32_t insert(uint64_t key) {
    for (size_t i = place(key);; i = (i + 1) & (slots_.size() - 1)) {
      if (slots_[i].key == key) return slots_[i].number;
      if (slots_[i].key == kEmpty) {
        const int32_t number = static_cast<int32_t>(keys_.size());
        slots_[i] = {key, number};
        keys_.push_back(key);
        if (keys_.size() * 2 > slots_.size()) grow();
        return number;
      }
    }
  }

  int32_t find(uint64_t key) const {
    for (size_t i = place(key);; i = (i + 1) & (slots_.size() - 1)) {
      if (slots_[i].key == key) return slots_[i].number;
      if (slots_[i].key == kEmpty) return -1;
    }
  }

  const std::vector<uint64_t>& keys() const { return keys_; }

 private:
  struct Slot {
    uint64_t key;
    int32_t number;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // keys have 63 bits

  size_t place(uint64_t key) const { return (key * 0x9E3779B97F4A7C15u) >> shift_; }

  void grow() {
    slots_.assign(slots_.size() * 4, Slot{kEmpty, 0});
    shift_ -= 2;
    for (size_t n = 0; n < keys_.size(); ++n) {
      size_t i = place(keys_[n]);
      while (slots_[i].key != kEmpty) i = (i + 1) & (slots_.size() - 1);
      slots_[i] = {keys_[n], static_cast<int32_t>(n)};
    }
  }

  std::vector<Slot> slots_;
  std::vector<uint64_t> keys_;  // by number
  int shift_;
};

// More bands let more threads work inside one image, but share more vertices (4 bands of 500x375: 16 % ghosts).
inline int band_count(int64_t pixels) {
  int bands = 1;
  while (bands < 16 && bands * 2 * int64_t{32768} <= pixels) bands *= 2;
  return bands;
}

// The pixels of a band: whole tiles of kLanes, so that only the last tile of the image can be partial.
inline std::pair<int64_t, int64_t> band_pixels(int64_t pixels, int band, int bands) {
  const auto [first, last] = Team::part((pixels + kLanes - 1) / kLanes, band, bands);
  return {std::min(first * kLanes, pixels), std::min(last * kLanes, pixels)};
}

// Says "surely not a vertex" from a few bits per vertex that stay in cache: most neighbours do not exist, and a look-up
// that fails would otherwise miss the cache once per band.
class VertexFilter {
 public:
  void reset(int64_t vertices) {
    shift_ = 64 - 10;
    while ((int64_t{1} << (64 - shift_)) < vertices * 16) --shift_;
    words_ = std::vector<std::atomic<uint64_t>>(size_t{1} << (64 - shift_ - 6));
  }
  void add(uint64_t key) {
    const uint64_t bit = (key * kMix) >> shift_;
    words_[bit >> 6].fetch_or(uint64_t{1} << (bit & 63), std::memory_order_relaxed);
  }
  bool may_have(uint64_t key) const {
    const uint64_t bit = (key * kMix) >> shift_;
    return words_[bit >> 6].load(std::memory_order_relaxed) >> (bit & 63) & 1;
  }

 private:
  static constexpr uint64_t kMix = 0xD6E8FEB86659FD93u;  // not the table's: their collisions are independent
  std::vector<std::atomic<uint64_t>> words_;
  int shift_ = 0;
};

// Rows of the value array: vertices [0, vertices), then ghosts.
struct Lattice {
  int corners = 0;  // D+1
  int64_t pixels = 0;
  int64_t vertices = 0;
  int64_t rows = 0;                 // vertices + ghosts
  std::unique_ptr<int32_t[]> row;   // [pixels, corners]
  std::unique_ptr<float[]> weight;  // [pixels, corners]
  // Rows that only band b splats into, bands + 1 entries each: [vertex_rows[b], vertex_rows[b+1]) and [ghost_rows[b], ghost_rows[b+1]).
  std::vector<int64_t> vertex_rows, ghost_rows;
  // Ghost rows with their vertex: (vertex << 32 | ghost), sorted, so that a vertex's ghosts are together.
  std::vector<uint64_t> ghosts;
  // Per direction, the maximal runs of neighbouring vertices (two or more), one after the other; the first vertex of
  // a run is stored as ~vertex. Vertices without a neighbour keep their value and appear nowhere.
  std::vector<std::vector<int32_t>> runs;

  // Thread `rank`'s ghosts: no vertex is split between threads.
  std::pair<size_t, size_t> ghost_part(int rank, int parts) const {
    auto [first, last] = Team::part(static_cast<int64_t>(ghosts.size()), rank, parts);
    return {vertex_start(first), vertex_start(last)};
  }

  // Thread `rank`'s share of direction j: no run is split between threads.
  std::pair<size_t, size_t> run_part(int j, int rank, int parts) const {
    auto [first, last] = Team::part(static_cast<int64_t>(runs[j].size()), rank, parts);
    return {run_start(j, first), run_start(j, last)};
  }

 private:
  size_t vertex_start(size_t i) const {
    while (i > 0 && i < ghosts.size() && (ghosts[i] >> 32) == (ghosts[i - 1] >> 32)) ++i;
    return i;
  }
  size_t run_start(int j, size_t i) const {
    while (i < runs[j].size() && runs[j][i] >= 0) ++i;
    return i;
  }
};

// Builds a Lattice<D>: every thread of the team calls build(). `Features` fills scaled features of 16 pixels:
//   features(int64_t first_pixel, Lanes scaled[D]); pixels past the end repeat any valid pixel.
template <int D>
class LatticeBuilder {
 public:
  LatticeBuilder(Lattice& lattice, const KeyLayout<D>& layout, int64_t pixels)
      : lattice_(lattice), layout_(layout), bands_(band_count(pixels)) {
    lattice.corners = D + 1;
    lattice.pixels = pixels;
    lattice.row.reset(new int32_t[pixels * (D + 1)]);
    lattice.weight.reset(new float[pixels * (D + 1)]);
    lattice.runs.resize(D + 1);
  }

  template <class Features>
  void build(Team& team, int rank, const Features& features) {
    const auto [first, last] = Team::part(static_cast<int64_t>(bands_.size()), rank, team.size());
    for (int b = first; b < last; ++b) insert_band(b, features);
    team.barrier();
    for (int b = first; b < last; ++b) claim_vertices(b);
    team.barrier();
    if (rank == 0) allocate_rows();
    team.barrier();
    for (int b = first; b < last; ++b) number_rows(b);
    team.barrier();
    if (rank == 0) collect_ghosts();
    for (int b = first; b < last; ++b) find_neighbours(b);
    team.barrier();
    for (int j = rank; j <= D; j += team.size()) chain_runs(j);
    team.barrier();
  }

 private:
  struct Band {
    VertexTable table;
    std::vector<int32_t> row;  // by number: row of the value array
    std::vector<std::pair<int, int32_t>> elsewhere;  // by number: (owning band, its number), or (this band, number)
    int64_t owned = 0;
  };

  // pydensecrf fills its last block of four pixels with zero features, and their vertices exist.
  bool has_origin(int64_t last) const { return last == lattice_.pixels && lattice_.pixels % 4 != 0; }

  template <class Features>
  void insert_band(int b, const Features& features) {
    Band& band = bands_[b];
    const auto [first, last] = band_pixels(lattice_.pixels, b, static_cast<int>(bands_.size()));
    Lanes scaled[D];
    Simplex<D, Lanes, IntLanes> simplex;
    uint64_t key[D + 1], previous_key[D + 1];
    int32_t number[D + 1] = {};
    std::fill(previous_key, previous_key + D + 1, ~uint64_t{0});
    for (int64_t p = first; p < last; p += kLanes) {
      features(p, scaled);
      locate<D>(scaled, simplex);
      const int count = static_cast<int>(std::min<int64_t>(kLanes, last - p));
      for (int lane = 0; lane < count; ++lane) {
        int quotient[D + 1], order[D + 1];
        for (int j = 0; j <= D; ++j) {
          quotient[j] = simplex.quotient[j][lane];
          order[j] = simplex.rank[j][lane];
        }
        vertex_keys<D>(layout_, quotient, order, key);
        const int64_t at = (p + lane) * (D + 1);
        for (int r = 0; r <= D; ++r) {
          // Neighbouring pixels mostly share vertices: skip the look-up.
          if (key[r] != previous_key[r]) {
            number[r] = band.table.insert(key[r]);
            previous_key[r] = key[r];
          }
          lattice_.row[at + r] = number[r];
          lattice_.weight[at + r] = simplex.weight[r][lane];
        }
      }
    }
    if (has_origin(last)) {
      for (int j = 0; j < D; ++j) scaled[j] = Lanes{};
      locate<D>(scaled, simplex);
      int quotient[D + 1], order[D + 1];
      for (int j = 0; j <= D; ++j) quotient[j] = simplex.quotient[j][0], order[j] = simplex.rank[j][0];
      vertex_keys<D>(layout_, quotient, order, key);
      for (int r = 0; r <= D; ++r) band.table.insert(key[r]);
    }
  }

  // A vertex belongs to the first band that has it.
  void claim_vertices(int b) {
    Band& band = bands_[b];
    const auto& keys = band.table.keys();
    band.elsewhere.resize(keys.size());
    for (size_t n = 0; n < keys.size(); ++n) {
      band.elsewhere[n] = {b, static_cast<int32_t>(n)};
      for (int other = 0; other < b; ++other) {
        const int32_t found = bands_[other].table.find(keys[n]);
        if (found >= 0) {
          band.elsewhere[n] = {other, found};
          break;
        }
      }
      band.owned += band.elsewhere[n].first == b;
    }
  }

  void number_rows(int b) {
    Band& band = bands_[b];
    int64_t vertex = lattice_.vertex_rows[b], ghost = lattice_.ghost_rows[b];
    band.row.resize(band.elsewhere.size());
    for (size_t n = 0; n < band.row.size(); ++n) {
      const bool own = band.elsewhere[n].first == b;
      band.row[n] = static_cast<int32_t>(own ? vertex++ : ghost++);
      if (own) filter_.add(band.table.keys()[n]);
    }
    const auto [first, last] = band_pixels(lattice_.pixels, b, static_cast<int>(bands_.size()));
    int32_t* row = lattice_.row.get();
    for (int64_t i = first * (D + 1); i < last * (D + 1); ++i) row[i] = band.row[row[i]];
  }

  int64_t ghost_count(int b) const { return static_cast<int64_t>(bands_[b].elsewhere.size()) - bands_[b].owned; }

  void allocate_rows() {
    lattice_.vertex_rows.assign(1, 0);
    for (const Band& band : bands_) lattice_.vertex_rows.push_back(lattice_.vertex_rows.back() + band.owned);
    lattice_.vertices = lattice_.vertex_rows.back();
    lattice_.ghost_rows.assign(1, lattice_.vertices);
    for (size_t b = 0; b < bands_.size(); ++b) {
      lattice_.ghost_rows.push_back(lattice_.ghost_rows.back() + ghost_count(static_cast<int>(b)));
    }
    lattice_.rows = lattice_.ghost_rows.back();
    if (lattice_.rows > INT32_MAX) throw std::runtime_error("dense_crf: the image has more than 2^31 lattice vertices");
    filter_.reset(lattice_.vertices);
    next_.reset(new int32_t[lattice_.vertices * (D + 1)]);
    has_previous_.reset(new uint8_t[lattice_.vertices * (D + 1)]());
  }

  void collect_ghosts() {
    lattice_.ghosts.clear();
    for (size_t b = 1; b < bands_.size(); ++b) {
      for (size_t n = 0; n < bands_[b].row.size(); ++n) {
        const auto [owner, number] = bands_[b].elsewhere[n];
        if (owner == static_cast<int>(b)) continue;
        const uint64_t vertex = static_cast<uint32_t>(bands_[owner].row[number]);
        lattice_.ghosts.push_back(vertex << 32 | static_cast<uint32_t>(bands_[b].row[n]));
      }
    }
    std::sort(lattice_.ghosts.begin(), lattice_.ghosts.end());
  }

  // The true vertex of a key, or -1; looks in band b first.
  int32_t find_vertex(uint64_t key, int b) const {
    if (!filter_.may_have(key)) return -1;
    const int bands = static_cast<int>(bands_.size());
    for (int i = 0; i < bands; ++i) {
      const Band& band = bands_[(b + i) % bands];
      const int32_t number = band.table.find(key);
      if (number >= 0) {
        const auto [owner, its_number] = band.elsewhere[number];
        return bands_[owner].row[its_number];
      }
    }
    return -1;
  }

  void find_neighbours(int b) {
    const Band& band = bands_[b];
    const auto& keys = band.table.keys();
    for (size_t n = 0; n < keys.size(); ++n) {
      if (band.elsewhere[n].first != b) continue;
      for (int j = 0; j <= D; ++j) {
        const int32_t next = find_vertex(next_key<D>(layout_, keys[n], j), b);
        next_[j * lattice_.vertices + band.row[n]] = next;
        if (next >= 0) has_previous_[j * lattice_.vertices + next] = 1;
      }
    }
  }

  void chain_runs(int j) {
    const int32_t* next = next_.get() + j * lattice_.vertices;
    const uint8_t* has_previous = has_previous_.get() + j * lattice_.vertices;
    auto& runs = lattice_.runs[j];
    runs.clear();
    for (int64_t v = 0; v < lattice_.vertices; ++v) {
      if (has_previous[v] || next[v] < 0) continue;
      runs.push_back(~static_cast<int32_t>(v));
      for (int32_t n = next[v]; n >= 0; n = next[n]) runs.push_back(n);
    }
  }

  Lattice& lattice_;
  const KeyLayout<D>& layout_;
  std::vector<Band> bands_;
  VertexFilter filter_;
  std::unique_ptr<int32_t[]> next_;          // [D+1, vertices], -1: none
  std::unique_ptr<uint8_t[]> has_previous_;  // [D+1, vertices]
};

}  // namespace wsss
