// Splatting and blurring rows of values on lattices. Two terms (spatial, bilateral) share each
// launch: blockIdx.y is the term. A lattice may serve several images of one shape (copies), whose
// values follow each other. Values are float, double or __half; sums are float or double.
#pragma once

#include "element_type.cuh"
#include "lattice.cuh"

namespace wsss::cuda {

template <class T>
struct TermOf {
  const int32_t *count, *begin, *end;  // as in Lattice
  const Corner* corner;
  const Contribution* contribution;
  const int32_t *window, *next, *previous;
  int corners = 0;  // 0: the term is off
  int64_t points;   // of the lattice
  int64_t first_point = 0;
  int64_t entries;
  int64_t copies;
  // [copies * (*end - *begin), width]: splat writes the first, each pass of the blur the other.
  T* values[2];
  float* carry;  // [copies * windows, width]

  TermOf() = default;
  TermOf(const Lattice& l, int64_t copies, T* values, T* other, float* carry)
      : count(l.count),
        begin(l.begin),
        end(l.end),
        corner(l.corner),
        contribution(l.contribution),
        window(l.window),
        next(l.next),
        previous(l.previous),
        corners(l.size.corners),
        points(l.size.images * l.size.points),
        first_point(l.first_point),
        entries(l.size.entries()),
        copies(copies),
        values{values, other},
        carry(carry) {}

  WSSS_HD int passes() const { return (corners + 1) / 2; }
  WSSS_HD const T* blurred() const { return values[passes() & 1]; }
  WSSS_HD int64_t windows(int span) const { return entries / span; }
};

template <class T>
struct TermsOf {
  TermOf<T> at[2];
};

// The vertices whose rows exist.
struct VertexRange {
  int32_t begin;
  unsigned rows;
  template <class T>
  __device__ __forceinline__ explicit VertexRange(const TermOf<T>& t)
      : begin(*t.begin), rows(static_cast<unsigned>(*t.end - begin)) {}
  // How far the row of vertex 0 of a copy is, or would be, from the first row.
  __device__ __forceinline__ int64_t origin(unsigned copy) const {
    return int64_t{copy} * rows - begin;
  }
};

// The number of values in a row: `sets` times the channels of a unary.
struct RowWidth {
  int sets = 1, channels;           // at most
  const int32_t* widest = nullptr;  // on the device: the most groups of a unary (label_groups.cuh)

  RowWidth(int width) : channels(width) {}
  RowWidth(int sets, int channels, const int32_t* widest)
      : sets(sets), channels(channels), widest(widest) {}

  int most() const { return sets * channels; }
  // One group less than there are, in whole packs of 4.
  __device__ __forceinline__ int used() const {
    if (widest == nullptr) return channels;
    const int packs = (*widest + 2) / 4;
    return packs > 1 ? packs * 4 : 4;
  }
  __device__ __forceinline__ int row() const { return sets * used(); }
};

// The part of a thread in a block of kThreads that works on rows of `packs`.
struct BlockRows {
  unsigned lanes, rows, row, lane;
  __device__ __forceinline__ explicit BlockRows(unsigned packs)
      : lanes(packs < kThreads ? packs : kThreads),
        rows(kThreads / lanes),
        row(threadIdx.x / lanes),
        lane(threadIdx.x - row * lanes) {}
  __device__ __forceinline__ bool idle() const { return row >= rows; }
  __device__ __forceinline__ unsigned first() const { return blockIdx.x * rows + row; }
  __device__ __forceinline__ unsigned step() const { return gridDim.x * rows; }
};

template <int V, class T>
__device__ __forceinline__ Pack<V, Wide<T>> load_values(const T* from) {
  const Pack<V, T> stored = load<V>(from);
  Pack<V, Wide<T>> x;
#pragma unroll
  for (int i = 0; i < V; ++i) x.at[i] = static_cast<Wide<T>>(stored.at[i]);
  return x;
}

template <int V, class T>
__device__ __forceinline__ void store_values(T* to, const Pack<V, Wide<T>>& x) {
  Pack<V, T> stored;
#pragma unroll
  for (int i = 0; i < V; ++i) stored.at[i] = static_cast<T>(x.at[i]);
  store<V>(to, stored);
}

// Contributions per window: longer windows need fewer carries, where rows are wide
// enough to occupy all threads.
inline int window_span(int packs) { return packs < 4 ? kGrain : 2 * kGrain; }

// Sums one window of sorted contributions per thread: sums that start in it are written to values,
// the continuation of an earlier one to carry, so that every thread has equal work, however many
// points share a vertex. q [copies * points, width], or null for ones.
template <int V, class T>
__global__ void splat(TermsOf<T> terms, const T* q, RowWidth size, int span) {
  const TermOf<T>& t = terms.at[blockIdx.y];
  if (t.corners == 0) return;
  const int width = size.row(), grains = span / kGrain;
  const BlockRows part(width / V);
  if (part.idle()) return;
  const unsigned windows = static_cast<unsigned>(t.windows(span)),
                 total = windows * static_cast<unsigned>(t.copies);
  const VertexRange range(t);
  constexpr int kBatch = 4;  // loads in flight
  for (unsigned w = part.first(); w < total; w += part.step()) {
    const unsigned copy = t.copies == 1 ? 0 : w / windows, local = w - copy * windows;
    const int32_t code = t.window[local * grains];
    const T* points = q + (copy * t.points - t.first_point) * width;
    T* values = t.values[0] + range.origin(copy) * width;
    for (int c = static_cast<int>(part.lane) * V; c < width;
         c += static_cast<int>(part.lanes) * V) {
      int32_t v = code < 0 ? ~code : code;
      bool continues = code < 0;
      Pack<V> sum{};
      const auto write = [&] {
        if (continues) store<V>(t.carry + static_cast<int64_t>(w) * width + c, sum);
        else store_values<V>(values + static_cast<int64_t>(v) * width + c, sum);
        continues = false;
      };
      for (int i = 0; i < span; i += kBatch) {
        const Contribution* column = t.contribution + contribution_index(int64_t{local} * span + i);
        Contribution from[kBatch];
        Pack<V> x[kBatch];
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
          from[u] = column[u * kTileWindows];
          if (i + u == 0) from[u].point &= ~kFirst;  // the code tells its vertex
        }
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
          if (q != nullptr) {
            x[u] =
                load_values<V>(points + static_cast<int64_t>(from[u].point & ~kFirst) * width + c);
          } else {
#pragma unroll
            for (float& one : x[u].at) one = 1.0f;
          }
        }
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
          if (from[u].point & kFirst) {
            write();
            ++v;
            sum = Pack<V>{};
          }
          add_scaled(sum, from[u].weight, x[u]);
        }
      }
      write();
    }
  }
}

// A vertex that begins in one window and continues in the next ones, which have its carries.
struct Chain {
  unsigned window;  // where it begins, counted over all copies
  unsigned more;    // windows that continue it
  int32_t vertex;
};

// The chain that begins in window `local`; more is 0 if there is none.
__device__ __forceinline__ Chain find_chain(const int32_t* window, unsigned grains,
                                            unsigned windows, unsigned local) {
  if (local + 1 >= windows) return {0, 0, 0};
  const int32_t code = window[(local + 1) * grains];
  // Nothing continues in the next window, or an earlier window began the vertex.
  if (code >= 0 || code == window[local * grains]) return {0, 0, 0};
  const auto continues = [&](unsigned k) {
    return local + k < windows && window[(local + k) * grains] == code;
  };
  unsigned more = 1, step = 1;
  while (continues(more + step)) more += step, step *= 2;
  while (step > 1) {
    step /= 2;
    if (continues(more + step)) more += step;
  }
  return {0, more, ~code};
}

constexpr unsigned kShortChain = 8;  // up to which one thread adds the carries

// Adds the carries of a long chain: in 32 sums, of every 32nd carry each, by the whole block.
template <int V, class T>
__device__ void add_long_chain(const TermOf<T>& t, const Chain& chain, T* row, int width) {
  constexpr int kSums = 32, kLanes = kThreads / kSums;
  __shared__ Pack<V> part[kThreads];
  const int own = static_cast<int>(threadIdx.x), lane = own % kLanes;
  for (int first = 0; first < width; first += kLanes * V) {
    const int c = first + lane * V;
    Pack<V> sum{};
    if (c < width) {
#pragma unroll 4
      for (unsigned k = 1 + own / kLanes; k <= chain.more; k += kSums) {
        add_scaled(sum, 1.0f, load<V>(t.carry + int64_t{chain.window + k} * width + c));
      }
    }
    part[own] = sum;
    __syncthreads();
    if (own < kLanes && c < width) {
      Pack<V> total = load_values<V>(row + c);
      for (int i = 0; i < kSums; ++i) add_scaled(total, 1.0f, part[i * kLanes + lane]);
      store_values<V>(row + c, total);
    }
    __syncthreads();
  }
}

// Adds the carries of the following windows to a vertex, in an order that depends on their number.
template <int V, class T>
__global__ void add_carries(TermsOf<T> terms, RowWidth size, int span) {
  __shared__ Chain long_chain[kThreads];
  __shared__ int32_t long_chains;
  const TermOf<T>& t = terms.at[blockIdx.y];
  if (t.corners == 0) return;
  const int width = size.row();
  const BlockRows part(width / V);
  const unsigned windows = static_cast<unsigned>(t.windows(span)),
                 total = windows * static_cast<unsigned>(t.copies);
  const VertexRange range(t);
  const auto row_of = [&](const Chain& chain) {
    return t.values[0] + (range.origin(chain.window / windows) + chain.vertex) * width;
  };
  for (unsigned first = blockIdx.x * part.rows; first < total; first += part.step()) {
    if (threadIdx.x == 0) long_chains = 0;
    __syncthreads();
    const unsigned w = first + part.row;
    Chain chain{};
    if (!part.idle() && w < total)
      chain = find_chain(t.window, span / kGrain, windows, w % windows);
    chain.window = w;
    if (chain.more > kShortChain) {
      // In any order: the chains are independent.
      if (part.lane == 0) long_chain[atomicAdd(&long_chains, 1)] = chain;
    } else if (chain.more > 0) {
      T* row = row_of(chain);
      for (int c = static_cast<int>(part.lane) * V; c < width;
           c += static_cast<int>(part.lanes) * V) {
        Pack<V> sum = load_values<V>(row + c);
#pragma unroll 4
        for (unsigned k = 1; k <= chain.more; ++k) {
          add_scaled(sum, 1.0f, load<V>(t.carry + int64_t{w + k} * width + c));
        }
        store_values<V>(row + c, sum);
      }
    }
    __syncthreads();
    const int32_t found = long_chains;
    for (int32_t i = 0; i < found; ++i) {
      add_long_chain<V>(t, long_chain[i], row_of(long_chain[i]), width);
    }
    __syncthreads();
  }
}

// [1/2 1 1/2] of row v along one direction, whose neighbours are `next` and `previous`.
template <int V, class T>
__device__ __forceinline__ Pack<V, Wide<T>> blurred_row(const T* from, int width, int32_t v,
                                                        int32_t next, int32_t previous) {
  Pack<V, Wide<T>> x{}, ahead{}, behind{};
  if (v >= 0) x = load_values<V>(from + static_cast<int64_t>(v) * width);
  if (next >= 0) ahead = load_values<V>(from + static_cast<int64_t>(next) * width);
  if (previous >= 0) behind = load_values<V>(from + static_cast<int64_t>(previous) * width);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    x.at[k] = multiply_add(Wide<T>(0.5), ahead.at[k] + behind.at[k], x.at[k]);
  }
  return x;
}

// Two directions in one pass, which reads and writes fewer rows than two: the second direction's
// three rows are computed from the first one's. The last of an odd number has its own pass.
template <int V, class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) > 4 ? 2 : 3)
    blur(TermsOf<T> terms, int pass, bool reverse, RowWidth size) {
  const TermOf<T>& t = terms.at[blockIdx.y];
  if (pass >= t.passes()) return;
  const int width = size.row();
  const BlockRows part(width / V);
  if (part.idle()) return;
  const int32_t count = *t.count;
  const VertexRange range(t);
  const unsigned rows = static_cast<unsigned>(t.copies) * range.rows;  // < 2^31
  const int first = 2 * pass, second = first + 1;
  const bool pair = second < t.corners;
  const auto links = [&](int step) {
    return static_cast<int64_t>(reverse ? t.corners - 1 - step : step) * count;
  };
  const int32_t *next = t.next + links(first), *previous = t.previous + links(first);
  // From the first direction's neighbours to the second's; pointers would take more registers.
  const int64_t outer = pair ? links(second) - links(first) : 0;
  for (unsigned i = part.first(); i < rows; i += part.step()) {
    const unsigned copy = t.copies == 1 ? 0 : i / range.rows;
    const int32_t v = range.begin + static_cast<int32_t>(i - copy * range.rows);
    const int64_t base = range.origin(copy) * width;
    const int32_t row[3] = {v, pair ? next[outer + v] : -1, pair ? previous[outer + v] : -1};
    int32_t after[3], before[3];
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      after[k] = row[k] >= 0 ? next[row[k]] : -1;
      before[k] = row[k] >= 0 ? previous[row[k]] : -1;
    }
    for (int c = static_cast<int>(part.lane) * V; c < width;
         c += static_cast<int>(part.lanes) * V) {
      const T* from = t.values[pass & 1] + base + c;
      Pack<V, Wide<T>> x[3];
#pragma unroll
      for (int k = 0; k < 3; ++k) x[k] = blurred_row<V>(from, width, row[k], after[k], before[k]);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        x[0].at[k] = multiply_add(Wide<T>(0.5), x[1].at[k] + x[2].at[k], x[0].at[k]);
      }
      store_values<V>(t.values[(pass + 1) & 1] + base + static_cast<int64_t>(v) * width + c, x[0]);
    }
  }
}

template <class Real = float, class Work>
void with_pack(int pack, const Work& work) {
  if constexpr (sizeof(Real) <= 4) {
    if (pack == 4) return work(std::integral_constant<int, 4>());
  }
  if (pack == 2) return work(std::integral_constant<int, 2>());
  work(std::integral_constant<int, 1>());
}

template <class T>
void blur_all(Stream stream, const TermsOf<T>& terms, RowWidth width, int pack, bool reverse,
              int64_t max_rows) {
  const dim3 grid(
      std::min(3 * resident_blocks(stream), blocks_for(max_rows * (width.most() / pack))),
      terms.at[1].corners ? 2 : 1);
  const int passes = std::max(terms.at[0].passes(), terms.at[1].passes());
  with_pack<T>(pack, [&](auto v) {
    for (int pass = 0; pass < passes; ++pass) {
      launch(stream, grid, kThreads, blur<v(), T>, terms, pass, reverse, width);
    }
  });
}

// Blocks for `threads` threads of equal work, of which the device may need fewer: enough to share
// the work evenly, and few enough that those without work do not matter.
inline unsigned shared_blocks(Stream stream, int64_t threads) {
  return static_cast<unsigned>(std::min<int64_t>(
      std::max<int64_t>(1, (threads + kThreads - 1) / kThreads), 8 * resident_blocks(stream)));
}

// Splats q (null: ones) and blurs; the results are in blurred(). max_rows: of all lattices.
// `reverse`: the directions in reverse order, which is the transposed filter.
template <class T>
void splat_and_blur(Stream stream, const TermsOf<T>& terms, const T* q, RowWidth width,
                    int64_t max_rows, bool reverse = false) {
  const int pack = pack_width(width.most()), packs = width.most() / pack, span = window_span(packs);
  int64_t windows = 1;
  for (const TermOf<T>& t : terms.at) {
    if (t.corners) windows = std::max(windows, t.windows(span) * t.copies);
  }
  const dim3 grid(shared_blocks(stream, windows * packs), terms.at[1].corners ? 2 : 1);
  with_pack(pack, [&](auto v) {
    launch(stream, grid, kThreads, splat<v(), T>, terms, q, width, span);
    launch_with_barriers(stream, grid, kThreads, add_carries<v(), T>, terms, width, span);
  });
  blur_all(stream, terms, width, pack, reverse, max_rows);
}

#ifdef __CUDACC__
// Compiled once, in filter.cu.
extern template void splat_and_blur<float>(Stream, const TermsOf<float>&, const float*, RowWidth,
                                           int64_t, bool);
#endif

}  // namespace wsss::cuda
