// Splatting and blurring rows of `width` floats on lattices. Two terms (spatial, bilateral) share
// each launch: blockIdx.y is the term. A lattice may serve several images of one shape (copies),
// whose values follow each other.
#pragma once

#include "lattice.cuh"

namespace wsss::cuda {

template <class Real>
struct TermOf {
  const int32_t* count;
  const Corner* corner;
  const Contribution* contribution;
  const int32_t *window, *next, *previous;
  int corners = 0;  // 0: the term is off
  int64_t points;   // of the lattice
  int64_t entries;
  int64_t copies;
  // [copies * *count, width]: splat writes the first, each direction of the blur
  // reads one and writes the other.
  Real* values[2];
  Real* carry;  // [copies * windows, width]

  TermOf() = default;
  TermOf(const Lattice& l, int64_t copies, Real* values, Real* other, Real* carry)
      : count(l.count),
        corner(l.corner),
        contribution(l.contribution),
        window(l.window),
        next(l.next),
        previous(l.previous),
        corners(l.size.corners),
        points(l.size.images * l.size.points),
        entries(l.size.entries()),
        copies(copies),
        values{values, other},
        carry(carry) {}

  WSSS_HD const Real* blurred() const { return values[corners & 1]; }
  WSSS_HD int64_t windows(int span) const { return (entries + span - 1) / span; }
};

template <class Real>
struct TermsOf {
  TermOf<Real> at[2];
};
using Term = TermOf<float>;
using Terms = TermsOf<float>;

// Contributions per window: longer windows need fewer carries, where rows are wide
// enough to occupy all threads.
inline int window_span(int packs) { return packs < 4 ? kGrain : 2 * kGrain; }

// Sums one window of sorted contributions per thread: sums that start in it are written to values,
// the continuation of an earlier one to carry, so that every thread has equal work, however many
// points share a vertex. q [copies * points, width], or null for ones.
template <int V>
__global__ void splat(Terms terms, const float* q, int width, int span) {
  const Term& t = terms.at[blockIdx.y];
  if (t.corners == 0) return;
  const int64_t windows = t.windows(span), w = row_number();
  if (w >= windows * t.copies) return;
  const int64_t copy = w / windows, local = w - copy * windows;
  const int64_t first = local * span;
  const int length = static_cast<int>(t.entries - first < span ? t.entries - first : span);
  const int32_t code = t.window[first / kGrain];
  const float* points = q + copy * t.points * width;
  float* values = t.values[0] + copy * *t.count * width;
  constexpr int kBatch = 4;  // loads in flight
  for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
    int32_t v = code < 0 ? ~code : code;
    float* to = (code < 0 ? t.carry + w * width : values + static_cast<int64_t>(v) * width) + c;
    Pack<V> sum{};
    for (int i = 0; i < length; i += kBatch) {
      Contribution from[kBatch];
      Pack<V> x[kBatch];
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        from[u] = i + u < length ? t.contribution[contribution_index(first + i + u)]
                                 : Contribution{0, 0.0f};
        if (i + u == 0) from[u].point &= ~kFirst;  // `to` already belongs to its vertex
      }
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (q != nullptr) {
          x[u] = load<V>(points + static_cast<int64_t>(from[u].point & ~kFirst) * width + c);
        } else {
#pragma unroll
          for (float& one : x[u].at) one = 1.0f;
        }
      }
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (from[u].point & kFirst) {
          store<V>(to, sum);
          ++v;
          to = values + static_cast<int64_t>(v) * width + c;
          sum = Pack<V>{};
        }
        add_scaled(sum, from[u].weight, x[u]);
      }
    }
    store<V>(to, sum);
  }
}

// Adds the carries of the following windows to a vertex that began in an
// earlier one, in their order.
template <int V>
__global__ void add_carries(Terms terms, int width, int span) {
  const Term& t = terms.at[blockIdx.y];
  if (t.corners == 0) return;
  const int64_t windows = t.windows(span), w = row_number();
  if (w >= windows * t.copies) return;
  const int64_t copy = w / windows, local = w - copy * windows;
  if (local + 1 == windows) return;
  const int grains = span / kGrain;
  const int32_t* window = t.window + local * grains;
  const int32_t next = window[grains];
  // Nothing continues in the next window, or an earlier window began the vertex.
  if (next >= 0 || next == window[0]) return;
  int64_t more = 1;
  while (local + more + 1 < windows && window[(more + 1) * grains] == next) ++more;
  float* row = t.values[0] + (copy * *t.count + ~next) * width;
  for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
    Pack<V> sum = load<V>(row + c);
#pragma unroll 4
    for (int64_t k = 1; k <= more; ++k) {
      add_scaled(sum, 1.0f, load<V>(t.carry + (w + k) * width + c));
    }
    store<V>(row + c, sum);
  }
}

// [1/2 1 1/2] along one direction.
template <int V, class Real>
__global__ void blur(TermsOf<Real> terms, int step, bool reverse, int width) {
  const TermOf<Real>& t = terms.at[blockIdx.y];
  if (step >= t.corners) return;
  const int32_t count = *t.count;
  const int64_t rows = t.copies * count;  // < 2^31
  const int64_t direction = static_cast<int64_t>(reverse ? t.corners - 1 - step : step) * count;
  const Real* from = t.values[step & 1];
  Real* to = t.values[(step + 1) & 1];
  for (int64_t i = row_number(); i < rows; i += row_count()) {
    const int64_t copy = static_cast<uint32_t>(i) / static_cast<uint32_t>(count),
                  v = i - copy * count;
    const int32_t next = t.next[direction + v], previous = t.previous[direction + v];
    const int64_t base = copy * count;
    for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
      Pack<V, Real> x = load<V>(from + i * width + c), ahead{}, behind{};
      if (next >= 0) ahead = load<V>(from + (base + next) * width + c);
      if (previous >= 0) behind = load<V>(from + (base + previous) * width + c);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        x.at[k] = multiply_add(Real(0.5), ahead.at[k] + behind.at[k], x.at[k]);
      }
      store<V>(to + i * width + c, x);
    }
  }
}

template <class Real = float, class Work>
void with_pack(int pack, const Work& work) {
  if constexpr (sizeof(Real) == 4) {
    if (pack == 4) return work(std::integral_constant<int, 4>());
  }
  if (pack == 2) return work(std::integral_constant<int, 2>());
  work(std::integral_constant<int, 1>());
}

template <class Real>
void blur_all(Stream stream, const TermsOf<Real>& terms, int width, int pack, bool reverse,
              int64_t max_rows) {
  const dim3 block = row_block(width / pack);
  const dim3 grid(std::min(resident_blocks(stream), blocks_for(max_rows, block.y)),
                  terms.at[1].corners ? 2 : 1);
  const int steps = std::max(terms.at[0].corners, terms.at[1].corners);
  with_pack<Real>(pack, [&](auto v) {
    for (int step = 0; step < steps; ++step) {
      launch(stream, grid, block, blur<v(), Real>, terms, step, reverse, width);
    }
  });
}

// Splats q (null: ones) and blurs; the results are in blurred(). Rows have `width`
// floats and are aligned to a Pack.
inline void splat_and_blur(Stream stream, const Terms& terms, const float* q, int width,
                           int64_t max_rows) {
  const int pack = pack_width(width), span = window_span(width / pack);
  const dim3 block = row_block(width / pack);
  int64_t windows = 1;
  for (const Term& t : terms.at) {
    if (t.corners) windows = std::max(windows, t.windows(span) * t.copies);
  }
  const dim3 grid(blocks_for(windows, block.y), terms.at[1].corners ? 2 : 1);
  with_pack(pack, [&](auto v) {
    launch(stream, grid, block, splat<v()>, terms, q, width, span);
    launch(stream, grid, block, add_carries<v()>, terms, width, span);
  });
  blur_all(stream, terms, width, pack, false, max_rows);
}

}  // namespace wsss::cuda
