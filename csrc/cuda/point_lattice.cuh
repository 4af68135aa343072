// The lattice of N points as plain arrays, and Gaussian filtering with it: the ops
// permutohedral_lattice and lattice_filter. Deterministic, like everything built on lattice.cuh.
#pragma once

#include <cfloat>
#include <cmath>
#include <vector>

#include "filter.cuh"
#include "lattice_build.cuh"
#include "point_lattice.h"

namespace wsss::cuda {

// low, high [blocks, d]: bounds of the features of each block (x) in dimension y;
// infinite if a feature is not finite.
__global__ static void feature_bounds(const float* features, int64_t points, int d, float* low,
                                      float* high) {
  __shared__ float lows[kThreads], highs[kThreads];
  const int j = static_cast<int>(blockIdx.y), own = static_cast<int>(threadIdx.x);
  float least = FLT_MAX, most = -FLT_MAX;
  for (int64_t p = thread_number(); p < points; p += thread_count()) {
    const float x = features[p * d + j];
    const bool finite = fabsf(x) <= FLT_MAX;
    least = fminf(least, finite ? x : -INFINITY);
    most = fmaxf(most, finite ? x : INFINITY);
  }
  lows[own] = least;
  highs[own] = most;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (own >= half) continue;
    lows[own] = fminf(lows[own], lows[own + half]);
    highs[own] = fmaxf(highs[own], highs[own + half]);
  }
  if (own == 0) {
    low[blockIdx.x * d + j] = lows[0];
    high[blockIdx.x * d + j] = highs[0];
  }
}

template <int D>
struct PointFeatures {
  const float* features;  // [N, D]
  float scale[D];
  __device__ __forceinline__ void operator()(int64_t, int64_t p, float* scaled) const {
#pragma unroll
    for (int j = 0; j < D; ++j) scaled[j] = features[p * D + j] * scale[j];
  }
};

// The positions [corners] of the origin, the last located point, in the sorted list.
__global__ static void find_origin(LatticeSize size, SortedEntries sorted, int32_t* position) {
  const int64_t i = thread_number(), located = size.located();
  if (i >= size.entries()) return;
  const int64_t r = sorted.entry[i] / located;
  if (sorted.entry[i] - r * located == size.points) position[r] = static_cast<int32_t>(i);
}

// The sorted list without the origin's entries; vertices that only the origin touches get none.
__global__ static void export_entries(LatticeSize size, SortedEntries sorted, const int32_t* origin,
                                      PointLattice to) {
  const int64_t i = thread_number(), entries = size.entries(), located = size.located();
  if (i >= entries) return;
  int64_t at = i;
  for (int r = 0; size.has_origin() && r < size.corners; ++r) at -= origin[r] < i;
  const int64_t r = sorted.entry[i] / located, p = sorted.entry[i] - r * located;
  if (p < size.points) to.entry[at] = static_cast<int32_t>(p * size.corners + r);
  if (sorted.name.differs_from_previous(i)) {
    to.first[sorted.number[i] - 1] = static_cast<int32_t>(at);
  }
  if (i == entries - 1) to.first[to.vertices] = static_cast<int32_t>(size.points * size.corners);
}

__global__ static void export_corners(const Corner* corner, PointLattice to) {
  const int64_t i = thread_number();
  if (i >= to.points * to.corners) return;
  const int64_t p = i / to.corners;
  const Corner c = corner[corner_index(to.points, p, static_cast<int>(i - p * to.corners))];
  to.row[i] = c.row;
  to.weight[i] = c.weight;
}

// The bounds of the features in one pass; raises if they are not finite.
template <class WithArena>
void find_bounds(Stream stream, const float* features, int64_t points, int d,
                 const WithArena& with_arena, double* from, double* to) {
  const int64_t blocks = std::min<int64_t>(blocks_for(points), 64), count = blocks * d;
  std::vector<float> bounds(2 * count);
  Arena measure;
  measure.allocate<float>(2 * count);
  with_arena(measure.peak(), [&](Arena& arena) {
    float* partial = arena.allocate<float>(2 * count);
    launch_with_barriers(stream, dim3(static_cast<unsigned>(blocks), d), kThreads, feature_bounds,
                         features, points, d, partial, partial + count);
    copy_to_host(stream, bounds.data(), partial, bounds.size() * sizeof(float));
  });
  for (int j = 0; j < d; ++j) {
    from[j] = bounds[j], to[j] = bounds[count + j];
    for (int64_t b = 1; b < blocks; ++b) {
      from[j] = std::min<double>(from[j], bounds[b * d + j]);
      to[j] = std::max<double>(to[j], bounds[count + b * d + j]);
    }
    if (!std::isfinite(from[j]) || !std::isfinite(to[j])) {
      throw std::invalid_argument("permutohedral_lattice: features has NaN or infinite values");
    }
  }
}

// features [points, d], points > 0. `with_arena(bytes, use)` allocates workspace;
// `allocate(vertices)` returns the arrays to fill. Waits for the device twice: for the features'
// bounds, which determine the keys' layout, and for the number of vertices.
template <class WithArena, class Allocate>
void build_point_lattice(Stream stream, const float* features, int64_t points, int d,
                         const WithArena& with_arena, const Allocate& allocate) {
  with_dimensions<1>("permutohedral_lattice", d, [&](auto dimensions) {
    constexpr int D = dimensions();
    const LatticeSize size{1, points, D + 1, 1};
    if (size.entries() > entry_limit()) {
      throw BeyondLimits("permutohedral_lattice: too many points for the CUDA kernel");
    }
    double from[D], to[D];
    find_bounds(stream, features, points, D, with_arena, from, to);
    PointFeatures<D> source{features, {}};
    feature_scale(D, source.scale);
    for (int j = 0; j < D; ++j) {
      // The origin's vertices may exist, too.
      from[j] = std::min(from[j], 0.0) * source.scale[j];
      to[j] = std::max(to[j], 0.0) * source.scale[j];
    }
    KeyLayout<D> layout;
    if (!layout.fit(from, to)) {
      throw BeyondLimits(
          "permutohedral_lattice: features span too much for the CUDA kernel's 64-bit keys");
    }
    const VertexNames<D> names(from, to);
    Lattice lattice;
    BuildSpace space;
    int32_t* origin;
    auto lay_out = [&](Arena& arena) {
      lattice = allocate_corners(arena, size, named_vertices(layout));
      space = allocate_build_space(arena, lattice, names.wide);
      origin = arena.allocate<int32_t>(size.corners);
    };
    Arena measure;
    lay_out(measure);
    with_arena(measure.peak(), [&](Arena& arena) {
      lay_out(arena);
      const SortedEntries sorted =
          number_vertices<D>(stream, lattice, space, source, layout, names);
      int32_t vertices = 0;
      copy_to_host(stream, &vertices, lattice.count, sizeof vertices);
      const PointLattice result = allocate(vertices);
      lattice.max_vertices = vertices;
      lattice.next = result.next;
      lattice.previous = result.previous;
      const unsigned blocks = blocks_for(size.entries());
      launch(stream, blocks, kThreads, find_origin, size, sorted, origin);
      launch(stream, blocks, kThreads, export_entries, size, sorted, origin, result);
      launch(stream, blocks, kThreads, export_corners, lattice.corner, result);
      link_vertices<D>(stream, lattice, space, layout);
    });
  });
}

// One thread per vertex and pack; `count` [2] receives the number of vertices and 0, which blur()
// reads.
template <int V, class Real>
__global__ void gather_entries(PointLattice l, const Real* in, int width, Real* values,
                               int32_t* count) {
  const int64_t v = row_number();
  if (v == 0 && threadIdx.x == 0) {
    count[0] = static_cast<int32_t>(l.vertices);
    count[1] = 0;
  }
  if (v >= l.vertices) return;
  const int32_t first = l.first[v], last = l.first[v + 1];
  for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
    Pack<V, Real> sum{};
#pragma unroll 4
    for (int32_t i = first; i < last; ++i) {
      const int32_t e = l.entry[i];
      add_scaled(sum, static_cast<Real>(l.weight[e]),
                 load<V>(in + static_cast<int64_t>(e / l.corners) * width + c));
    }
    store<V>(values + v * width + c, sum);
  }
}

template <int V, class Real>
__global__ void slice_points(PointLattice l, const Real* values, int width, Real gain, Real* out) {
  const int64_t p = row_number();
  if (p >= l.points) return;
  const int32_t* row = l.row + p * l.corners;
  const float* weight = l.weight + p * l.corners;
  for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
    Pack<V, Real> sum{};
#pragma unroll 3
    for (int r = 0; r < l.corners; ++r) {
      add_scaled(sum, weight[r] * gain, load<V>(values + row[r] * int64_t{width} + c));
    }
    store<V>(out + p * width + c, sum);
  }
}

// in, out [N, width]; `l` with N > 0 points and width > 0. Splat, blur directions 0..d
// (d..0 if reverse), slice, gain.
template <class Real, class WithArena>
void filter_points(Stream stream, const PointLattice& l, const Real* in, Real* out, int width,
                   bool reverse, const WithArena& with_arena) {
  auto lay_out = [&](Arena& arena, TermOf<Real>& t) {
    int32_t* count = arena.allocate<int32_t>(2);
    for (Real*& values : t.values) values = arena.allocate<Real>(l.vertices * width);
    t.count = t.end = count;
    t.begin = count + 1;
    return count;
  };
  TermOf<Real> term{};
  Arena measure;
  lay_out(measure, term);
  with_arena(measure.peak(), [&](Arena& arena) {
    TermsOf<Real> terms{};
    int32_t* count = lay_out(arena, term);
    term.next = l.next;
    term.previous = l.previous;
    term.corners = l.corners;
    term.copies = 1;
    terms.at[0] = term;
    // As lattice_gain.
    const Real gain =
        Real(1) / (Real(1) + Real(1) / static_cast<Real>(int64_t{1} << (l.corners - 1)));
    const int pack = std::min(pack_width<Real>(width, in), pack_width<Real>(width, out));
    const dim3 block = row_block((width + pack - 1) / pack);
    with_pack<Real>(pack, [&](auto v) {
      launch(stream, blocks_for(l.vertices, block.y), block, gather_entries<v(), Real>, l, in,
             width, term.values[0], count);
      blur_all(stream, terms, width, v(), reverse, l.vertices);
      launch(stream, blocks_for(l.points, block.y), block, slice_points<v(), Real>, l,
             term.blurred(), width, gain, out);
    });
  });
}

}  // namespace wsss::cuda
