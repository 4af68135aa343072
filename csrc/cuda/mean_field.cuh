// Mean field of the dense CRF (Kraehenbuehl and Koltun 2011, algorithm 1) for a batch, on lattices,
// without waiting for the device, so that the whole call can be captured in a CUDA graph.
//
// A channel is Q - 1/L of one of the first G-1 of the G groups of equal labels of a unary
// (label_groups.cuh): the messages of all L labels sum to 0, so the last group's needs no
// filtering, and constants cancel in the softmax. A pixel's channels are one row; those of each
// unary are padded to whole packs. The weights of corners and contributions include n, the term's
// weight and the lattice's gain, so that splat and slice need no other factor.
#pragma once

#include <cmath>

#include "filter.cuh"
#include "label_groups.cuh"
#include "pixel_lattice.h"

namespace wsss::cuda {

// Rows of half precision must neither overflow where many points share a vertex nor lose small
// sums: splat scales by this power of 2, slice by its inverse. A sum over N points is at most
// sqrt(N) * 2^corners.
constexpr float kSplatScale = 1.0f / 128.0f;

// Multiplies corner weights by n * amount / kSplatScale, with n from the blurred ones; writes n *
// kSplatScale, the factors of contributions, to `factor` [images * points].
__global__ static void normalise_corners(TermOf<float> t, Corner* corner, float amount, float gain,
                                         float* factor) {
  const int64_t p = thread_number();
  if (p >= t.points) return;
  const float* ones = t.blurred();
  float sum = 0.0f;
  for (int r = 0; r < t.corners; ++r) {
    const Corner c = corner[corner_index(t.points, p, r)];
    sum += c.weight * ones[c.row];
  }
  const float n = 1.0f / sqrtf(sum * gain + 1e-20f);
  const float f = n * (amount / kSplatScale);
  for (int r = 0; r < t.corners; ++r) corner[corner_index(t.points, p, r)].weight *= f;
  factor[p] = n * kSplatScale;
}

__global__ static void normalise_contributions(Contribution* contribution, int64_t entries,
                                               const float* factor) {
  const int64_t i = thread_number();
  if (i < entries) contribution[i].weight *= factor[contribution[i].point & ~kFirst];
}

// Copies the corners of part of a lattice, which others use as well, to be normalised; their rows
// are counted from the part's first vertex.
__global__ static void copy_corners(Lattice part, Corner* to) {
  const int64_t i = thread_number(), points = part.size.images * part.size.points;
  if (i >= points * part.size.corners) return;
  const int64_t r = i / points;
  const Corner c = part.corner[corner_index(part.corner_step, i - r * points, static_cast<int>(r))];
  to[i] = {c.row - *part.begin, c.weight};
}

// The same of contributions, whose points are counted from the part's first.
__global__ static void copy_contributions(Lattice part, Contribution* to) {
  const int64_t i = thread_number();
  if (i >= part.size.entries()) return;
  const Contribution c = part.contribution[i];
  const uint32_t first = static_cast<uint32_t>(part.first_point);
  to[i] = {(c.point & kFirst) | ((c.point & ~kFirst) - first), c.weight};
}

struct Update {
  const float* unary;  // [images, S, L, H, W]
  float* out;          // [images, S, L, H, W], or null: write q
  int64_t images;
  Bands bands;
  int sets, labels;
  RowWidth row;
  LabelGroups groups;
  bool message;

  WSSS_HD int64_t pixels() const { return int64_t{bands.height} * bands.width; }
};

// Reduces x with `combine` over the G lanes that share a pixel and set; all lanes get the result.
template <int G, class Combine>
__device__ __forceinline__ float across(float x, const Combine& combine) {
#pragma unroll
  for (int offset = G / 2; offset > 0; offset /= 2) {
    x = combine(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  return x;
}

// A pixel of an image, and the first of its unaries that a thread works on.
struct Place {
  uint32_t at, image, point, pixel;  // at: the point, counted over all images
  int set;
};

// z += the messages. With SETS > 1, z holds whole rows; otherwise the channels of one set: of G
// lanes, each has PER packs of V, pack lane + i * G. Neighbouring lanes read neighbouring packs.
template <int V, int G, int PER, int SETS, class T>
__device__ __forceinline__ void slice(const TermOf<T>& t, const Update& u, const Place& place,
                                      int lane, float* z) {
  const int used = SETS > 1 ? PER * V : u.row.used(), width = u.sets * used;
  const bool shared = t.copies > 1;
  const T* values =
      t.blurred() + (shared ? place.image * int64_t{*t.count} * width : 0) + place.set * used;
  const Corner* corner = t.corner + (shared ? place.point : place.at);
#pragma unroll(PER < 3 ? 3 : 2)  // as many as registers allow
  for (int r = 0; r < t.corners; ++r) {
    const Corner c = corner[corner_index(t.points, 0, r)];
    const T* row = values + static_cast<int64_t>(c.row) * width;
    if constexpr (SETS > 1) {
      constexpr int kWidth = SETS * PER * V, kPack = kWidth % 4 == 0 ? 4 : kWidth % 2 == 0 ? 2 : 1;
#pragma unroll
      for (int i = 0; i < kWidth; i += kPack) {
        const Pack<kPack> x = load_values<kPack>(row + i);
#pragma unroll
        for (int k = 0; k < kPack; ++k) z[i + k] = fmaf(c.weight, x.at[k], z[i + k]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < PER; ++i) {
        const int first = (lane + i * G) * V;
        if (first >= used) continue;
        const Pack<V> x = load_values<V>(row + first);
#pragma unroll
        for (int k = 0; k < V; ++k) z[i * V + k] = fmaf(c.weight, x.at[k], z[i * V + k]);
      }
    }
  }
}

// The groups of one unary. Rows of fewer than 4 channels always hold single labels.
template <int V>
struct Groups {
  const LabelGroups& tables;
  int64_t first;  // of the unary's entries in the tables
  int last;       // the last group, which is not carried

  __device__ __forceinline__ Groups(const LabelGroups& g, int64_t unary, int labels)
      : tables(g), first(unary * g.stride), last(merged() ? g.groups[unary] - 1 : labels - 1) {}
  __device__ __forceinline__ bool merged() const { return V == 4 && tables.widest != nullptr; }
  __device__ __forceinline__ float count(int k) const {
    return merged() ? tables.count[first + k] : 1.0f;
  }
  __device__ __forceinline__ int label(int k) const {
    return merged() ? tables.first[first + k] : k;
  }
  // Writes q as the Q of all labels of group k.
  __device__ __forceinline__ void write(float* out, int64_t pixels, int k, float q) const {
    if (!merged()) {
      out[k * pixels] = q;
      return;
    }
    for (int m = tables.start[first + k]; m < tables.start[first + k + 1]; ++m) {
      out[tables.member[first + m] * pixels] = q;
    }
  }
};

// Adds the unary to the messages z and takes the softmax; the LAST time writes Q, else the row of
// q. The order of all sums is that of the channels, whatever the width of the rows.
template <int V, int G, int PER, bool LAST, class T>
__device__ __forceinline__ void take_softmax(const Update& u, const Place& place, int lane,
                                             bool active, float* z, T* q) {
  const int64_t unary = static_cast<int64_t>(place.image) * u.sets + place.set;
  const Groups<V> groups(u.groups, unary, u.labels);
  const float* energy = u.unary + unary * u.labels * u.pixels() + place.pixel;
  // Padding channels are 0, and so are their messages.
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < PER * V; ++i) {
    const int k = (lane + i / V * G) * V + i % V;
    if (k < groups.last) sum = fmaf(groups.count(k), z[i], sum);
  }
  sum = across<G>(sum, [](float a, float b) { return a + b; });
  const float count = groups.count(groups.last),
              last = -sum / count - energy[groups.label(groups.last) * u.pixels()];
  float top = last;
#pragma unroll
  for (int i = 0; i < PER * V; ++i) {
    const int k = (lane + i / V * G) * V + i % V;
    z[i] = k < groups.last ? z[i] - energy[groups.label(k) * u.pixels()] : -INFINITY;
    top = fmaxf(top, z[i]);
  }
  top = across<G>(top, [](float a, float b) { return fmaxf(a, b); });
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < PER * V; ++i) {
    const int k = (lane + i / V * G) * V + i % V;
    z[i] = k < groups.last ? expf(z[i] - top) : 0.0f;
    if (k < groups.last) total = fmaf(groups.count(k), z[i], total);
  }
  const float last_share = expf(last - top);
  total = fmaf(count, last_share, across<G>(total, [](float a, float b) { return a + b; }));
  if (!active) return;
  const float inverse = 1.0f / total;
  if constexpr (LAST) {
    float* out = u.out + unary * u.labels * u.pixels() + place.pixel;
#pragma unroll
    for (int i = 0; i < PER * V; ++i) {
      const int k = (lane + i / V * G) * V + i % V;
      if (k < groups.last) groups.write(out, u.pixels(), k, z[i] * inverse);
    }
    if (lane == 0) groups.write(out, u.pixels(), groups.last, last_share * inverse);
    return;
  }
  const float mean = 1.0f / static_cast<float>(u.labels);
  const int used = u.row.used();
  T* row = q + (static_cast<int64_t>(place.at) * u.sets + place.set) * used;
#pragma unroll
  for (int i = 0; i < PER; ++i) {
    const int first = (lane + i * G) * V;
    if (first >= used) continue;
    Pack<V> x;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      x.at[k] = first + k < groups.last ? fmaf(z[i * V + k], inverse, -mean) : 0.0f;
    }
    store_values<V>(row + first, x);
  }
}

// Slices, adds the unary and takes the softmax: SETS unaries of a pixel (1, or all) by G lanes.
template <int V, int G, int PER, int SETS, bool LAST, class T>
__device__ __forceinline__ void update_rows(const Update& u, const TermsOf<T>& terms, T* q) {
  const int lane = static_cast<int>(threadIdx.x) % G;
  Place place{};
  unsigned block = blockIdx.x;
  if (SETS == 1 && u.sets > 1) {
    block /= static_cast<unsigned>(u.sets);
    place.set = static_cast<int>(blockIdx.x - block * static_cast<unsigned>(u.sets));
  }
  const uint32_t pixels = static_cast<uint32_t>(u.pixels()),
                 points = static_cast<uint32_t>(u.images) * pixels, first = block * (kThreads / G),
                 own = first + threadIdx.x / G;
  if (first >= points) return;  // the whole block
  const bool active = own < points;
  // Idle lanes repeat the first point, because shuffles need whole warps.
  place.at = active ? own : 0;
  place.image = place.at / pixels;
  place.point = place.at - place.image * pixels;
  place.pixel = u.bands.pixel(place.point);
  float z[SETS * PER * V] = {};
  if (u.message) {
#pragma unroll 1
    for (int k = 0; k < 2; ++k) {
      if (terms.at[k].corners) slice<V, G, PER, SETS>(terms.at[k], u, place, lane, z);
    }
  }
#pragma unroll
  for (int set = 0; set < SETS; ++set) {
    take_softmax<V, G, PER, LAST>(u, place, lane, active, z + set * PER * V, q);
    ++place.set;
  }
}

// Blocks per multiprocessor that registers for `values` of z allow.
constexpr int update_blocks(int values) { return values > 12 ? 2 : values >= 8 ? 3 : 4; }

template <int V, int G, int PER, int SETS, bool LAST, class T>
__global__ void __launch_bounds__(kThreads, update_blocks(V * PER * SETS))
    update(Update u, TermsOf<T> terms, T* q) {
  if constexpr (G > 1) {
    // Merging can leave rows so short that one thread per unary does.
    if (u.row.used() <= V) return update_rows<V, 1, 1, 1, LAST>(u, terms, q);
  }
  update_rows<V, G, PER, SETS, LAST>(u, terms, q);
}

template <int V, int G, int PER, int SETS = 1, class T>
void launch_update_as(Stream stream, const Update& u, const TermsOf<T>& terms, T* q) {
  const unsigned blocks = blocks_for(u.images * u.pixels(), kThreads / G);
  launch_with_barriers(
      stream, blocks_for(int64_t{blocks} * (SETS > 1 ? 1 : u.sets), 1), kThreads,
      u.out ? update<V, G, PER, SETS, true, T> : update<V, G, PER, SETS, false, T>, u, terms, q);
}

// Writes q [images * N, S * channels], unless u.out is given.
template <class T>
void launch_update(Stream stream, const Update& u, const TermsOf<T>& terms, T* q) {
  const int channels = u.row.channels, packs = channels / 4;
  if (u.sets == 2 && channels == 1) launch_update_as<1, 1, 1, 2>(stream, u, terms, q);
  else if (u.sets == 2 && channels == 2) launch_update_as<2, 1, 1, 2>(stream, u, terms, q);
  else if (u.sets == 2 && channels == 4) launch_update_as<4, 1, 1, 2>(stream, u, terms, q);
  else if (u.sets == 3 && channels == 1) launch_update_as<1, 1, 1, 3>(stream, u, terms, q);
  else if (u.sets == 3 && channels == 2) launch_update_as<2, 1, 1, 3>(stream, u, terms, q);
  else if (channels <= 1) launch_update_as<1, 1, 1>(stream, u, terms, q);
  else if (channels == 2) launch_update_as<2, 1, 1>(stream, u, terms, q);
  else if (packs == 1) launch_update_as<4, 1, 1>(stream, u, terms, q);
  else if (packs == 2) launch_update_as<4, 2, 1>(stream, u, terms, q);
  else if (packs <= 6) launch_update_as<4, 2, 3>(stream, u, terms, q);
  else if (packs <= 12) launch_update_as<4, 4, 3>(stream, u, terms, q);
  else if (packs <= 24) launch_update_as<4, 8, 3>(stream, u, terms, q);
  else launch_update_as<4, 16, 4>(stream, u, terms, q);
}

}  // namespace wsss::cuda
