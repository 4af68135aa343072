// Permutohedral lattices of a batch of images on the device, which lattice_build.cuh builds. The
// number of vertices stays on the device; memory and launches are sized by an upper bound.
#pragma once

#include "../math/lattice.h"

#include "arena.h"
#include "launch.cuh"
#include "sorting.h"

namespace wsss::cuda {

struct alignas(8) Corner {  // of a point's simplex
  int32_t row;              // vertex
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
  WSSS_HD int64_t located() const { return points + has_origin(); }
  // An image's entries are those of the located points' corners 0, then 1, and so on, then padding.
  WSSS_HD int64_t entries_per_image() const {
    return (located() * corners + align - 1) / align * align;
  }
  WSSS_HD int64_t entries() const { return images * entries_per_image(); }
};

struct Lattice {
  LatticeSize size;
  bool has_lists = false;     // contributions and windows
  int64_t max_per_image = 0;  // an upper bound of an image's vertices
  int64_t max_vertices = 0;   // an upper bound of *count
  // The first vertex, and the one after the last: 0 and *count, but for part of a batch's lattice.
  const int32_t *begin, *end;
  int64_t first_point = 0;     // of the part; contributions name points of the whole lattice
  int64_t corner_step = 0;     // corners r and r + 1 of a point are so many apart
  int32_t* count;              // [1] vertices of the whole lattice
  Corner* corner;              // [corners, images * points], see corner_index
  Contribution* contribution;  // [entries] sorted by vertex, see contribution_index
  // [entries / kGrain] the vertex of each kGrain-th contribution; ~vertex if
  // it is not the vertex' first.
  int32_t* window;
  int32_t* next;      // [corners, *count] -1: none
  int32_t* previous;  // [corners, *count] -1: none
};

// The largest number of entries of one lattice: hash tables have less than 2^32 slots.
inline int64_t entry_limit() { return int64_t{1} << 30; }

// Without contributions, windows and neighbours.
inline Lattice allocate_corners(Arena& arena, const LatticeSize& size, int64_t max_per_image) {
  Lattice l{};
  l.size = size;
  l.max_per_image = std::min(max_per_image, size.entries_per_image());
  l.max_vertices = l.max_per_image * size.images;
  l.count = arena.allocate<int32_t>(1);
  l.end = l.count;
  l.corner_step = size.images * size.points;
  l.corner = arena.allocate<Corner>(size.images * size.points * size.corners);
  return l;
}

// `size` must be aligned to kTile.
inline Lattice allocate_lattice(Arena& arena, const LatticeSize& size, int64_t max_per_image) {
  Lattice l = allocate_corners(arena, size, max_per_image);
  l.has_lists = true;
  l.contribution = arena.allocate<Contribution>(size.entries());
  l.window = arena.allocate<int32_t>(size.entries() / kGrain);
  l.begin = l.window;  // the first contribution is one to vertex 0
  l.next = arena.allocate<int32_t>(l.max_vertices * size.corners);
  l.previous = arena.allocate<int32_t>(l.max_vertices * size.corners);
  return l;
}

// For fewer images than memory was allocated for.
inline Lattice with_images(Lattice l, int64_t images) {
  l.size.images = images;
  l.max_vertices = l.max_per_image * images;
  l.corner_step = images * l.size.points;
  return l;
}

// The lattice of images [first, first + images) of `whole`, which has lists.
inline Lattice part_of(const Lattice& whole, int64_t first, int64_t images) {
  const int64_t windows = whole.size.entries_per_image() / kGrain;
  Lattice l = whole;
  l.size.images = images;
  l.max_vertices = l.max_per_image * images;
  l.first_point = first * l.size.points;
  l.corner += l.first_point;
  l.contribution += first * l.size.entries_per_image();
  // Vertices are numbered image by image, and an image's first contribution begins one.
  l.window += first * windows;
  l.begin = l.window;
  if (first + images < whole.size.images) l.end = l.window + images * windows;
  return l;
}

// Memory that is needed only while building.
struct BuildSpace {
  uint64_t* key;         // [entries]
  SortKeys name[2];      // [entries] of vertices, to be sorted
  uint32_t* entry[2];    // [entries]
  uint64_t* vertex_key;  // [max_vertices]
  int32_t* slot;         // [hash_slots(max_vertices)] vertex or -1
  char* scratch;
  int64_t scratch_bytes;
};

// The number of slots of a hash table for `vertices`: a power of two that leaves a third of them
// free at least.
WSSS_HD uint32_t hash_slots(uint32_t vertices) {
  uint32_t slots = 64;
  while (uint64_t{2} * slots < uint64_t{3} * vertices) slots *= 2;
  return slots;
}

// `wide`: names are 64 bits long.
inline BuildSpace allocate_build_space(Arena& arena, const Lattice& l, bool wide) {
  const int64_t entries = l.size.entries();
  BuildSpace s;
  s.vertex_key = arena.allocate<uint64_t>(l.max_vertices);
  // Contributions are listed last and take the place of the keys.
  s.key =
      l.has_lists ? reinterpret_cast<uint64_t*>(l.contribution) : arena.allocate<uint64_t>(entries);
  const int64_t mark = arena.mark();  // neighbours are found when sorting is over
  s.slot = arena.allocate<int32_t>(hash_slots(static_cast<uint32_t>(l.max_vertices)));
  const int64_t end = arena.mark();
  arena.release(mark);
  for (int i = 0; i < 2; ++i) {
    s.name[i] = {arena.allocate<char>(entries * (wide ? 8 : 4)), wide};
    s.entry[i] = arena.allocate<uint32_t>(entries);
  }
  s.scratch_bytes = std::max(sum_scratch(entries), sorting_scratch(entries, wide));
  s.scratch = arena.allocate<char>(s.scratch_bytes);
  arena.release(std::max(arena.mark(), end));
  return s;
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
