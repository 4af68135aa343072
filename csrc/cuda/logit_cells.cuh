// The transpose of bilinear resizing in two steps without atomics. A cell is the pixels between the
// same four logits; along an axis with fewer pixels than logits, each pixel is a cell. First, for
// each cell or part of one, gradients are added up for its four logits; then, for each logit, the
// sums of the cells around it.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "bilinear.cuh"

namespace wsss::cuda {

// The cells along an axis.
struct CellAxis {
  int64_t logits, pixels;
  unsigned cells;      // the number of cells
  unsigned per_block;  // consecutive cells of a block
  unsigned parts;      // blocks that share a cell; 1 unless per_block is 1

  WSSS_HD bool resized() const { return logits != pixels; }
  WSSS_HD bool cell_is_pixel() const { return pixels <= logits; }
  WSSS_HD unsigned blocks() const { return (cells + per_block - 1) / per_block * parts; }
};

// At most about `most` pixels for each block, `usual` where a block takes several cells.
inline CellAxis cell_axis(int64_t logits, int64_t pixels, int64_t most, int64_t usual) {
  if (std::min(logits, pixels) > INT32_MAX) {
    throw std::invalid_argument("wsss_fast: too many elements for one CUDA launch");
  }
  CellAxis axis{logits, pixels, static_cast<unsigned>(std::min(logits, pixels)), 1, 1};
  if (axis.cell_is_pixel()) {
    axis.per_block = static_cast<unsigned>(usual);
    return axis;
  }
  // The cells at both ends have half as many pixels more.
  const int64_t longest = (3 * pixels + 2 * logits - 1) / (2 * logits) + 1;
  axis.parts = static_cast<unsigned>((longest + most - 1) / most);
  axis.per_block = static_cast<unsigned>(std::max<int64_t>(usual * logits / pixels, 1));
  return axis;
}

// The cells of a call.
struct CellGrid {
  CellAxis rows, columns;

  WSSS_HD int64_t blocks_per_image() const { return int64_t{rows.blocks()} * columns.blocks(); }
  // The index of a cell's part among the parts of an image's cells, row by row.
  WSSS_HD int64_t place(unsigned row, unsigned row_part, unsigned column,
                        unsigned column_part) const {
    return ((int64_t{row} * rows.parts + row_part) * columns.cells + column) * columns.parts +
           column_part;
  }
  WSSS_HD int64_t places() const { return place(rows.cells, 0, 0, 0); }
};

// The first pixel of a cell; that of the cell after the last is the number of pixels.
template <class Real>
__device__ __forceinline__ int64_t cell_start(const CellAxis& axis, int64_t cell) {
  return axis.cell_is_pixel() ? cell : first_pixel_reading<Real>(cell, axis.logits, axis.pixels);
}

// The cells along an axis that read a logit: from `first` on as their later one, from `middle` up
// to `last` as their earlier one.
struct CellsReading {
  int64_t first, middle, last;
  bool both;  // from `middle` on also as the later one: at the end there is no next logit
};
template <class Real>
__device__ __forceinline__ CellsReading cells_reading(const CellAxis& axis, int64_t logit) {
  const auto from = [&](int64_t low) -> int64_t {
    if (low < 0) return 0;
    return axis.cell_is_pixel() && axis.resized()
               ? first_pixel_reading<Real>(low, axis.logits, axis.pixels)
               : low;
  };
  const int64_t middle = from(logit), before = axis.resized() ? from(logit - 1) : middle;
  return {before, middle, from(logit + 1), axis.resized() && logit + 1 == axis.logits};
}

// grad [images, K, h, w] from sums [images, places, 4, K]; one thread per value.
template <class Real>
__global__ void sum_cells(CellGrid grid, int64_t images, int64_t classes, const Real* sums,
                          Real* grad) {
  const int64_t height = grid.rows.logits, width = grid.columns.logits, i = thread_number();
  if (i >= images * height * width * classes) return;
  // Classes vary first, as in sums.
  const int64_t place = i / classes, k = i - place * classes, line = place / width,
                x = place - line * width, image = line / height, y = line - image * height;
  const CellsReading rows = cells_reading<Real>(grid.rows, y),
                     columns = cells_reading<Real>(grid.columns, x);
  const auto reads = [](const CellsReading& cells, int64_t cell, int later) {
    return (cell < cells.middle) == (later == 1) || (later == 1 && cells.both);
  };
  double sum = 0;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    for (int64_t column = columns.first; column < columns.last; ++column) {
      for (unsigned part = 0; part < grid.rows.parts * grid.columns.parts; ++part) {
        const int64_t from = image * grid.places() +
                             grid.place(static_cast<unsigned>(row), part / grid.columns.parts,
                                        static_cast<unsigned>(column), part % grid.columns.parts);
        for (int corner = 0; corner < 4; ++corner) {
          if (!reads(rows, row, corner / 2) || !reads(columns, column, corner % 2)) continue;
          sum += static_cast<double>(sums[(from * 4 + corner) * classes + k]);
        }
      }
    }
  }
  grad[((image * classes + k) * height + y) * width + x] = static_cast<Real>(sum);
}

}  // namespace wsss::cuda
