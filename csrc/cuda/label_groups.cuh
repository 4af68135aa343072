// Labels whose energies are equal at every pixel have equal Q: the mean field computes one of them
// and counts it several times, as on the CPU (cpu/merge.h). The groups stay on the device. Those of
// a unary do not depend on the other unaries; only the width of the rows does.
#pragma once

#include "arena.h"
#include "dense_crf.h"
#include "launch.cuh"

namespace wsss::cuda {

// The groups of equal labels of each unary, in the order of their first labels, except that the
// largest is the last. All null: each label is a group.
struct LabelGroups {
  int stride = 0;             // of the tables
  int32_t* widest = nullptr;  // [1] the most groups of a unary
  int32_t* groups;            // [unaries]
  uint8_t* first;             // [unaries, stride] each group's first label
  float* count;               // [unaries, stride] labels in each group; 0 beyond the last
  // The labels in the order of their groups, and where each group's begin.
  uint8_t* member;  // [unaries, stride]
  int16_t* start;   // [unaries, stride]
  // While merging: the first label that has the same energies at a few pixels, whether it differs
  // elsewhere, and how many labels have one.
  uint8_t *twin, *differs;  // [unaries, stride]
  int32_t* twins;           // [unaries]

  static LabelGroups allocate(Arena& arena, int64_t unaries, int labels) {
    static_assert(kMaxLabels <= 256 && kMaxLabels <= kThreads);
    LabelGroups g;
    g.stride = (labels + 1 + 3) / 4 * 4;
    g.widest = arena.allocate<int32_t>(1);
    g.groups = arena.allocate<int32_t>(unaries);
    g.twins = arena.allocate<int32_t>(unaries);
    g.count = arena.allocate<float>(unaries * g.stride);
    g.start = arena.allocate<int16_t>(unaries * g.stride);
    for (uint8_t** table : {&g.first, &g.member, &g.twin, &g.differs}) {
      *table = arena.allocate<uint8_t>(unaries * g.stride);
    }
    return g;
  }
};

// A block per unary, a thread per label.
__global__ static void find_twins(LabelGroups g, const float* unary, int labels, int64_t pixels) {
  __shared__ uint64_t sample[kThreads];
  __shared__ int32_t twins;
  const int l = static_cast<int>(threadIdx.x);
  const int64_t own = blockIdx.x;
  if (l == 0) {
    twins = 0;
    if (own == 0) *g.widest = 1;
  }
  if (l < labels) {
    constexpr int64_t kSamples = 8;
    const float* energy = unary + (own * labels + l) * pixels;
    uint64_t hash = 0;
    for (int64_t i = 0; i < kSamples; ++i) {
      hash = (hash ^ __float_as_uint(energy[(pixels - 1) * i / (kSamples - 1)])) *
             0x9E3779B97F4A7C15ull;
      hash ^= hash >> 29;
    }
    sample[l] = hash;
  }
  __syncthreads();
  if (l < labels) {
    int twin = 0;
    while (sample[twin] != sample[l]) ++twin;
    g.twin[own * g.stride + l] = static_cast<uint8_t>(twin);
    g.differs[own * g.stride + l] = 0;
    if (twin != l) atomicAdd(&twins, 1);
  }
  __syncthreads();
  if (l == 0) g.twins[own] = twins;
}

// Compares the bits of all energies of labels and their twins, V pixels per thread.
template <int V>
__global__ void compare_twins(LabelGroups g, const float* unary, int labels, int64_t pixels,
                              unsigned blocks_per_unary, int64_t unaries) {
  const unsigned part = blockIdx.x % blocks_per_unary, parts = blocks_per_unary;
  const int64_t own = blockIdx.x / blocks_per_unary;
  if (own >= unaries || g.twins[own] == 0) return;
  const uint8_t* twins = g.twin + own * g.stride;
  uint8_t* differs = g.differs + own * g.stride;
  const float* energy = unary + own * labels * pixels;
  for (int64_t p = (int64_t{part} * kThreads + threadIdx.x) * V; p < pixels;
       p += int64_t{parts} * kThreads * V) {
    int loaded = -1;
    Pack<V> expected{};
    for (int l = 0; l < labels; ++l) {
      const int twin = twins[l];
      if (twin == l) continue;
      if (twin != loaded) expected = load<V>(energy + twin * pixels + p);
      loaded = twin;
      const Pack<V> x = load<V>(energy + l * pixels + p);
      bool same = true;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        same = same && __float_as_uint(x.at[i]) == __float_as_uint(expected.at[i]);
      }
      if (!same) differs[l] = 1;
    }
  }
}

// A block per unary, a thread per label.
__global__ static void assign_groups(LabelGroups g, int labels) {
  __shared__ int16_t root[kThreads], size[kThreads];  // each label's group is named by its first
  __shared__ int32_t largest, groups;
  const int l = static_cast<int>(threadIdx.x);
  const int64_t own = blockIdx.x * int64_t{g.stride};
  const bool real = l < labels;
  if (real) root[l] = static_cast<int16_t>(g.differs[own + l] ? l : g.twin[own + l]);
  if (l == 0) groups = 0;
  __syncthreads();
  const bool alone = real && root[l] == l;
  if (real) {
    int members = 0;
    for (int m = l; alone && m < labels; ++m) members += root[m] == l;
    size[l] = static_cast<int16_t>(members);  // 0 unless it is a group's first
    if (alone) atomicAdd(&groups, 1);
  }
  __syncthreads();
  if (alone) {
    bool is_largest = true;
    for (int m = 0; m < labels; ++m) {
      is_largest = is_largest && (size[m] < size[l] || (size[m] == size[l] && m <= l));
    }
    if (is_largest) largest = l;
  }
  __syncthreads();
  const int last = groups - 1;
  if (alone) {
    int group = 0, start = 0;
    for (int m = 0; m < labels; ++m) {
      const bool before = size[m] > 0 && m != largest && (l == largest || m < l);
      group += before;
      start += before ? size[m] : 0;
    }
    g.first[own + group] = static_cast<uint8_t>(l);
    g.count[own + group] = size[l];
    g.start[own + group] = static_cast<int16_t>(start);
    for (int m = l; m < labels; ++m) {
      if (root[m] == l) g.member[own + start++] = static_cast<uint8_t>(m);
    }
  }
  for (int k = groups + l; k < g.stride; k += kThreads) {
    g.first[own + k] = 0;
    g.count[own + k] = 0.0f;
    g.start[own + k] = static_cast<int16_t>(labels);
  }
  if (l == 0) {
    g.groups[blockIdx.x] = groups;
    atomicMax(g.widest, last + 1);
  }
}

// Finds the groups of unary [unaries, labels, pixels].
inline void merge_labels(Stream stream, const LabelGroups& g, const float* unary, int64_t unaries,
                         int labels, int64_t pixels) {
  const unsigned all = blocks_for(unaries, 1);
  launch_with_barriers(stream, all, kThreads, find_twins, g, unary, labels, pixels);
  const bool whole = pixels % 4 == 0 && pack_width(pixels, unary) == 4;
  const unsigned blocks = blocks_for((pixels + (whole ? 3 : 0)) / (whole ? 4 : 1));
  launch(stream, blocks_for(unaries * blocks, 1), kThreads,
         whole ? compare_twins<4> : compare_twins<1>, g, unary, labels, pixels, blocks, unaries);
  launch_with_barriers(stream, all, kThreads, assign_groups, g, labels);
}

}  // namespace wsss::cuda
