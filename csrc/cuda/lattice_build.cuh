// Builds lattices without waiting for the device. An entry is a corner of a point's simplex, named
// by its vertex' key. Entries are sorted by short names of their vertices; equal neighbours in the
// sorted list are one vertex, and splatting reads the list itself. So neighbouring vertices mostly
// have near numbers, which makes blurring fast. No float atomics: results do not depend on
// scheduling, and those of an image not on the rest of its batch.
#pragma once

#include "lattice.cuh"
#include "vertex_names.cuh"

namespace wsss::cuda {

struct SortedEntries {  // [entries]
  SortKeys name;
  const uint32_t* entry;
  int32_t* number;  // vertex + 1
};

// The largest number of vertices that keys of a layout can name.
template <int D>
int64_t named_vertices(const KeyLayout<D>& layout) {
  const int cells = layout.bits - KeyLayout<D>::kRemainderBits;
  return cells < 40 ? (int64_t{1} << cells) * (D + 1) : INT64_MAX;
}

// An upper bound of the vertices of points in two dimensions whose scaled features are in [from[i],
// to[i]]. A vertex' coordinates differ from those of any point of its simplices by at most 2; the
// bound allows 1/4 for rounding errors.
inline int64_t plane_vertices(const double* from, const double* to) {
  // As in locate(). The coordinates are equal modulo 3 and sum to 0.
  const double low[] = {from[0] + from[1], from[1] - to[0], -2.0 * to[1]},
               high[] = {to[0] + to[1], to[1] - from[0], -2.0 * from[1]};
  int64_t least[3], most[3];
  for (int j = 0; j < 3; ++j) {
    if (high[j] - low[j] > 65536.0) return INT64_MAX;
    least[j] = static_cast<int64_t>(std::ceil(low[j] - 2.25));
    most[j] = static_cast<int64_t>(std::floor(high[j] + 2.25));
  }
  int64_t vertices = 0;
  for (int64_t x = least[0]; x <= most[0]; ++x) {
    const int64_t first = std::max(least[1], -x - most[2]), last = std::min(most[1], -x - least[2]);
    const int64_t skipped = ((x - first) % 3 + 3) % 3;
    if (first + skipped <= last) vertices += (last - first - skipped) / 3 + 1;
  }
  return vertices;
}

// One thread for each located point of an image, and each entry of its padding, which belongs to
// the first point's first vertex.
template <int D, class Source>
__global__ void locate_points(Source source, KeyLayout<D> layout, VertexNames<D> names,
                              LatticeSize size, BuildSpace s, Corner* corner) {
  const int64_t i = thread_number();
  const uint32_t per = static_cast<uint32_t>(size.entries_per_image()),
                 located = static_cast<uint32_t>(size.located()), threads = per - located * D;
  if (i >= size.images * threads) return;
  const uint32_t image = static_cast<uint32_t>(i) / threads,
                 own = static_cast<uint32_t>(i) - image * threads;
  const bool padding = own >= located;
  const uint32_t p = padding ? 0 : own;
  const bool real = p < size.points;
  float scaled[D];
#pragma unroll
  for (int j = 0; j < D; ++j) scaled[j] = 0.0f;
  if (real) source(image, p, scaled);
  Simplex<D, float, int> simplex;
  locate<D>(scaled, simplex);
  uint64_t keys[D + 1];
  vertex_keys<D>(layout, simplex.quotient, simplex.rank, keys);
  const uint64_t high = layout.bits < 64 ? static_cast<uint64_t>(image) << layout.bits : 0;
  const int64_t first = int64_t{image} * per + own;
#pragma unroll
  for (int r = 0; r <= D; ++r) {
    if (padding && r > 0) break;
    const int64_t e = padding ? first + int64_t{located} * D : first + int64_t{r} * located;
    s.key[e] = keys[r] | high;
    s.entry[0][e] = static_cast<uint32_t>(e);
    s.name[0].set(
        e, names.wide ? keys[r] | high : names.of(image, simplex.quotient, simplex.rank, r));
    if (!padding && real) {
      corner[corner_index(size.images * size.points, image * size.points + p, r)] = {
          0, simplex.weight[r]};
    }
  }
}

__global__ static void mark_first_entries(SortedEntries sorted, int64_t entries) {
  const int64_t i = thread_number();
  if (i < entries) sorted.number[i] = sorted.name.differs_from_previous(i);
}

// Numbers the corners' vertices.
__global__ static void number_corners(Lattice l, BuildSpace s, SortedEntries sorted) {
  const int64_t i = thread_number();
  if (i >= l.size.entries()) return;
  const int32_t v = sorted.number[i] - 1;
  const uint32_t e = sorted.entry[i], per = static_cast<uint32_t>(l.size.entries_per_image()),
                 located = static_cast<uint32_t>(l.size.located());
  const uint32_t image = e / per, local = e - image * per;
  const uint32_t r = local / located, p = local - r * located;
  if (r < static_cast<uint32_t>(l.size.corners) && p < l.size.points) {
    l.corner[corner_index(
                 l.size.images * l.size.points, image * l.size.points + p, static_cast<int>(r))]
        .row = v;
  }
  if (sorted.name.differs_from_previous(i)) s.vertex_key[v] = s.key[e];
  if (i == l.size.entries() - 1) *l.count = v + 1;
}

// Locates the points of all images and numbers their vertices.
template <int D, class Source>
SortedEntries number_vertices(Stream stream, const Lattice& l, const BuildSpace& s,
                              const Source& source, const KeyLayout<D>& layout,
                              const VertexNames<D>& names) {
  const int64_t entries = l.size.entries(), per = l.size.entries_per_image();
  launch(stream, blocks_for(l.size.images * (per - l.size.located() * D)), kThreads,
         locate_points<D, Source>, source, layout, names, l.size, s, l.corner);
  const int at = sort_pairs(stream, s.scratch, s.scratch_bytes, s.name, s.entry, entries,
                            names.bits(layout, l.size.images));
  const SortedEntries sorted{
      s.name[at], s.entry[at], reinterpret_cast<int32_t*>(s.name[1 - at].data)};
  launch(stream, blocks_for(entries), kThreads, mark_first_entries, sorted, entries);
  inclusive_sum(stream, s.scratch, s.scratch_bytes, sorted.number, entries);
  launch(stream, blocks_for(entries), kThreads, number_corners, l, s, sorted);
  return sorted;
}

__global__ static void list_contributions(Lattice l, SortedEntries sorted) {
  const int64_t i = thread_number();
  if (i >= l.size.entries()) return;
  const uint32_t e = sorted.entry[i];
  const bool head = sorted.name.differs_from_previous(i);
  const uint32_t per = static_cast<uint32_t>(l.size.entries_per_image()),
                 located = static_cast<uint32_t>(l.size.located());
  const uint32_t image = e / per, local = e - image * per;
  const uint32_t r = local / located, p = local - r * located;
  const bool real = r < static_cast<uint32_t>(l.size.corners) && p < l.size.points;
  // The origin and the padding contribute with weight 0, so any point serves.
  const int64_t point = image * l.size.points + (real ? p : 0);
  float weight = 0.0f;
  if (real) {
    weight =
        l.corner[corner_index(l.size.images * l.size.points, point, static_cast<int>(r))].weight;
  }
  l.contribution[contribution_index(i)] = {
      static_cast<uint32_t>(point) | (head ? kFirst : 0), weight};
  if (i % kGrain == 0) {
    const int32_t v = sorted.number[i] - 1;
    l.window[i / kGrain] = head ? v : ~v;
  }
}

__device__ __forceinline__ uint32_t hash_key(uint64_t key) {
  // Multiplicative hashing by the golden ratio (Knuth); every bit of the result depends on the key.
  key *= 0x9E3779B97F4A7C15ull;
  key ^= key >> 32;
  key *= 0x9E3779B97F4A7C15ull;
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

// blockIdx.y is the direction.
template <int D>
__global__ void find_neighbours(Lattice l, BuildSpace s, KeyLayout<D> layout) {
  const int32_t count = *l.count;
  const uint32_t mask = hash_slots(static_cast<uint32_t>(count)) - 1;
  const int j = static_cast<int>(blockIdx.y);
  int32_t* next = l.next + static_cast<int64_t>(j) * count;
  int32_t* previous = l.previous + static_cast<int64_t>(j) * count;
  for (int64_t v = thread_number(); v < count; v += thread_count()) {
    const uint64_t key = s.vertex_key[v];
    uint64_t wanted = 0;
#pragma unroll
    for (int k = 0; k <= D; ++k) {  // constant indices keep the layout in registers
      if (k == j) wanted = next_key<D>(layout, key, k);
    }
    uint32_t at = hash_key(wanted) & mask;
    int32_t found = s.slot[at];
    while (found >= 0 && s.vertex_key[found] != wanted) {
      at = (at + 1) & mask;
      found = s.slot[at];
    }
    next[v] = found;
    if (found >= 0) previous[found] = static_cast<int32_t>(v);  // one writer: its only predecessor
  }
}

// After number_vertices and list_contributions, whose space it overwrites.
template <int D>
void link_vertices(Stream stream, const Lattice& l, const BuildSpace& s,
                   const KeyLayout<D>& layout) {
  const unsigned blocks = std::min(resident_blocks(stream), blocks_for(l.max_vertices));
  launch(stream, blocks, kThreads, clear_slots, l.count, s.slot);
  launch(stream, blocks, kThreads, insert_vertices, l, s);
  launch(stream, dim3(blocks, D + 1), kThreads, find_neighbours<D>, l, s, layout);
}

// Builds the lattices of l.size.images images, whose keys must fit 64 bits; l.size.entries() must
// be at most entry_limit().
template <int D, class Source>
void build_lattice(Stream stream, const Lattice& l, const BuildSpace& s, const Source& source,
                   const KeyLayout<D>& layout, const VertexNames<D>& names) {
  const SortedEntries sorted = number_vertices<D>(stream, l, s, source, layout, names);
  launch(stream, blocks_for(l.size.entries()), kThreads, list_contributions, l, sorted);
  link_vertices<D>(stream, l, s, layout);
}

}  // namespace wsss::cuda
