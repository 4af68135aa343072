// Label-conditioned logits (AMN, CVPR 2022, eq. 3-4; without scale the DeepLabV2 head), all but the
// matrix products: weights as one matrix with a row for every tap and label, and the shifted
// additions that turn its product with the features into logits, and back.
//
// Row t * K + k belongs to tap t and label k of a share of K labels. `Real` is float or double.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../math/taps.h"

namespace wsss {

// weight [R, K, C, k * k] -> packed [T * share, C]: the rows of label `k` of the share.
template <class Real>
void pack_weight(const HeadShape& s, const Taps& taps, LabelShare share, int64_t k,
                 const Real* weight, Real* packed) {
  // Channels per block: its weights stay in the L1 cache while every tap reads its own.
  constexpr int64_t kBlock = 256;
  for (int64_t c0 = 0; c0 < s.channels; c0 += kBlock) {
    const int64_t c1 = c0 + kBlock < s.channels ? c0 + kBlock : s.channels;
    for (int64_t t = 0; t < taps.count(); ++t) {
      Real* to = packed + (t * share.count() + k) * s.channels;
      for (int64_t i = taps.first[t]; i < taps.first[t + 1]; ++i) {
        const int64_t branch = taps.source[i] / s.cells, cell = taps.source[i] % s.cells;
        const Real* from =
            weight + (branch * s.labels + share.first + k) * s.channels * s.cells + cell;
        if (i == taps.first[t]) {
          for (int64_t c = c0; c < c1; ++c) to[c] = from[c * s.cells];
        } else {
          for (int64_t c = c0; c < c1; ++c) to[c] += from[c * s.cells];
        }
      }
    }
  }
}

// The reverse, for gradients: merged taps have the same gradient. `grad` must be
// zero where a tap leaves the map.
template <class Real>
void unpack_weight(const HeadShape& s, const Taps& taps, LabelShare share, int64_t k,
                   const Real* packed, Real* grad) {
  for (int64_t t = 0; t < taps.count(); ++t) {
    const Real* from = packed + (t * share.count() + k) * s.channels;
    for (int64_t i = taps.first[t]; i < taps.first[t + 1]; ++i) {
      const int64_t branch = taps.source[i] / s.cells, cell = taps.source[i] % s.cells;
      Real* to = grad + (branch * s.labels + share.first + k) * s.channels * s.cells + cell;
      for (int64_t c = 0; c < s.channels; ++c) to[c * s.cells] = from[c];
    }
  }
}

// out [C] = packed [C] * scale [C]: one row.
template <class Real>
void scale_row(int64_t channels, const Real* packed, const Real* scale, Real* out) {
  for (int64_t c = 0; c < channels; ++c) out[c] = packed[c] * scale[c];
}

// product [rows, C]: d loss / d (scaled weights) of one image. For channels [c0, c1):
//   sum += product * scale,  grad_scale += sum over rows of packed * product.
template <class Real>
void add_products(int64_t rows, int64_t channels, int64_t c0, int64_t c1, const Real* packed,
                  const Real* product, const Real* scale, Real* sum, Real* grad_scale) {
  // Rows per partial sum: a single sum of hundreds of terms would be less accurate.
  constexpr int64_t kLeaf = 32;
  constexpr int64_t kBlock = 64;
  Real partial[kBlock];
  for (int64_t first = 0; first < rows; first += kLeaf) {
    const int64_t last = first + kLeaf < rows ? first + kLeaf : rows;
    for (int64_t start = c0; start < c1; start += kBlock) {
      const int64_t n = start + kBlock < c1 ? kBlock : c1 - start;
      for (int64_t c = 0; c < n; ++c) partial[c] = 0;
      for (int64_t row = first; row < last; ++row) {
        const int64_t at = row * channels + start;
        for (int64_t c = 0; c < n; ++c) {
          partial[c] += packed[at + c] * product[at + c];
          sum[at + c] += product[at + c] * scale[start + c];
        }
      }
      for (int64_t c = 0; c < n; ++c) grad_scale[start + c] += partial[c];
    }
  }
}

// Calls row(tap, from, to, count) for every row of features that a tap of the band reads: `count`
// columns from position `from` in the band, which belong to position `to` in the map.
template <class Row>
void for_each_shifted_row(const HeadShape& s, const Taps& taps, const Band& band, Row row) {
  for (int64_t t = band.t0; t < band.t1; ++t) {
    const int64_t dy = taps.dy[t], dx = taps.dx[t];
    const int64_t x0 = dx > 0 ? dx : 0, x1 = dx < 0 ? s.width + dx : s.width;
    const int64_t y0 = band.y0 > dy ? band.y0 : dy, bottom = s.height + dy;
    const int64_t y1 = band.y1 < bottom ? band.y1 : bottom;
    for (int64_t y = y0; y < y1; ++y) {
      row(t, (y - band.y0) * s.width + x0, (y - dy) * s.width + x0 - dx, x1 - x0);
    }
  }
}

// logits [h, w] of label `k` of the share += responses [rows of taps
// t0..t1, positions of the band].
template <class Real>
void add_shifted(const HeadShape& s, const Taps& taps, const Band& band, LabelShare share,
                 int64_t k, const Real* responses, Real* logits) {
  const int64_t stride = (band.y1 - band.y0) * s.width;
  for_each_shifted_row(s, taps, band, [&](int64_t t, int64_t from, int64_t to, int64_t count) {
    const Real* in = responses + ((t - band.t0) * share.count() + k) * stride + from;
    Real* out = logits + to;
    for (int64_t x = 0; x < count; ++x) out[x] += in[x];
  });
}

// The transpose: grad [h, w] of label `k` of the share -> gradients [rows of taps t0..t1, positions
// of the band], zero where the shift leaves the map.
template <class Real>
void gather_shifted(const HeadShape& s, const Taps& taps, const Band& band, LabelShare share,
                    int64_t k, const Real* grad, Real* gradients) {
  const int64_t stride = (band.y1 - band.y0) * s.width;
  for (int64_t t = band.t0; t < band.t1; ++t) {
    Real* row = gradients + ((t - band.t0) * share.count() + k) * stride;
    std::fill(row, row + stride, Real(0));
  }
  for_each_shifted_row(s, taps, band, [&](int64_t t, int64_t from, int64_t to, int64_t count) {
    Real* out = gradients + ((t - band.t0) * share.count() + k) * stride + from;
    std::copy(grad + to, grad + to + count, out);
  });
}

}  // namespace wsss
