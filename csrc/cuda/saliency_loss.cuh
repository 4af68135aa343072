// EPS' saliency loss and its gradient: one thread per pixel, which reads its channels
// twice instead of storing them.
#pragma once

#include <cmath>
#include <cstdint>

#include "../math/saliency_loss.h"

#include "block_sum.cuh"
#include "class_sums.cuh"

namespace wsss::cuda {

// counts [B, K, 2]: pixels where the class' probability exceeds 1/2, and those of them that are
// salient; in place of the latter, for the background: pixels whose probabilities are NaN. For
// integers the order of additions does not matter.
template <class T>
__global__ void count_overlap(SaliencyShape s, const T* logits, const Wide<T>* saliency,
                              int* counts, int* invalid) {
  using Real = Wide<T>;
  const int64_t i = thread_number(), plane = s.pixels();
  if (i >= s.images * plane) return;
  const int64_t image = i / plane, at = i % plane;
  const int64_t y = nearest_source(at / s.width, s.saliency_height, s.height);
  const int64_t x = nearest_source(at % s.width, s.saliency_width, s.width);
  const Real salient = saliency[(image * s.saliency_height + y) * s.saliency_width + x];
  if (!(salient >= 0 && salient <= 1)) atomicAdd(invalid, 1);
  const auto sums = class_sums<T>(logits + image * s.channels * plane + at, plane, s.channels);
  if (std::isnan(sums.exponentials)) atomicAdd(counts + 2 * image * s.channels + 1, 1);
  if (!(1 / sums.exponentials > Real(0.5))) return;  // the largest probability
  int* count = counts + 2 * (image * s.channels + sums.largest);
  atomicAdd(count, 1);
  if (sums.largest > 0 && salient > Real(0.5)) atomicAdd(count + 1, 1);
}

// roles [B, K] from counts; one thread per value. `always_background` is a mask of K bytes.
__global__ static void assign_roles(
    SaliencyShape s, double tau, bool adaptive, const unsigned char* present,
    const unsigned char* always_background, const int* counts, Role* roles) {
  const int64_t i = thread_number();
  if (i >= s.images * s.channels) return;
  const int64_t image = i / s.channels, k = i % s.channels;
  const bool there = k > 0 && present[image * (s.channels - 1) + k - 1];
  const bool foreground =
      there && !always_background[k] &&
      (!adaptive || (counts[2 * image * s.channels + 1] == 0 &&
                     is_salient(counts[2 * i], counts[2 * i + 1], s.pixels(), tau)));
  roles[i] = foreground ? Role::kForeground : there || k == 0 ? Role::kBackground : Role::kNeither;
}

// Maps, gradient, and each block's sum of squared errors; kSumThreads threads per block.
template <class T>
__global__ void compute_saliency_losses(
    SaliencyShape s, double lam_, const T* logits, const Wide<T>* saliency, const Role* roles,
    Wide<T>* foreground, Wide<T>* background, Wide<T>* estimate, Wide<T>* grad, double* parts) {
  using Real = Wide<T>;
  const int64_t i = thread_number(), plane = s.pixels();
  const Real lam = static_cast<Real>(lam_), rest = static_cast<Real>(1 - lam_);
  double square = 0;
  if (i < s.images * plane) {
    const int64_t image = i / plane, at = i % plane;
    const int64_t y = nearest_source(at / s.width, s.saliency_height, s.height);
    const int64_t x = nearest_source(at % s.width, s.saliency_width, s.width);
    const T* z = logits + image * s.channels * plane + at;
    const Role* role = roles + image * s.channels;
    const auto sums = class_sums<T>(z, plane, s.channels);
    const Real inverse = 1 / sums.exponentials;
    Real maps[2] = {};
    for (int64_t k = 0; k < s.channels; ++k) {
      if (role[k] == Role::kNeither) continue;
      maps[role[k] == Role::kBackground] +=
          exponential(static_cast<Real>(z[k * plane]) - sums.top) * inverse;
    }
    const Real estimated = lam * maps[0] + rest * (1 - maps[1]);
    const Real error = estimated - saliency[(image * s.saliency_height + y) * s.saliency_width + x];
    const Real slope_of_error = error * (2 / static_cast<Real>(s.images * plane)),
               level = lam * maps[0] - rest * maps[1];
    for (int64_t k = 0; k < s.channels; ++k) {
      const Real p = exponential(static_cast<Real>(z[k * plane]) - sums.top) * inverse;
      const Real slope = role[k] == Role::kNeither      ? Real(0)
                         : role[k] == Role::kForeground ? lam
                                                        : -rest;
      grad[(image * s.channels + k) * plane + at] = p * (slope_of_error * (slope - level));
    }
    foreground[i] = maps[0];
    background[i] = maps[1];
    estimate[i] = estimated;
    square = static_cast<double>(error) * static_cast<double>(error);
  }
  square = block_sum(square);
  if (threadIdx.x == 0) parts[blockIdx.x] = square;
}

}  // namespace wsss::cuda
