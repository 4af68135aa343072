// Per-pixel losses and their gradient, where logits are resized to the labels' size (bilinear);
// resized logits are not stored. A block takes a cell, several in a row, or part of one: logits are
// interpolated along the row once for each class and column, then along columns for each pixel, and
// the block adds up the gradients of each cell's four logits. No float atomics.
#pragma once

#include "logit_cells.cuh"
#include "pixel_loss.cuh"

namespace wsss::cuda {

constexpr int kCellColumns = 64;  // that a block takes at once
constexpr int kCellRows = 64;

// A class and a column of pixels: the logits above and below, interpolated along the row; then the
// sums of their gradients.
template <class Real>
struct ColumnLogits {
  Real above, below;
};

template <class Real>
struct alignas(4 * sizeof(Real)) CellPixel {
  Real top, over;  // log sum exp of its logits: the maximum, and what is over it
  Real weight;     // 0 for a pixel that is not used
  int own;         // class
};

// The cells of a block.
struct CellBlock {
  int64_t image;
  unsigned row_cell, row_part, column_cell, column_part;
  int cells;  // in a row
};

// Shared memory of a block.
template <class Real>
struct CellMemory {
  static constexpr int kClasses = sizeof(Real) == 4 ? 27 : 12;  // at once
  static constexpr int kGroup = 3;                              // of them, for each thread
  static constexpr int kPixels = 4096 / sizeof(Real);
  static_assert(kPixels >= kCellColumns && kClasses % kGroup == 0);

  CellBlock block;
  Real background, foreground;  // weights of the pixels
  // One more column, so that the classes of a column lie in different banks.
  ColumnLogits<Real> logits[kClasses][kCellColumns + 1];
  CellPixel<Real> pixels[kPixels];
  Real row_fraction[kCellRows], column_fraction[kCellColumns];
  int64_t row_low, column_low[kCellColumns];
  int64_t column_start[kCellColumns + 1];  // of the block's cells, and the end of the last one
  int64_t row_start[2];
};

__device__ __forceinline__ CellBlock cell_block(const CellGrid& grid, int64_t first_image) {
  const unsigned columns = grid.columns.blocks(), rows = grid.rows.blocks();
  const unsigned column = blockIdx.x % columns, line = blockIdx.x / columns, row = line % rows;
  CellBlock b;
  b.image = first_image + line / rows;
  b.row_cell = row / grid.rows.parts;
  b.row_part = row % grid.rows.parts;
  b.column_cell = column / grid.columns.parts * grid.columns.per_block;
  b.column_part = column % grid.columns.parts;
  const unsigned left = grid.columns.cells - b.column_cell;
  b.cells = static_cast<int>(left < grid.columns.per_block ? left : grid.columns.per_block);
  return b;
}

// Sets column_start and row_start.
template <class Real>
__device__ __forceinline__ void find_cells(const CellGrid& grid, CellMemory<Real>& m) {
  const int thread = static_cast<int>(threadIdx.x), row = thread - 2 * kCellColumns;
  // The start of a part of a cell; after its last part, its end.
  const auto start = [](const CellAxis& axis, unsigned cell, unsigned part) {
    const int64_t first = cell_start<Real>(axis, cell);
    if (part == 0) return first;
    return first + (cell_start<Real>(axis, cell + 1) - first) * part / axis.parts;
  };
  const CellBlock& b = m.block;
  if (thread <= b.cells) {
    m.column_start[thread] =
        grid.columns.parts == 1 ? start(grid.columns, b.column_cell + thread, 0)
                                : start(grid.columns, b.column_cell, b.column_part + thread);
  }
  if (row == 0 || row == 1) m.row_start[row] = start(grid.rows, b.row_cell, b.row_part + row);
}

// Part of a block's pixels, as many as fit into its memory.
struct CellPatch {
  int y, x;  // from the block's first pixel
  int rows, columns;
};

// Sets the fractions and the low logits.
template <class Real>
__device__ __forceinline__ void find_sources(const CellGrid& grid, const CellPatch& p,
                                             CellMemory<Real>& m) {
  const int column = static_cast<int>(threadIdx.x), row = column - kCellColumns;
  if (column < p.columns) {
    const auto source = bilinear_source<Real>(
        m.column_start[0] + p.x + column, grid.columns.logits, grid.columns.pixels);
    m.column_low[column] = source.low;
    m.column_fraction[column] = grid.columns.resized() ? source.fraction : Real(0);
  }
  if (row >= 0 && row < p.rows) {
    const auto source =
        bilinear_source<Real>(m.row_start[0] + p.y + row, grid.rows.logits, grid.rows.pixels);
    m.row_fraction[row] = grid.rows.resized() ? source.fraction : Real(0);
    if (row == 0) m.row_low = source.low;
  }
}

// Sets m.logits for the classes from `first` on.
template <class T, class Label>
__device__ __forceinline__ void interpolate_rows(const PixelLossInput<T, Label>& in,
                                                 const CellGrid& grid, int64_t first, int classes,
                                                 const CellPatch& p, CellMemory<Wide<T>>& m) {
  using Real = Wide<T>;
  const PixelLossShape& s = in.s;
  if (p.rows == 0) return;
  const int64_t low_row = m.row_low, down = low_row + 1 < s.height ? s.width : 0;
  const T* from = in.logits + ((m.block.image * s.classes + first) * s.height + low_row) * s.width;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < classes * p.columns; i += kSumThreads) {
    const int k = i / p.columns, column = i - k * p.columns;
    const int64_t low = m.column_low[column], right = low + 1 < s.width ? 1 : 0;
    const T* at = from + k * s.height * s.width + low;
    const Real fraction = m.column_fraction[column];
    const auto read = [&](const T* z) {
      const Real left = static_cast<Real>(z[0]);
      return grid.columns.resized() ? interpolate(left, static_cast<Real>(z[right]), fraction)
                                    : left;
    };
    // Rows that keep their size do not read the one below.
    m.logits[k][column] = {read(at), grid.rows.resized() ? read(at + down) : Real(0)};
  }
}

// Reads labels; the sums over classes are still empty.
template <class T, class Label>
__device__ __forceinline__ void read_pixels(const PixelLossInput<T, Label>& in, const CellPatch& p,
                                            CellMemory<Wide<T>>& m) {
  using Real = Wide<T>;
  const int64_t width = in.s.label_width, y = m.row_start[0] + p.y, x = m.column_start[0] + p.x;
  const Label* from = in.labels + (m.block.image * in.s.label_height + y) * width + x;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < p.rows * p.columns; i += kSumThreads) {
    const int row = i / p.columns, column = i - row * p.columns;
    const auto t = target_of<Real>(in, m.background, m.foreground, from[row * width + column]);
    m.pixels[i] = {lowest(Real(0)), 0, t.weight, static_cast<int>(t.own)};
  }
}

// Adds classes to the pixels' sums of exponentials, which are in `over` for now.
template <class Real>
__device__ __forceinline__ void sum_exponentials(int classes, bool some_before, const CellPatch& p,
                                                 CellMemory<Real>& m) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < p.rows * p.columns; i += kSumThreads) {
    const int row = i / p.columns, column = i - row * p.columns;
    const Real fraction = m.row_fraction[row], rest = 1 - fraction;
    const auto value = [&](int k) {
      const ColumnLogits<Real> z = m.logits[k][column];
      return multiply_add(fraction, z.below, rest * z.above);
    };
    const Real before = m.pixels[i].top;
    Real top = before;
#pragma unroll 3
    for (int k = 0; k < classes; ++k) {
      const Real z = value(k);
      top = z > top ? z : top;
    }
    Real sum = some_before ? m.pixels[i].over * exponential(before - top) : Real(0);
#pragma unroll 3
    for (int k = 0; k < classes; ++k) sum += exponential(value(k) - top);
    m.pixels[i].top = top;
    m.pixels[i].over = sum;
  }
}

// Replaces sums of exponentials by their logarithms; returns the weighted sum of those.
template <class Real>
__device__ __forceinline__ double take_logarithms(const CellPatch& p, CellMemory<Real>& m) {
  double loss = 0;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < p.rows * p.columns; i += kSumThreads) {
    CellPixel<Real>& pixel = m.pixels[i];
    // Empty where all logits are -infinity.
    pixel.over = pixel.over > 0 ? logarithm(pixel.over) : static_cast<Real>(NAN);
    if (pixel.weight != 0) loss += static_cast<double>(pixel.weight * pixel.over);
  }
  return loss;
}

// The weighted losses of one class, added up over the pixels of a column. add() returns the
// weighted derivative. A pixel that is not used adds nothing to the loss, whatever its logits are.
template <class Real>
struct SoftmaxSum {
  Real sum = 0;  // all but the weighted `over`

  __device__ __forceinline__ Real add(const CellPixel<Real>& pixel, Real value, Real target) {
    const Real behind = value - pixel.top, share = pixel.weight * target;
    // Nor does a class without a share of the target.
    sum += share > 0 ? -share * behind : Real(0);
    return pixel.weight * (exponential(behind - pixel.over) - target);
  }
  __device__ __forceinline__ Real total(const CellMemory<Real>&) const { return sum; }
};

template <class Real>
struct BinarySum {
  Real sum = 0, background = 1, foreground = 1;  // products instead of sums of logarithms
  static_assert(kCellRows <= 64);                // of factors up to 2

  __device__ __forceinline__ Real add(const CellPixel<Real>& pixel, Real value, Real target) {
    const auto term = binary_term(value, target);
    const bool used = pixel.weight != 0;
    sum += used ? pixel.weight * term.linear : Real(0);
    background *= used && pixel.own == 0 ? term.over : Real(1);
    foreground *= used && pixel.own != 0 ? term.over : Real(1);
    return pixel.weight * term.slope;
  }
  __device__ __forceinline__ Real total(const CellMemory<Real>& m) const {
    return sum + m.background * logarithm(background) + m.foreground * logarithm(foreground);
  }
};

// Replaces the logits of each class and column by their gradients; returns what these classes add
// to the loss, by a Sum for each class and column.
template <template <class> class Sum, class T, class Label>
__device__ __forceinline__ double sum_columns(const PixelLossInput<T, Label>& in, int first,
                                              int classes, const CellPatch& p,
                                              CellMemory<Wide<T>>& m) {
  using Real = Wide<T>;
  constexpr int kGroup = CellMemory<Real>::kGroup;
  const unsigned char* present = present_in(in, m.block.image);
  double loss = 0;
  const int groups = (classes + kGroup - 1) / kGroup;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < groups * p.columns; i += kSumThreads) {
    const int group = i / p.columns, column = i - group * p.columns, k = group * kGroup;
    ColumnLogits<Real> z[kGroup], slope[kGroup] = {};
    Sum<Real> sum[kGroup];
#pragma unroll
    for (int j = 0; j < kGroup; ++j) z[j] = m.logits[k + j < classes ? k + j : k][column];
#pragma unroll 1
    for (int row = 0; row < p.rows; ++row) {
      const CellPixel<Real> pixel = m.pixels[row * p.columns + column];
      const Real fraction = m.row_fraction[row], rest = 1 - fraction;
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const Real value = multiply_add(fraction, z[j].below, rest * z[j].above);
        const Real target = in.other + (first + k + j == pixel.own ? in.own_more : Real(0));
        const Real s = sum[j].add(pixel, value, target);
        slope[j].above = multiply_add(rest, s, slope[j].above);
        slope[j].below = multiply_add(fraction, s, slope[j].below);
      }
    }
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      if (k + j >= classes) break;
      const bool counts = present == nullptr || present[first + k + j];
      if (counts) loss += static_cast<double>(sum[j].total(m));
      m.logits[k + j][column] = counts ? slope[j] : ColumnLogits<Real>{};
    }
  }
  return loss;
}

// Adds up the columns of each cell: sums [places, 4, K] of the image, gradients of the cell's
// logits at the upper left, upper right, lower left and lower right.
template <class Real>
__device__ __forceinline__ void sum_corners(const CellGrid& grid, int64_t classes, int first,
                                            int count, bool add, const CellPatch& p,
                                            const CellMemory<Real>& m, Real* sums) {
  const CellBlock& b = m.block;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < b.cells * 4 * count; i += kSumThreads) {
    const int k = i % count, cell = i / count / 4, corner = i / count % 4;
    const auto column = [&](int64_t start) {
      const int x = static_cast<int>(start - m.column_start[0]) - p.x;
      return x < 0 ? 0 : x > p.columns ? p.columns : x;
    };
    const int last = column(m.column_start[cell + 1]);
    Real sum = 0;
#pragma unroll 4
    for (int x = column(m.column_start[cell]); x < last; ++x) {
      const ColumnLogits<Real> slope = m.logits[k][x];
      const Real right = m.column_fraction[x];
      sum =
          multiply_add(corner % 2 ? right : 1 - right, corner < 2 ? slope.above : slope.below, sum);
    }
    const int64_t place = grid.place(b.row_cell, b.row_part, b.column_cell + cell, b.column_part);
    Real& to = sums[(place * 4 + corner) * classes + first + k];
    to = add ? to + sum : sum;
  }
}

// Computes a patch: adds its gradients to sums, unless that is null, and returns its loss.
template <class T, class Label>
__device__ __forceinline__ double compute_patch(const PixelLossInput<T, Label>& in,
                                                const CellGrid& grid, bool add, const CellPatch& p,
                                                CellMemory<Wide<T>>& m, Wide<T>* sums) {
  constexpr int kClasses = CellMemory<Wide<T>>::kClasses;
  const int all = static_cast<int>(in.s.classes);
  const bool softmax = in.kind == PixelLossKind::kCrossEntropy;
  const auto count = [=](int first) { return all - first < kClasses ? all - first : kClasses; };
  double loss = 0;
  __syncthreads();
  find_sources(grid, p, m);
  read_pixels(in, p, m);
  __syncthreads();
#pragma unroll 1
  for (int first = 0; softmax && first < all; first += kClasses) {
    interpolate_rows(in, grid, first, count(first), p, m);
    __syncthreads();
    sum_exponentials(count(first), first > 0, p, m);
    __syncthreads();
  }
  if (softmax) loss += take_logarithms(p, m);
#pragma unroll 1
  for (int first = 0; first < all; first += kClasses) {
    // The only classes are still there.
    if (!softmax || all > kClasses) interpolate_rows(in, grid, first, count(first), p, m);
    __syncthreads();
    loss += softmax ? sum_columns<SoftmaxSum>(in, first, count(first), p, m)
                    : sum_columns<BinarySum>(in, first, count(first), p, m);
    __syncthreads();
    if (sums != nullptr) sum_corners(grid, all, first, count(first), add, p, m, sums);
    __syncthreads();
  }
  return loss;
}

// The loss, and sums [images, places, 4, K] of gradients unless that is null, of the images from
// first_image on; kSumThreads threads per block.
template <class T, class Label>
__global__ void __launch_bounds__(kSumThreads, sizeof(Wide<T>) == 4 ? 4 : 2)
    compute_cell_losses(PixelLossInput<T, Label> in, CellGrid grid, int64_t first_image,
                        const LabelCounts* counts, unsigned count_blocks, Wide<T>* sums,
                        LossSum<Wide<T>> sum) {
  using Real = Wide<T>;
  __shared__ CellMemory<Real> m;
  if (threadIdx.x == kSumThreads - 1) m.block = cell_block(grid, first_image);
  if (in.options.balance == PixelBalance::kImage) {
    const unsigned image = blockIdx.x / static_cast<unsigned>(grid.blocks_per_image());
    counts += (first_image + image) * count_blocks;
  }
  const auto totals = totals_of(in, counts, count_blocks);  // waits for all threads
  find_cells(grid, m);
  if (threadIdx.x == kSumThreads - 1) {
    const Real classes = classes_present<Real>(present_in(in, m.block.image), in.s.classes);
    m.background = totals.background / classes;
    m.foreground = totals.foreground / classes;
  }
  __syncthreads();
  if (sums != nullptr) sums += (m.block.image - first_image) * grid.places() * 4 * in.s.classes;
  const int rows = static_cast<int>(m.row_start[1] - m.row_start[0]),
            columns = static_cast<int>(m.column_start[m.block.cells] - m.column_start[0]);
  double loss = 0;
  bool add = false;
  CellPatch p{};
  // Usually once: a cell without pixels has one empty patch, which sets its sums to 0.
  do {
    p.columns = columns - p.x < kCellColumns ? columns - p.x : kCellColumns;
    const int fit = CellMemory<Real>::kPixels / (p.columns > 0 ? p.columns : 1),
              most = fit < kCellRows ? fit : kCellRows;
    p.y = 0;
    do {
      p.rows = rows - p.y < most ? rows - p.y : most;
      loss += compute_patch(in, grid, add, p, m, sums);
      add = true;
      p.y += p.rows;
    } while (p.y < rows);
    p.x += p.columns;
  } while (p.x < columns);
  const unsigned before = static_cast<unsigned>(first_image * grid.blocks_per_image());
  add_up(loss, totals, before + blockIdx.x, sum);
}

}  // namespace wsss::cuda
