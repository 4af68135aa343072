// Per-pixel losses and their gradient, where logits keep their size: one thread per pixel. Labels
// are counted before, because the weight of a pixel depends on their number. No float atomics.
#pragma once

#include <cmath>
#include <cstdint>

#include "../math/binary_term.h"
#include "../math/nearest.h"
#include "../math/pixel_loss.h"

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
  Wide<T> own_more, other;       // the target is `other`, and `own_more` on top for the label

  // Pixels whose labels are counted together.
  WSSS_HD int64_t pixels_per_group() const {
    return options.balance == PixelBalance::kImage ? s.pixels() : s.images * s.pixels();
  }
};

template <class T, class Label>
PixelLossInput<T, Label> pixel_loss_input(PixelLossKind kind, const PixelLossShape& s,
                                          const PixelLossOptions& options, const void* logits,
                                          const void* labels, const unsigned char* present) {
  const SmoothedTarget target = smoothed_target(s.classes, options.smoothing);
  return {kind,
          s,
          options,
          static_cast<const T*>(logits),
          static_cast<const Label*>(labels),
          present,
          static_cast<Wide<T>>(target.own - target.other),
          static_cast<Wide<T>>(target.other)};
}

// Counts of labels: background, foreground, and invalid, those that are not a class. There is one
// for each block that counted.
struct LabelCounts {
  int64_t of_kind[3];
};

// Up to so many blocks' counts are added up by every block that uses them.
constexpr int kFewCounts = 64;

// Where the blocks' results are added up.
template <class Real>
struct LossSum {
  double* parts;
  int* ticket;
  unsigned blocks;
  Real* loss;
};

// What all pixels of a group of images have in common.
template <class Real>
struct PixelTotals {
  Real background, foreground;  // weights of the pixels
  bool invalid;                 // whether a label is not a class
};

// Adds up the blocks' losses, as sum_blocks; NaN where a label of any group of images is invalid.
template <class Real>
__device__ __forceinline__ void add_up(double loss, const PixelTotals<Real>& totals, unsigned part,
                                       const LossSum<Real>& sum) {
  if (totals.invalid) loss = static_cast<double>(NAN);
  sum_blocks(loss, sum.parts, part, sum.blocks, sum.ticket, 1.0, false, sum.loss);
}

// The label of pixel `i` of the loss.
template <class T, class Label>
__device__ __forceinline__ int64_t label_of(const PixelLossInput<T, Label>& in, int64_t i) {
  const PixelLossShape& s = in.s;
  if (!s.downsample()) return in.labels[i];
  const int64_t plane = s.pixels(), image = i / plane, at = i - image * plane, row = at / s.width;
  const int64_t y = nearest_centre(row, s.label_height, s.height),
                x = nearest_centre(at - row * s.width, s.label_width, s.width);
  return in.labels[(image * s.label_height + y) * s.label_width + x];
}

// counts [groups, blocks]; any number of blocks of kSumThreads for each group of images. Also sets
// *ticket to 0, for the next kernel.
template <class T, class Label>
__global__ void count_labels(PixelLossInput<T, Label> in, unsigned blocks, LabelCounts* counts,
                             int* ticket) {
  const int64_t pixels = in.pixels_per_group();
  const unsigned group = blockIdx.x / blocks, block = blockIdx.x - group * blocks;
  int64_t found[3] = {};
  for (int64_t i = int64_t{block} * kSumThreads + threadIdx.x; i < pixels;
       i += int64_t{blocks} * kSumThreads) {
    const int64_t label = label_of(in, group * pixels + i);
    const bool used = label != in.options.ignore;
    const bool valid = is_valid_label(label, in.s.classes, in.options.ignore);
    found[0] += used && label == 0;
    found[1] += used && valid && label != 0;
    found[2] += !valid;
  }
  for (int kind = 0; kind < 3; ++kind) {
    const double sum = block_sum(static_cast<double>(found[kind]));
    if (threadIdx.x == 0) counts[blockIdx.x].of_kind[kind] = static_cast<int64_t>(sum);
    __syncthreads();  // block_sum's memory is reused
  }
  if (thread_number() == 0) *ticket = 0;
}

// totals [groups] = the sums of `blocks` counts each; one block for each group of images.
__global__ static void total_labels(const LabelCounts* counts, unsigned blocks,
                                    LabelCounts* totals) {
  counts += int64_t{blockIdx.x} * blocks;
  for (int kind = 0; kind < 3; ++kind) {
    int64_t sum = 0;
    for (unsigned block = threadIdx.x; block < blocks; block += kSumThreads) {
      sum += counts[block].of_kind[kind];
    }
    const double all = block_sum(static_cast<double>(sum));
    if (threadIdx.x == 0) totals[blockIdx.x].of_kind[kind] = static_cast<int64_t>(all);
    __syncthreads();
  }
}

// Adds up the counts of at most kFewCounts blocks, those of a group of images, for all threads of a
// block.
template <class T, class Label>
__device__ __forceinline__ PixelTotals<Wide<T>> totals_of(
    const PixelLossInput<T, Label>& in, const LabelCounts* counts, unsigned blocks) {
  using Real = Wide<T>;
  static_assert(3 * kFewCounts <= kSumThreads);
  __shared__ int64_t each[3 * kFewCounts], all[3];
  __shared__ Real weight[2];
  if (threadIdx.x < 3 * blocks) {
    each[threadIdx.x] = counts[threadIdx.x / 3].of_kind[threadIdx.x % 3];
  }
  __syncthreads();
  if (threadIdx.x < 3) {
    int64_t sum = 0;
#pragma unroll 8
    for (unsigned block = 0; block < blocks; ++block) sum += each[3 * block + threadIdx.x];
    all[threadIdx.x] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const PixelWeights w = pixel_weights(all[0], all[1], in.options.balance, in.s.images);
    const bool averages = in.kind == PixelLossKind::kBinary && in.present == nullptr;
    const double classes = averages ? static_cast<double>(in.s.classes) : 1.0;
    weight[0] = static_cast<Real>(w.background / classes);
    weight[1] = static_cast<Real>(w.foreground / classes);
  }
  __syncthreads();
  return {weight[0], weight[1], all[2] > 0};
}

// The flags of an image's classes, or null if all count.
template <class T, class Label>
__device__ __forceinline__ const unsigned char* present_in(const PixelLossInput<T, Label>& in,
                                                           int64_t image) {
  return in.present == nullptr ? nullptr : in.present + image * in.s.classes;
}

// The number that a pixel's loss is divided by: of the classes that count in the image, or 1 where
// the weights hold it.
template <class Real>
__device__ __forceinline__ Real classes_present(const unsigned char* present, int64_t classes) {
  if (present == nullptr) return 1;
  int64_t count = 0;
  for (int64_t k = 0; k < classes; ++k) count += present[k] != 0;
  return static_cast<Real>(count > 0 ? count : 1);
}

// What all classes of a pixel have in common.
template <class Real>
struct PixelTarget {
  int64_t own;  // class, 0 for a pixel that is not used
  Real weight;  // 0 for a pixel that is not used
};

template <class Real, class T, class Label>
__device__ __forceinline__ PixelTarget<Real> target_of(
    const PixelLossInput<T, Label>& in, Real background, Real foreground, int64_t label) {
  if (label == in.options.ignore || label < 0 || label >= in.s.classes) return {0, 0};
  return {label, label == 0 ? background : foreground};
}

// 1 / x for x in [1, 2], without the branch of a division.
__device__ __forceinline__ float reciprocal(float x) {
  const float near = __fdividef(1.0f, x);
  return multiply_add(near, multiply_add(-x, near, 1.0f), near);
}
__device__ __forceinline__ double reciprocal(double x) { return 1 / x; }

// A binary cross-entropy is linear + log(over); of a logit that is not finite, `over` is 1. Also
// its derivative.
template <class Real>
struct BinaryTerm {
  Real linear, over, slope;
};
template <class Real>
__device__ __forceinline__ BinaryTerm<Real> binary_term(Real value, Real target) {
  const Real e = exponential(value > 0 ? -value : value), over = 1 + e, likely = reciprocal(over),
             linear = value > 0 ? value - target * value : -target * value;
  const bool finite = std::isfinite(value);
  return {finite ? linear : binary_term_of_infinity(value, target), finite ? over : Real(1),
          (value > 0 ? likely : e * likely) - target};
}

// The loss of pixel `at` of an image, whose logits start at z, before weighting; writes its
// gradient times `weight` unless grad is null.
template <class T, class Label>
__device__ __forceinline__ Wide<T> cross_entropy_of(const PixelLossInput<T, Label>& in, const T* z,
                                                    const PixelTarget<Wide<T>>& t, Wide<T>* grad) {
  using Real = Wide<T>;
  const int64_t plane = in.s.pixels(), classes = in.s.classes;
  const ClassSums<Real> sums = class_sums<T>(z, plane, classes);
  Real below = 0;
  if (in.other > 0) {
    for (int64_t k = 0; k < classes; ++k) below += sums.top - static_cast<Real>(z[k * plane]);
  }
  const Real over = logarithm(sums.exponentials);
  // `over` is not added to the maximum, which may be large and would round it away.
  for (int64_t k = 0; grad != nullptr && k < classes; ++k) {
    const Real target = in.other + (k == t.own ? in.own_more : Real(0));
    grad[k * plane] =
        t.weight * (exponential((static_cast<Real>(z[k * plane]) - sums.top) - over) - target);
  }
  // Where a logit is -infinity, `below` is infinite, and so is the loss, whatever `own_more` is.
  const Real behind = std::isinf(below) ? Real(0) : sums.top - static_cast<Real>(z[t.own * plane]);
  return over + in.own_more * behind + in.other * below;
}

template <class T, class Label>
__device__ __forceinline__ Wide<T> binary_loss_of(const PixelLossInput<T, Label>& in, const T* z,
                                                  const unsigned char* present,
                                                  const PixelTarget<Wide<T>>& t, Wide<T>* grad) {
  using Real = Wide<T>;
  const int64_t plane = in.s.pixels();
  Real loss = 0;
  for (int64_t k = 0; k < in.s.classes; ++k) {
    Real slope = 0;
    if (present == nullptr || present[k]) {
      const Real target = in.other + (k == t.own ? in.own_more : Real(0));
      const auto term = binary_term(static_cast<Real>(z[k * plane]), target);
      loss += term.linear + logarithm(term.over);
      slope = term.slope;
    }
    if (grad != nullptr) grad[k * plane] = t.weight * slope;
  }
  return loss;
}

// The loss, and the gradient unless grad is null; kSumThreads threads per block, `blocks` blocks
// for each group of images.
template <class T, class Label>
__global__ void compute_pixel_losses(PixelLossInput<T, Label> in, unsigned blocks,
                                     const LabelCounts* counts, unsigned count_blocks,
                                     Wide<T>* grad, LossSum<Wide<T>> sum) {
  using Real = Wide<T>;
  const PixelLossShape& s = in.s;
  const unsigned group = blockIdx.x / blocks, block = blockIdx.x - group * blocks;
  const auto totals = totals_of(in, counts + int64_t{group} * count_blocks, count_blocks);
  const int64_t plane = s.pixels(), at = int64_t{block} * kSumThreads + threadIdx.x;
  double loss = 0;
  if (at < in.pixels_per_group()) {
    const int64_t i = group * in.pixels_per_group() + at;
    const int64_t image = i / plane, start = image * (s.classes - 1) * plane + i;
    const T* z = in.logits + start;
    Real* slopes = grad == nullptr ? nullptr : grad + start;
    auto t = target_of(in, totals.background, totals.foreground, label_of(in, i));
    Real of_pixel;
    if (in.kind == PixelLossKind::kCrossEntropy) {
      of_pixel = cross_entropy_of(in, z, t, slopes);
    } else {
      const unsigned char* present = present_in(in, image);
      t.weight /= classes_present<Real>(present, s.classes);
      of_pixel = binary_loss_of(in, z, present, t, slopes);
    }
    // A pixel that is not used adds nothing, whatever its logits are.
    loss = t.weight != 0 ? static_cast<double>(t.weight * of_pixel) : 0;
  }
  add_up(loss, totals, blockIdx.x, sum);
}

}  // namespace wsss::cuda
