// Builds lattices, with code for common numbers of dimensions and for any other.
#include "lattice.h"
#include "vertex_table.h"

namespace wsss {
namespace {

// Builds a Lattice; every thread of the team calls build().
template <class Geometry, class Table>
class LatticeBuilder {
 public:
  using Key = typename Geometry::Key;

  LatticeBuilder(Lattice& lattice, const Geometry& geometry, int64_t pixels)
      : lattice_(lattice), geometry_(geometry) {
    const int64_t entries = tile_count(pixels) * kLanes * geometry.corners();
    lattice.corners = geometry.corners();
    lattice.pixels = pixels;
    lattice.row.reserve(entries);
    lattice.weight.reserve(entries);
    const int bands = band_count(pixels);
    // Photos have a vertex for every two to four pixels; growing a table costs as much as filling
    // it.
    const int64_t expected = std::max<int64_t>(1 << 9, pixels / bands / 2);
    for (int b = 0; b < bands; ++b) bands_.emplace_back(geometry.key_bits(), expected);
    if (bands > 1) tables_.resize(bands);
    owned_.assign(static_cast<size_t>(bands) * bands, 0);
  }

  static bool can_hold(const Geometry& geometry, int64_t pixels) {
    return Table::can_hold(geometry.key_bits(), (pixels + 1) * geometry.corners());
  }

  void build(Team& team, int rank, const TileFeatures& features) {
    const int bands = static_cast<int>(bands_.size());
    const auto [first, last] = Team::part(bands, rank, team.size());
    for (int b = first; b < last; ++b) insert_band(b, features);
    team.barrier();
    if (rank == 0) number_globally();
    team.barrier();
    for (int q = first; q < last; ++q) claim_vertices(q);
    team.barrier();
    if (rank == 0) allocate_rows();
    team.barrier();
    for (int b = first; b < last; ++b) number_rows(b);
    team.barrier();
    for (int q = first; q < last && !tables_.empty(); ++q) tables_[q]->renumber(row_.get());
    if (rank == team.size() - 1) collect_ghosts();
    team.barrier();
    for (int b = first; b < last; ++b) find_neighbours(b);
    team.barrier();
    for (int j = rank; j < lattice_.corners; j += team.size()) fill_previous(j);
    team.barrier();
  }

 private:
  // The vertices of a band, numbered in order of first occurrence.
  struct Band {
    Band(int key_bits, int64_t expected) : table(key_bits, expected) {}
    Table table;
    int32_t count = 0;
    Buffer<Key> keys;
    Buffer<float> mass;
    // The vertex' global number (first_global + number) in the band that owns it.
    Buffer<int32_t> owner;
    // The numbers in order of their key's part (part_of): part q is [start[q], start[q + 1]).
    Buffer<int32_t> by_part;
    std::vector<int32_t> start;
    int64_t first_global = 0;
    int64_t owned = 0;
  };

  // As in pydensecrf, which pads its last block of four pixels with zero
  // features, whose vertices exist.
  bool has_origin(int b) const {
    return b + 1 == static_cast<int>(bands_.size()) && lattice_.pixels % 4 != 0;
  }

  // Makes room for the vertices of one more tile.
  void extend(Band& band) const {
    const int64_t count = band.count + kLanes * geometry_.corners();
    band.keys.extend(count, band.count);
    band.mass.extend(count, band.count);
  }

  int32_t insert(Band& band, Key key) {
    const int32_t number = band.table.insert(key, band.count);
    if (number == band.count) {
      band.keys[number] = key;
      band.mass[number] = 0.0f;
      ++band.count;
    }
    return number;
  }

  void insert_band(int b, const TileFeatures& features) {
    Band& band = bands_[b];
    const auto [first, last] = band_tiles(lattice_.pixels, b, static_cast<int>(bands_.size()));
    const int corners = geometry_.corners();
    Lanes f[kMaxDimensions];
    typename Geometry::Tile tile;
    for (int64_t t = first; t < last; ++t) {
      extend(band);
      const int count = features(t, f);
      geometry_.locate(f, tile);
      for (int lane = count; lane < kLanes; ++lane) {
        for (int r = 0; r < corners; ++r) {
          tile.key[r][lane] = tile.key[r][0];
          tile.weight[r][lane] = 0.0f;
        }
      }
      int32_t* row = lattice_.row.get() + t * corners * kLanes;
      float* weight = lattice_.weight.get() + t * corners * kLanes;
      for (int r = 0; r < corners; ++r) store<kLanes>(weight + r * kLanes, tile.weight[r]);
      // Pixel by pixel: consecutive corners seldom have the same vertex, so that the
      // sums do not wait for each other.
      for (int lane = 0; lane < kLanes; ++lane) {
        for (int r = 0; r < corners; ++r) {
          const int32_t number = insert(band, tile.key[r][lane]);
          row[r * kLanes + lane] = number;
          band.mass[number] += weight[r * kLanes + lane];
        }
      }
    }
    if (has_origin(b)) {
      extend(band);
      std::fill(f, f + kMaxDimensions, Lanes{});
      geometry_.locate(f, tile);
      for (int r = 0; r < corners; ++r) insert(band, tile.key[r][0]);
    }
    if (!tables_.empty()) sort_by_part(band);
  }

  void sort_by_part(Band& band) const {
    band.start.assign(bands_.size() + 1, 0);
    for (int32_t n = 0; n < band.count; ++n) ++band.start[part_of(band.keys[n]) + 1];
    for (size_t q = 0; q < bands_.size(); ++q) band.start[q + 1] += band.start[q];
    std::vector<int32_t> at(band.start.begin(), band.start.end() - 1);
    band.by_part.reserve(band.count);
    for (int32_t n = 0; n < band.count; ++n) band.by_part[at[part_of(band.keys[n])]++] = n;
  }

  void number_globally() {
    int64_t all = 0;
    for (Band& band : bands_) {
      band.first_global = all;
      all += band.count;
    }
    if (all > INT32_MAX) {
      throw std::invalid_argument("permutohedral lattice: more than 2^31 vertices");
    }
    if (!tables_.empty()) {
      for (Band& band : bands_) band.owner.reserve(band.count);
    }
    row_.reserve(all);
  }

  int part_of(Key key) const { return static_cast<int>(mix(key) >> 40 & (bands_.size() - 1)); }

  // A vertex is owned by the first band that has it. Table q, filled by one
  // thread, holds one part of all keys.
  void claim_vertices(int q) {
    if (tables_.empty()) {
      bands_[0].owned = bands_[0].count;
      return;
    }
    int32_t most = 0;
    for (const Band& band : bands_) most = std::max(most, band.count);
    tables_[q] = std::make_unique<Table>(geometry_.key_bits(), most);
    for (size_t b = 0; b < bands_.size(); ++b) {
      Band& band = bands_[b];
      int64_t owned = 0;
      for (int32_t i = band.start[q]; i < band.start[q + 1]; ++i) {
        const int32_t n = band.by_part[i];
        const int32_t number = static_cast<int32_t>(band.first_global) + n;
        const int32_t owner = tables_[q]->insert(band.keys[n], number);
        band.owner[n] = owner;
        owned += owner == number;
      }
      owned_[b * bands_.size() + q] = owned;
    }
  }

  void allocate_rows() {
    const size_t bands = bands_.size();
    lattice_.vertex_rows.assign(1, 0);
    for (size_t b = 0; b < bands; ++b) {
      for (size_t q = 0; q < bands; ++q) bands_[b].owned += owned_[b * bands + q];
      lattice_.vertex_rows.push_back(lattice_.vertex_rows.back() + bands_[b].owned);
    }
    lattice_.vertices = lattice_.vertex_rows.back();
    lattice_.ghost_rows.assign(1, lattice_.vertices);
    for (const Band& band : bands_) {
      lattice_.ghost_rows.push_back(lattice_.ghost_rows.back() + band.count - band.owned);
    }
    lattice_.rows = lattice_.ghost_rows.back();
    lattice_.mass.reserve(lattice_.rows);
    lattice_.next.reserve(lattice_.vertices * lattice_.corners);
    lattice_.previous.reserve(lattice_.vertices * lattice_.corners);
  }

  bool owns(const Band& band, int32_t n) const {
    return tables_.empty() || band.owner[n] == band.first_global + n;
  }

  void number_rows(int b) {
    Band& band = bands_[b];
    int64_t vertex = lattice_.vertex_rows[b], ghost = lattice_.ghost_rows[b];
    int32_t* rows = row_.get() + band.first_global;
    for (int32_t n = 0; n < band.count; ++n) {
      rows[n] = static_cast<int32_t>(owns(band, n) ? vertex++ : ghost++);
      lattice_.mass.get()[rows[n]] = band.mass[n];
    }
    if (tables_.empty()) return;  // rows[n] == n
    const auto [first, last] = band_tiles(lattice_.pixels, b, static_cast<int>(bands_.size()));
    const int64_t entries = kLanes * lattice_.corners;
    int32_t* row = lattice_.row.get();
    for (int64_t i = first * entries; i < last * entries; ++i) row[i] = rows[row[i]];
  }

  void collect_ghosts() {
    lattice_.ghosts.clear();
    lattice_.ghosts.reserve(lattice_.rows - lattice_.vertices);
    for (size_t b = 1; b < bands_.size(); ++b) {
      const Band& band = bands_[b];
      for (int32_t n = 0; n < band.count; ++n) {
        if (owns(band, n)) continue;
        const uint64_t vertex = static_cast<uint32_t>(row_[band.owner[n]]);
        lattice_.ghosts.push_back(
            vertex << 32 | static_cast<uint32_t>(row_[band.first_global + n]));
      }
    }
    std::sort(lattice_.ghosts.begin(), lattice_.ghosts.end());
  }

  // In chunks: all look-ups of a chunk are prefetched before the first one, because they
  // rarely hit the L1 or L2 cache.
  void find_neighbours(int b) {
    constexpr int kChunk = 16;
    const Band& band = bands_[b];
    const int corners = geometry_.corners();
    const int64_t vertices = lattice_.vertices;
    const int32_t* rows = row_.get() + band.first_global;
    Key keys[kChunk][kMaxCorners];
    int32_t row[kChunk];
    for (int32_t n = 0; n < band.count;) {
      int count = 0;
      for (; count < kChunk && n < band.count; ++n) {
        if (!owns(band, n)) continue;
        row[count] = rows[n];
        for (int j = 0; j < corners; ++j) {
          keys[count][j] = geometry_.next(band.keys[n], j);
          table_of(band, keys[count][j]).prefetch(keys[count][j]);
        }
        ++count;
      }
      for (int j = 0; j < corners; ++j) {
        for (int i = 0; i < count; ++i) {
          lattice_.next[j * vertices + row[i]] = table_of(band, keys[i][j]).find(keys[i][j]);
        }
      }
    }
  }

  const Table& table_of(const Band& band, Key key) const {
    return tables_.empty() ? band.table : *tables_[part_of(key)];
  }

  void fill_previous(int j) {
    const int64_t vertices = lattice_.vertices;
    const int32_t* next = lattice_.next.get() + j * vertices;
    int32_t* previous = lattice_.previous.get() + j * vertices;
    std::fill(previous, previous + vertices, kNone);
    constexpr int64_t kAhead = 24;  // the stores miss the first-level cache
    int32_t nowhere;
    for (int64_t v = 0; v < vertices; ++v) {
      __builtin_prefetch(previous + next[std::min(v + kAhead, vertices - 1)], 1);
      // Not a branch: whether a neighbour exists cannot be predicted.
      int32_t* const to = next[v] == kNone ? &nowhere : previous + next[v];
      *to = static_cast<int32_t>(v);
    }
  }

  Lattice& lattice_;
  const Geometry geometry_;
  std::vector<Band> bands_;
  // From keys to global numbers, later to rows; empty when there is one band.
  std::vector<std::unique_ptr<Table>> tables_;
  std::vector<int64_t> owned_;  // [bands, tables]
  Buffer<int32_t> row_;         // by global number
};

template <class Geometry, class Table>
void build_lattice_with(Team& team, int rank, BuildState& state, Lattice& lattice,
                        const Geometry& geometry, int64_t pixels, const TileFeatures& features) {
  using Builder = LatticeBuilder<Geometry, Table>;
  if (rank == 0) state = std::make_shared<Builder>(lattice, geometry, pixels);
  team.barrier();
  static_cast<Builder*>(state.get())->build(team, rank, features);
  if (rank == 0) state.reset();
  team.barrier();
}

// Builds a lattice with 64-bit keys if `d` is D and such keys suffice; returns whether it did.
template <int D>
bool build_fixed_lattice(Team& team, int rank, BuildState& state, Lattice& lattice, int d,
                         int64_t pixels, const double* from, const double* to,
                         const TileFeatures& features) {
  if (d != D) return false;
  float scale[D];
  feature_scale(D, scale);
  double scaled_from[D], scaled_to[D];
  for (int i = 0; i < D; ++i) scaled_from[i] = from[i] * scale[i], scaled_to[i] = to[i] * scale[i];
  KeyLayout<D> layout;
  if (!layout.fit(scaled_from, scaled_to)) return false;
  const FixedGeometry<D> geometry(layout);
  if (LatticeBuilder<FixedGeometry<D>, CompactTable>::can_hold(geometry, pixels)) {
    build_lattice_with<FixedGeometry<D>, CompactTable>(
        team, rank, state, lattice, geometry, pixels, features);
  } else {
    build_lattice_with<FixedGeometry<D>, WideTable<uint64_t>>(
        team, rank, state, lattice, geometry, pixels, features);
  }
  return true;
}

}  // namespace

void build_lattice(Team& team, int rank, BuildState& state, Lattice& lattice, int d, int64_t pixels,
                   const double* from, const double* to, const TileFeatures& features) {
  // Positions alone, with a gray level, with a colour.
  if (build_fixed_lattice<2>(team, rank, state, lattice, d, pixels, from, to, features)) return;
  if (build_fixed_lattice<3>(team, rank, state, lattice, d, pixels, from, to, features)) return;
  if (build_fixed_lattice<5>(team, rank, state, lattice, d, pixels, from, to, features)) return;
  AnyGeometry geometry(d);
  if (!geometry.fit(from, to)) {
    throw std::invalid_argument(
        "permutohedral lattice: coordinates need more than 127 bits; use larger standard "
        "deviations");
  }
  build_lattice_with<AnyGeometry, WideTable<unsigned __int128>>(
      team, rank, state, lattice, geometry, pixels, features);
}

}  // namespace wsss
