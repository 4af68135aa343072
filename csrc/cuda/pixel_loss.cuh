// Per-pixel losses and their gradient. Labels are counted in two steps; one thread per pixel
// computes the loss and, where logits keep their size, the gradient. Upsampled logits are not
// stored: they are interpolated where they are needed, and one block per logit gathers its gradient
// from the pixels that read it. No float atomics.
#pragma once

#include <cmath>
#include <cstdint>

#include "../math/binary_term.h"
#include "../math/nearest.h"
#include "../math/pixel_loss.h"

#include "bilinear.cuh"
#include "block_sum.cuh"
#include "class_sums.cuh"

namespace wsss::cuda {

template <class T, class Label>
struct PixelLossInput {
  PixelLossKind kind;
  PixelLossShape s;
  PixelLossOptions options;
  const T* logits;               // [B, K, h, w]
  const Label* labels;           // [B, H, W]
  const unsigned char* present;  // [B, K] or null
  // By row and column of the logits: the row and column of the labels; null if labels are not
  // resized.
  const int* label_rows;
  const int* label_columns;
};

// The weights of background and foreground pixels, and the number of labels that are not a class.
struct PixelTotals {
  PixelWeights weights;
  int64_t invalid;
};

template <class T, class Label>
__device__ __forceinline__ int64_t label_of(const PixelLossInput<T, Label>& in, int64_t image,
                                            int64_t y, int64_t x) {
  const PixelLossShape& s = in.s;
  if (in.label_rows != nullptr) {
    y = in.label_rows[y];
    x = in.label_columns[x];
  }
  return in.labels[(image * s.label_height + y) * s.label_width + x];
}

// The logits of one pixel, by class.
template <class T>
struct PixelLogits {
  using Real = Wide<T>;
  const T* image;  // [K, h, w]
  int64_t plane, width;
  BilinearSource<Real> y, x;

  __device__ __forceinline__ Real at(int64_t k, int64_t row, int64_t column) const {
    return static_cast<Real>(image[k * plane + row * width + column]);
  }
  __device__ __forceinline__ Real operator()(int64_t k) const {
    return x.read([&](int64_t column) {
      return y.read([&](int64_t row) { return at(k, row, column); });
    });
  }
};

template <class T, class Label>
__device__ __forceinline__ PixelLogits<T> logits_of(const PixelLossInput<T, Label>& in,
                                                    int64_t image, int64_t y, int64_t x) {
  using Real = Wide<T>;
  const PixelLossShape& s = in.s;
  const T* start = in.logits + image * s.classes * s.height * s.width;
  if (!s.upsample) {
    return {start, s.height * s.width, s.width, {y, y, Real(0), false}, {x, x, Real(0), false}};
  }
  return {start, s.height * s.width, s.width, bilinear_source<Real>(y, s.height, s.label_height),
          bilinear_source<Real>(x, s.width, s.label_width)};
}

// What all classes of a pixel have in common.
template <class Real>
struct PixelTarget {
  int64_t own;
  Real weight;  // 0 for an ignored pixel
  Real own_more, other;
};

template <class T, class Label>
__device__ __forceinline__ PixelTarget<Wide<T>> target_of(
    const PixelLossInput<T, Label>& in, const PixelTotals& totals, int64_t image, int64_t label) {
  using Real = Wide<T>;
  const int64_t classes = in.s.classes;
  const SmoothedTarget t = smoothed_target(classes, in.options.smoothing);
  const bool counts = label != in.options.ignore && label >= 0 && label < classes;
  double weight = !counts ? 0 : label == 0 ? totals.weights.background : totals.weights.foreground;
  if (in.kind == PixelLossKind::kBinary) {
    int64_t present = classes;
    if (in.present != nullptr) {
      present = 0;
      for (int64_t k = 0; k < classes; ++k) present += in.present[image * classes + k] != 0;
    }
    weight /= static_cast<double>(present > 0 ? present : 1);
  }
  return {counts ? label : 0, static_cast<Real>(weight), static_cast<Real>(t.own - t.other),
          static_cast<Real>(t.other)};
}

// Fills label_rows and label_columns: one block of two threads, since centres are added up in
// order.
__global__ static void find_labels(PixelLossShape s, int* label_rows, int* label_columns) {
  if (threadIdx.x == 0) nearest_centres(s.label_height, s.height, label_rows);
  if (threadIdx.x == 1) nearest_centres(s.label_width, s.width, label_columns);
}

// counts [blocks, 3]: background, foreground and invalid labels; any
// number of blocks of kSumThreads.
template <class T, class Label>
__global__ void count_labels(PixelLossInput<T, Label> in, double* counts) {
  const int64_t columns = in.s.columns(), plane = in.s.pixels();
  double found[3] = {};
  for (int64_t i = thread_number(); i < in.s.images * plane;
       i += int64_t{gridDim.x} * kSumThreads) {
    const int64_t at = i % plane, label = label_of(in, i / plane, at / columns, at % columns);
    if (!is_valid_label(label, in.s.classes, in.options.ignore)) {
      found[2] += 1;
    } else if (label != in.options.ignore) {
      found[label == 0 ? 0 : 1] += 1;
    }
  }
  for (int group = 0; group < 3; ++group) {
    const double sum = block_sum(found[group]);
    if (threadIdx.x == 0) counts[blockIdx.x * 3 + group] = sum;
    __syncthreads();  // block_sum's memory is reused
  }
}

__global__ static void total_labels(const double* counts, unsigned blocks, bool balance,
                                    PixelTotals* totals) {
  double all[3];
  for (int group = 0; group < 3; ++group) {
    double sum = 0;
    for (unsigned block = threadIdx.x; block < blocks; block += kSumThreads) {
      sum += counts[block * 3 + group];
    }
    all[group] = block_sum(sum);
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  totals->weights =
      pixel_weights(static_cast<int64_t>(all[0]), static_cast<int64_t>(all[1]), balance);
  totals->invalid = static_cast<int64_t>(all[2]);
}

// log sum exp of a pixel's logits in two parts, because adding a large maximum
// would round the other part away.
template <class Real>
struct LogSum {
  Real top, over;
};

// A pixel's loss before weighting; for the softmax also its LogSum.
template <class Real, class Logits>
__device__ __forceinline__ Real loss_of(PixelLossKind kind, const Logits& z, int64_t classes,
                                        const unsigned char* present, const PixelTarget<Real>& t,
                                        LogSum<Real>* log_sum) {
  Real loss = 0;
  if (kind == PixelLossKind::kCrossEntropy) {
    const ClassSums<Real> sums = sums_of<Real>(z, classes);
    Real below = 0;
    if (t.other > 0) {
      for (int64_t k = 0; k < classes; ++k) below += sums.top - z(k);
    }
    const Real over = logarithm(sums.exponentials);
    *log_sum = {sums.top, over};
    // Where a logit is -infinity, `below` is infinite, and so is the loss, whatever `own_more` is.
    const Real behind = std::isinf(below) ? Real(0) : sums.top - z(t.own);
    return over + t.own_more * behind + t.other * below;
  }
  for (int64_t k = 0; k < classes; ++k) {
    if (present != nullptr && !present[k]) continue;
    const Real value = z(k), target = t.other + (k == t.own ? t.own_more : Real(0));
    if (!std::isfinite(value)) {
      loss += binary_term_of_infinity(value, target);
      continue;
    }
    const Real e = exponential(value > 0 ? -value : value);
    loss += (value > 0 ? value - target * value : -target * value) + logarithm(1 + e);
  }
  return loss;
}

// d loss / d z_k before weighting.
template <class Real>
__device__ __forceinline__ Real slope_of(PixelLossKind kind, Real value, int64_t k,
                                         const unsigned char* present, const PixelTarget<Real>& t,
                                         const LogSum<Real>& log_sum) {
  const Real target = t.other + (k == t.own ? t.own_more : Real(0));
  if (kind == PixelLossKind::kCrossEntropy) {
    return exponential((value - log_sum.top) - log_sum.over) - target;
  }
  if (present != nullptr && !present[k]) return 0;
  const Real e = exponential(value > 0 ? -value : value);
  return (value > 0 ? 1 / (1 + e) : e / (1 + e)) - target;
}

// Computes the sum of each block's losses; the gradient where logits keep their size, or log sums
// [B, H, W] where they were upsampled. Both may be null. kSumThreads threads per block.
template <class T, class Label>
__global__ void compute_pixel_losses(PixelLossInput<T, Label> in, const PixelTotals* totals,
                                     Wide<T>* grad, LogSum<Wide<T>>* log_sums, double* parts) {
  using Real = Wide<T>;
  const PixelLossShape& s = in.s;
  const int64_t i = thread_number(), plane = s.pixels();
  double loss = 0;
  if (i < s.images * plane) {
    const int64_t image = i / plane, y = i % plane / s.columns(), x = i % plane % s.columns();
    const auto z = logits_of(in, image, y, x);
    const auto t = target_of(in, *totals, image, label_of(in, image, y, x));
    const unsigned char* present = in.present == nullptr ? nullptr : in.present + image * s.classes;
    LogSum<Real> log_sum{};
    const Real of_pixel = loss_of(in.kind, z, s.classes, present, t, &log_sum);
    // A pixel that is not used adds nothing, whatever its logits are.
    loss = t.weight != 0 ? static_cast<double>(t.weight * of_pixel) : 0;
    if (log_sums != nullptr) log_sums[i] = log_sum;
    for (int64_t k = 0; grad != nullptr && k < s.classes; ++k) {
      grad[(image * s.classes + k) * plane + i % plane] =
          t.weight * slope_of(in.kind, z(k), k, present, t, log_sum);
    }
  }
  loss = block_sum(loss);
  if (threadIdx.x == 0) parts[blockIdx.x] = loss;
}

// The gradient of upsampled logits: a block of kSumThreads computes one of `logits` after another.
template <class T, class Label>
__global__ void gather_gradient(PixelLossInput<T, Label> in, const PixelTotals* totals,
                                const LogSum<Wide<T>>* log_sums, int64_t logits, Wide<T>* grad) {
  using Real = Wide<T>;
  const PixelLossShape& s = in.s;
  for (int64_t at = blockIdx.x; at < logits; at += gridDim.x) {
    const int64_t x = at % s.width, y = at / s.width % s.height,
                  k = at / s.width / s.height % s.classes;
    const int64_t image = at / s.width / s.height / s.classes;
    const unsigned char* present = in.present == nullptr ? nullptr : in.present + image * s.classes;
    const PixelRange rows = pixels_reading(y, s.height, s.label_height),
                     columns = pixels_reading(x, s.width, s.label_width);
    const int64_t wide = columns.last - columns.first, count = (rows.last - rows.first) * wide;
    double sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += kSumThreads) {
      const int64_t row = rows.first + i / wide, column = columns.first + i % wide;
      const auto of_row = use_of<Real>(y, row, s.height, s.label_height),
                 of_column = use_of<Real>(x, column, s.width, s.label_width);
      if (!of_row.reads || !of_column.reads) continue;
      const Real share = of_row.weight * of_column.weight;
      const auto t = target_of(in, *totals, image, label_of(in, image, row, column));
      const LogSum<Real> log_sum =
          log_sums[(image * s.label_height + row) * s.label_width + column];
      const Real value = logits_of(in, image, row, column)(k);
      sum +=
          static_cast<double>(share * t.weight * slope_of(in.kind, value, k, present, t, log_sum));
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) grad[at] = static_cast<Real>(sum);
    __syncthreads();  // block_sum's memory is reused
  }
}

// The sum of the blocks' losses, NaN if a label is invalid; one block.
template <class Real>
__global__ void sum_losses(const double* parts, int64_t count, const PixelTotals* totals,
                           Real* loss) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) sum += parts[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    *loss = totals->invalid > 0 ? static_cast<Real>(NAN) : static_cast<Real>(sum);
  }
}

}  // namespace wsss::cuda
