// Builds lattices without waiting for the device. An entry is a corner of a point's simplex, named
// by its vertex' key. Entries are inserted into a hash table of their image; each slot keeps the
// first entry of a vertex, and numbering these first entries in order numbers the vertices,
// whatever the order in which threads ran. A stable sort by vertex then gives the lists that
// splatting reads. No float atomics: results do not depend on scheduling, and those of an image not
// on the rest of its batch.
#pragma once

#include "lattice.cuh"
#include "sorting.h"

namespace wsss::cuda {

constexpr uint32_t kEmpty = 0xffffffffu;  // of a slot; larger than any entry

// Memory that is needed only while building.
struct BuildSpace {
  uint64_t* key;                   // [entries]
  float* weight;                   // [entries] of the corner
  uint32_t* slot;                  // [images, slots] the first entry of a vertex, or kEmpty
  uint32_t* later;                 // [words] a bit for each entry: 0 if it is a vertex' first
  int32_t* number;                 // [words] first entries up to the end of each word
  uint32_t* vertex_entry;          // [max_vertices] the first entry
  uint32_t *vertex[2], *entry[2];  // [entries] to be sorted; before, vertex[0] are slots
  char* scratch;
  int64_t scratch_bytes;

  // The vertex of a first entry.
  __device__ __forceinline__ int32_t vertex_of(uint32_t first) const {
    const uint32_t word = first / 32, not_before = ~later[word] >> first % 32;
    return number[word] - __popc(not_before);
  }
};

struct SortedEntries {  // [entries] by vertex
  const uint32_t *vertex, *entry;
};

// The bits of a number of slots that leaves a third of them free at least.
inline int slot_bits(int64_t vertices) {
  int bits = 6;
  while ((int64_t{2} << bits) < vertices * 3) ++bits;
  return bits;
}

inline int bits_for(int64_t values) {
  int bits = 0;
  while ((int64_t{1} << bits) < values) ++bits;
  return bits;
}

inline int64_t entry_words(const LatticeSize& size) { return (size.entries() + 31) / 32; }

inline BuildSpace allocate_build_space(Arena& arena, const Lattice& l) {
  const int64_t entries = l.size.entries(), words = entry_words(l.size);
  BuildSpace s;
  s.vertex[0] = arena.allocate<uint32_t>(entries);
  s.entry[0] = arena.allocate<uint32_t>(entries);
  s.scratch_bytes =
      std::max(sum_scratch(words), sorting_scratch(entries, bits_for(l.max_vertices)));
  s.scratch = arena.allocate<char>(s.scratch_bytes);
  const int64_t mark = arena.mark();  // sorting follows when the rest is not needed any more
  // Contributions are listed last and take the place of the keys.
  s.key =
      l.has_lists ? reinterpret_cast<uint64_t*>(l.contribution) : arena.allocate<uint64_t>(entries);
  s.weight = arena.allocate<float>(entries);
  const int64_t slots = l.size.images << slot_bits(l.max_per_image);
  s.slot = arena.allocate<uint32_t>(slots + words);
  s.later = s.slot + slots;
  s.number = arena.allocate<int32_t>(words);
  s.vertex_entry = arena.allocate<uint32_t>(l.max_vertices);
  const int64_t end = arena.mark();
  arena.release(mark);
  s.vertex[1] = arena.allocate<uint32_t>(entries);
  s.entry[1] = arena.allocate<uint32_t>(entries);
  arena.release(std::max(arena.mark(), end));
  return s;
}

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

// One thread for each located point of an image.
template <int D, class Source>
__global__ void locate_points(Source source, KeyLayout<D> layout, LatticeSize size, BuildSpace s) {
  const int64_t i = thread_number();
  const uint32_t located = static_cast<uint32_t>(size.located());
  if (i >= size.images * located) return;
  const uint32_t image = static_cast<uint32_t>(i) / located,
                 p = static_cast<uint32_t>(i) - image * located;
  const bool real = p < size.points;
  float scaled[D];
#pragma unroll
  for (int j = 0; j < D; ++j) scaled[j] = 0.0f;
  if (real) source(image, p, scaled);
  Simplex<D, float, int> simplex;
  locate<D>(scaled, simplex);
  uint64_t keys[D + 1];
  vertex_keys<D>(layout, simplex.quotient, simplex.rank, keys);
  const int64_t first = image * size.entries_per_image() + p;
#pragma unroll
  for (int r = 0; r <= D; ++r) {
    const int64_t e = first + int64_t{r} * located;
    s.key[e] = keys[r];
    s.weight[e] = simplex.weight[r];
  }
}

__device__ __forceinline__ uint32_t hash_key(uint64_t key, int bits) {
  // Multiplicative hashing by the golden ratio (Knuth), whose highest bits depend on all others.
  key *= 0x9E3779B97F4A7C15ull;
  key ^= key >> 32;
  key *= 0x9E3779B97F4A7C15ull;
  return static_cast<uint32_t>(key >> (64 - bits));
}

// Reads that other threads' changes may precede or follow.
__device__ __forceinline__ uint32_t read_shared(const uint32_t* at) {
  return *static_cast<const volatile uint32_t*>(at);
}

// One thread for each entry. Which slot a vertex gets depends on scheduling, but not which entry is
// in it at the end: a slot's entry is only replaced by an earlier one of the same vertex. Reading
// before changing keeps threads with a common vertex from waiting for each other.
__global__ static void insert_entries(LatticeSize size, BuildSpace s, int bits) {
  const int64_t i = thread_number();
  if (i >= size.entries()) return;
  const uint32_t e = static_cast<uint32_t>(i),
                 per = static_cast<uint32_t>(size.entries_per_image());
  const uint32_t image = e / per, mask = (1u << bits) - 1;
  if (e - image * per >= size.located() * size.corners) return;  // padding
  const uint64_t key = s.key[e];
  uint32_t* slot = s.slot + (static_cast<int64_t>(image) << bits);
  uint32_t at = hash_key(key, bits);
  while (true) {
    uint32_t first = read_shared(slot + at);
    if (first == kEmpty) {
      first = atomicCAS(slot + at, kEmpty, e);
      if (first == kEmpty) break;
    }
    if (s.key[first] == key) {
      if (e < first) atomicMin(slot + at, e);
      break;
    }
    at = (at + 1) & mask;
  }
  s.vertex[0][e] = (image << bits) + at;
}

// One thread for each slot. Every bit is cleared by one thread only.
__global__ static void mark_first_entries(int64_t slots, BuildSpace s) {
  const int64_t i = thread_number();
  if (i >= slots) return;
  const uint32_t e = s.slot[i];
  if (e != kEmpty) atomicAnd(s.later + e / 32, ~(1u << e % 32));
}

__global__ static void count_first_entries(int64_t words, BuildSpace s) {
  const int64_t i = thread_number();
  if (i < words) s.number[i] = __popc(~s.later[i]);
}

// Padding belongs to the first vertex of its image.
__global__ static void number_entries(Lattice l, BuildSpace s) {
  const int64_t i = thread_number(), entries = l.size.entries();
  if (i >= entries) return;
  const uint32_t e = static_cast<uint32_t>(i),
                 per = static_cast<uint32_t>(l.size.entries_per_image()),
                 located = static_cast<uint32_t>(l.size.located());
  const uint32_t image = e / per, local = e - image * per;
  const uint32_t r = local / located, p = local - r * located;
  const bool padding = r >= static_cast<uint32_t>(l.size.corners);
  const uint32_t first = padding ? image * per : s.slot[s.vertex[0][e]];
  const int32_t v = s.vertex_of(first);
  s.vertex[0][e] = static_cast<uint32_t>(v);
  s.entry[0][e] = e;
  if (!padding && p < l.size.points) {
    l.corner[corner_index(l.size.images * l.size.points, image * l.size.points + p,
                          static_cast<int>(r))] = {v, s.weight[e]};
  }
  if (first == e) s.vertex_entry[v] = e;
  if (i == entries - 1) *l.count = s.number[i / 32];
}

// Locates the points of all images and numbers their vertices.
template <int D, class Source>
void number_vertices(Stream stream, const Lattice& l, const BuildSpace& s, const Source& source,
                     const KeyLayout<D>& layout) {
  const int bits = slot_bits(l.max_per_image);
  const int64_t entries = l.size.entries(), words = entry_words(l.size),
                slots = l.size.images << bits;
  // The first entries' bits follow the slots that were allocated: of all images of a full batch.
  fill_bytes(stream, s.slot, 0xff, (s.later - s.slot + words) * sizeof *s.slot);
  launch(stream, blocks_for(l.size.images * l.size.located()), kThreads, locate_points<D, Source>,
         source, layout, l.size, s);
  launch(stream, blocks_for(entries), kThreads, insert_entries, l.size, s, bits);
  launch(stream, blocks_for(slots), kThreads, mark_first_entries, slots, s);
  launch(stream, blocks_for(words), kThreads, count_first_entries, words, s);
  inclusive_sum(stream, s.scratch, s.scratch_bytes, s.number, words);
  launch(stream, blocks_for(entries), kThreads, number_entries, l, s);
}

__global__ static void clear_previous(const int32_t* count, int corners, int32_t* previous) {
  const int64_t links = static_cast<int64_t>(*count) * corners;
  for (int64_t i = thread_number(); i < links; i += thread_count()) previous[i] = -1;
}

// blockIdx.y is the direction.
template <int D>
__global__ void find_neighbours(Lattice l, BuildSpace s, KeyLayout<D> layout, int bits) {
  const int32_t count = *l.count;
  const uint32_t mask = (1u << bits) - 1, per = static_cast<uint32_t>(l.size.entries_per_image());
  const int j = static_cast<int>(blockIdx.y);
  int32_t* next = l.next + static_cast<int64_t>(j) * count;
  int32_t* previous = l.previous + static_cast<int64_t>(j) * count;
  for (int64_t v = thread_number(); v < count; v += thread_count()) {
    const uint32_t e = s.vertex_entry[v];
    const uint32_t* slot = s.slot + (static_cast<int64_t>(e / per) << bits);
    const uint64_t key = s.key[e];
    uint64_t wanted = 0;
#pragma unroll
    for (int k = 0; k <= D; ++k) {  // constant indices keep the layout in registers
      if (k == j) wanted = next_key<D>(layout, key, k);
    }
    uint32_t at = hash_key(wanted, bits), first = slot[at];
    while (first != kEmpty && s.key[first] != wanted) {
      at = (at + 1) & mask;
      first = slot[at];
    }
    const int32_t found = first == kEmpty ? -1 : s.vertex_of(first);
    next[v] = found;
    if (found >= 0) previous[found] = static_cast<int32_t>(v);  // one writer: its only predecessor
  }
}

// After number_vertices.
template <int D>
void link_vertices(Stream stream, const Lattice& l, const BuildSpace& s,
                   const KeyLayout<D>& layout) {
  const unsigned most = resident_blocks(stream);
  launch(stream, std::min(most, blocks_for(l.max_vertices * (D + 1))), kThreads, clear_previous,
         l.count, D + 1, l.previous);
  const dim3 grid(std::min(most, blocks_for(l.max_vertices)), D + 1);
  launch(stream, grid, kThreads, find_neighbours<D>, l, s, layout, slot_bits(l.max_per_image));
}

// After link_vertices, whose space it overwrites. Sorts stably: a vertex' entries keep their order.
inline SortedEntries sort_entries(Stream stream, const Lattice& l, const BuildSpace& s) {
  const int64_t entries = l.size.entries();
  const int at = sort_pairs(
      stream, s.scratch, s.scratch_bytes, s.vertex, s.entry, entries, bits_for(l.max_vertices));
  return {s.vertex[at], s.entry[at]};
}

__global__ static void list_contributions(Lattice l, SortedEntries sorted) {
  const int64_t i = thread_number();
  if (i >= l.size.entries()) return;
  const uint32_t v = sorted.vertex[i], e = sorted.entry[i];
  const bool head = i == 0 || sorted.vertex[i - 1] != v;
  const uint32_t per = static_cast<uint32_t>(l.size.entries_per_image()),
                 located = static_cast<uint32_t>(l.size.located());
  const uint32_t image = e / per, local = e - image * per;
  const uint32_t r = local / located, p = local - r * located;
  const bool real = r < static_cast<uint32_t>(l.size.corners) && p < l.size.points;
  // The origin and the padding contribute with weight 0, so any point serves.
  const int64_t point = image * l.size.points + (real ? p : 0);
  const float weight =
      real
          ? l.corner[corner_index(l.size.images * l.size.points, point, static_cast<int>(r))].weight
          : 0.0f;
  l.contribution[contribution_index(i)] = {
      static_cast<uint32_t>(point) | (head ? kFirst : 0), weight};
  if (i % kGrain == 0) {
    const int32_t row = static_cast<int32_t>(v);
    l.window[i / kGrain] = head ? row : ~row;
  }
}

// Builds the lattices of l.size.images images; l.size.entries() must be at most entry_limit().
template <int D, class Source>
void build_lattice(Stream stream, const Lattice& l, const BuildSpace& s, const Source& source,
                   const KeyLayout<D>& layout) {
  number_vertices<D>(stream, l, s, source, layout);
  link_vertices<D>(stream, l, s, layout);
  const SortedEntries sorted = sort_entries(stream, l, s);
  launch(stream, blocks_for(l.size.entries()), kThreads, list_contributions, l, sorted);
}

}  // namespace wsss::cuda
