// Permutohedral lattices of a batch of images, built without waiting for the device: the keys
// (image, vertex) of all corners are sorted; equal neighbours in the sorted list are one vertex,
// and splatting reads the list itself. The number of vertices stays on the device; memory and
// launches are sized by an upper bound. No float atomics: results do not depend on scheduling, and
// those of an image not on the rest of its batch.
#pragma once

#include "../math/lattice.h"

#include "arena.h"
#include "sorting.h"

namespace wsss::cuda {

struct Corner {  // of a point's simplex
  int32_t row;   // vertex
  float weight;
};

struct alignas(8) Contribution {  // of a point to a vertex
  uint32_t point;                 // the highest bit marks the first contribution of a vertex
  float weight;
};
constexpr uint32_t kFirst = 0x80000000u;
// Sorted contributions are cut into windows of equal work. Windows are stored as the columns of
// tiles, so that threads with neighbouring windows read neighbouring addresses; those of an image
// begin with a tile.
constexpr int kGrain = 16, kTileWindows = 32, kTile = kGrain * kTileWindows;

// Where contribution i is stored. Those of a window are kTileWindows apart.
WSSS_HD int64_t contribution_index(int64_t i) {
  const int within = static_cast<int>(i & (kTile - 1));
  return i - within + within % kGrain * kTileWindows + within / kGrain;
}

// Where corner r of point p is stored. Neighbouring points are neighbours.
WSSS_HD int64_t corner_index(int64_t points, int64_t p, int r) { return r * points + p; }

struct LatticeSize {
  int64_t images = 1, points = 0;  // points of one image
  int corners = 0;
  int align = 1;  // an image's entries are padded to a multiple of it

  // As in pydensecrf: when 4 does not divide the number of points, one more point at the
  // origin creates its vertices.
  WSSS_HD bool has_origin() const { return points % 4 != 0; }
  WSSS_HD int64_t entries_per_image() const {
    return ((points + has_origin()) * corners + align - 1) / align * align;
  }
  WSSS_HD int64_t entries() const { return images * entries_per_image(); }
};

struct Lattice {
  LatticeSize size;
  int64_t max_vertices = 0;    // an upper bound of *count
  int32_t* count;              // [1] vertices
  Corner* corner;              // [corners, images * points], see corner_index
  Contribution* contribution;  // [entries] sorted by vertex, see contribution_index
  // [entries / kGrain] the vertex of each kGrain-th contribution; ~vertex if
  // it is not the vertex' first.
  int32_t* window;
  int32_t* next;      // [corners, *count] -1: none
  int32_t* previous;  // [corners, *count] -1: none
};

// Memory that is needed only while building.
struct BuildSpace {
  uint64_t *key, *sorted_key;      // [entries]
  uint32_t *entry, *sorted_entry;  // [entries] image * entries_per_image + point * corners + corner
  int32_t *head, *number;          // [entries] whether it is its vertex' first; vertex + 1
  uint64_t* vertex_key;            // [max_vertices]
  int32_t* slot;                   // [hash_slots(max_vertices)] vertex or -1
  char* scratch;
  int64_t scratch_bytes;
};

// The number of slots of a hash table for `vertices`: a power of two, at least half of them free.
WSSS_HD uint32_t hash_slots(uint32_t vertices) {
  uint32_t slots = 64;
  while (slots / 2 < vertices) slots *= 2;
  return slots;
}

// The largest number of entries of one lattice: hash_slots stays below 2^32.
inline int64_t entry_limit() { return int64_t{1} << 30; }

inline Lattice allocate_lattice(Arena& arena, const LatticeSize& size, int64_t max_vertices) {
  Lattice l;
  l.size = size;
  l.max_vertices = std::min(max_vertices, size.entries());
  l.count = arena.allocate<int32_t>(1);
  l.corner = arena.allocate<Corner>(size.images * size.points * size.corners);
  l.contribution = arena.allocate<Contribution>((size.entries() + kTile - 1) / kTile * kTile);
  l.window = arena.allocate<int32_t>((size.entries() + kGrain - 1) / kGrain);
  l.next = arena.allocate<int32_t>(l.max_vertices * size.corners);
  l.previous = arena.allocate<int32_t>(l.max_vertices * size.corners);
  return l;
}

inline BuildSpace allocate_build_space(Arena& arena, int64_t entries, int64_t max_vertices) {
  BuildSpace s;
  s.key = arena.allocate<uint64_t>(entries);
  s.sorted_key = arena.allocate<uint64_t>(entries);
  s.entry = arena.allocate<uint32_t>(entries);
  s.sorted_entry = arena.allocate<uint32_t>(entries);
  s.head = arena.allocate<int32_t>(entries);
  s.number = arena.allocate<int32_t>(entries);
  s.vertex_key = arena.allocate<uint64_t>(max_vertices);
  s.slot = arena.allocate<int32_t>(hash_slots(static_cast<uint32_t>(max_vertices)));
  s.scratch_bytes = sorting_scratch(entries);
  s.scratch = arena.allocate<char>(s.scratch_bytes);
  return s;
}

// Key layout of any number of dimensions, and the largest number of vertices it can name.
struct AnyLayout {
  uint64_t unit[kMaxDimensions + 1];
  uint64_t all_units, remainder_mask;
  int bits;
  int64_t max_vertices;

  template <int D>
  explicit AnyLayout(const KeyLayout<D>& layout) {
    for (int j = 0; j <= D; ++j) unit[j] = layout.unit[j];
    all_units = layout.all_units;
    remainder_mask = (uint64_t{1} << KeyLayout<D>::kRemainderBits) - 1;
    bits = layout.bits;
    const int cells = bits - KeyLayout<D>::kRemainderBits;
    max_vertices = cells < 40 ? (int64_t{1} << cells) * (D + 1) : INT64_MAX;
  }
};

// Thread p of an image locates point p; the last one the origin and the padding. `source`
// fills a point's scaled features.
template <int D, class Source>
__global__ void locate_points(Source source, KeyLayout<D> layout, LatticeSize size, uint64_t* key,
                              uint32_t* entry, Corner* corner) {
  const int64_t per_image = size.points + 1;
  const int64_t i = thread_number();
  if (i >= size.images * per_image) return;
  const int64_t image = i / per_image, p = i - image * per_image;
  const bool real = p < size.points;
  float scaled[D];
#pragma unroll
  for (int j = 0; j < D; ++j) scaled[j] = 0.0f;
  // Without an origin, padding belongs to the first point's first vertex.
  if (real || !size.has_origin()) source(image, real ? p : 0, scaled);
  Simplex<D, float, int> simplex;
  locate<D>(scaled, simplex);
  uint64_t keys[D + 1];
  vertex_keys<D>(layout, simplex.quotient, simplex.rank, keys);
  const uint64_t high = layout.bits < 64 ? static_cast<uint64_t>(image) << layout.bits : 0;
  const int64_t per = size.entries_per_image(), first = image * per + p * (D + 1);
  if (real || size.has_origin()) {
#pragma unroll
    for (int r = 0; r <= D; ++r) {
      key[first + r] = keys[r] | high;
      entry[first + r] = static_cast<uint32_t>(first + r);
      if (real) {
        corner[corner_index(size.images * size.points, image * size.points + p, r)].weight =
            simplex.weight[r];
      }
    }
  }
  if (real) return;
  for (int64_t e = first + (size.has_origin() ? D + 1 : 0); e < (image + 1) * per; ++e) {
    key[e] = keys[0] | high;
    entry[e] = static_cast<uint32_t>(e);
  }
}

__global__ static void mark_heads(const uint64_t* sorted_key, int64_t entries, int32_t* head) {
  const int64_t i = thread_number();
  if (i < entries) head[i] = i == 0 || sorted_key[i] != sorted_key[i - 1];
}

__global__ static void list_contributions(Lattice l, BuildSpace s) {
  const int64_t i = thread_number(), entries = l.size.entries();
  if (i >= entries) return;
  const int32_t v = s.number[i] - 1;
  const bool head = s.head[i];
  const uint32_t e = s.sorted_entry[i], per = static_cast<uint32_t>(l.size.entries_per_image());
  const uint32_t image = e / per, local = e - image * per,
                 corners = static_cast<uint32_t>(l.size.corners);
  const bool real = local < l.size.points * corners;
  // The origin and the padding contribute with weight 0, so any point serves.
  const int64_t point = image * l.size.points + (real ? local / corners : 0);
  float weight = 0.0f;
  if (real) {
    Corner& c = l.corner[corner_index(
        l.size.images * l.size.points, point, static_cast<int>(local % corners))];
    c.row = v;
    weight = c.weight;
  }
  l.contribution[contribution_index(i)] = {
      static_cast<uint32_t>(point) | (head ? kFirst : 0), weight};
  if (i % kGrain == 0) l.window[i / kGrain] = head ? v : ~v;
  if (head) s.vertex_key[v] = s.sorted_key[i];
  if (i == entries - 1) *l.count = v + 1;
}

__device__ __forceinline__ uint32_t hash_key(uint64_t key) {
  key *= 0x9E3779B97F4A7C15ull;  // Knuth's multiplicative hashing, by the golden ratio
  return static_cast<uint32_t>(key >> 32);
}

__global__ static void clear_slots(const int32_t* count, int32_t* slot) {
  const int64_t slots = hash_slots(static_cast<uint32_t>(*count));
  for (int64_t i = thread_number(); i < slots; i += thread_count()) slot[i] = -1;
}

// The slot of a vertex depends on scheduling, but not what a look-up returns.
__global__ static void insert_vertices(Lattice l, BuildSpace s) {
  const int32_t count = *l.count;
  const uint32_t mask = hash_slots(static_cast<uint32_t>(count)) - 1;
  for (int64_t v = thread_number(); v < count; v += thread_count()) {
    uint32_t at = hash_key(s.vertex_key[v]) & mask;
    while (atomicCAS(s.slot + at, -1, static_cast<int32_t>(v)) != -1) at = (at + 1) & mask;
    for (int j = 0; j < l.size.corners; ++j) l.previous[static_cast<int64_t>(j) * count + v] = -1;
  }
}

__global__ static void find_neighbours(Lattice l, BuildSpace s, AnyLayout layout) {
  const int32_t count = *l.count;
  const uint32_t mask = hash_slots(static_cast<uint32_t>(count)) - 1;
  const int64_t links = static_cast<int64_t>(count) * l.size.corners;
  for (int64_t i = thread_number(); i < links; i += thread_count()) {
    const int64_t j = i / count, v = i - j * count;
    // As next_key in math/lattice.h, for any number of dimensions.
    const uint64_t key = s.vertex_key[v];
    const uint64_t back =
        key & layout.remainder_mask ? key - 1 : key + (l.size.corners - 1) - layout.all_units;
    const uint64_t wanted = back + layout.unit[j];
    uint32_t at = hash_key(wanted) & mask;
    int32_t found = s.slot[at];
    while (found >= 0 && s.vertex_key[found] != wanted) {
      at = (at + 1) & mask;
      found = s.slot[at];
    }
    l.next[i] = found;
    // one writer: its only predecessor
    if (found >= 0) l.previous[j * count + found] = static_cast<int32_t>(v);
  }
}

inline int bits_for(int64_t values) {
  int bits = 0;
  while ((int64_t{1} << bits) < values) ++bits;
  return bits;
}

// Builds the lattices of l.size.images images, whose keys must fit 64 bits; l.size.entries()
// must be below entry_limit().
template <int D, class Source>
void build_lattice(Stream stream, const Lattice& l, const BuildSpace& s, const Source& source,
                   const KeyLayout<D>& layout) {
  const int64_t entries = l.size.entries();
  launch(stream, blocks_for(l.size.images * (l.size.points + 1)), kThreads,
         locate_points<D, Source>, source, layout, l.size, s.key, s.entry, l.corner);
  sort_pairs(stream, s.scratch, s.scratch_bytes, s.key, s.sorted_key, s.entry, s.sorted_entry,
             entries, layout.bits + bits_for(l.size.images));
  launch(stream, blocks_for(entries), kThreads, mark_heads, s.sorted_key, entries, s.head);
  inclusive_sum(stream, s.scratch, s.scratch_bytes, s.head, s.number, entries);
  launch(stream, blocks_for(entries), kThreads, list_contributions, l, s);
  const unsigned blocks =
      std::min(resident_blocks(stream), blocks_for(l.max_vertices * l.size.corners));
  launch(stream, blocks, kThreads, clear_slots, l.count, s.slot);
  launch(stream, blocks, kThreads, insert_vertices, l, s);
  launch(stream, blocks, kThreads, find_neighbours, l, s, AnyLayout(layout));
}

// Calls work(std::integral_constant<int, D>) with D = dimensions.
template <int FROM, class Work>
void with_dimensions(const char* op, int dimensions, const Work& work) {
  if constexpr (FROM <= kMaxDimensions) {
    if (dimensions == FROM) return work(std::integral_constant<int, FROM>());
    with_dimensions<FROM + 1>(op, dimensions, work);
  } else {
    throw BeyondLimits(
        std::string(op) + ": the CUDA kernel has at most " + std::to_string(kMaxDimensions) +
        " dimensions, not " + std::to_string(dimensions));
  }
}

}  // namespace wsss::cuda
