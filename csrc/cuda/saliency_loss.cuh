// EPS' saliency loss and its gradient: one thread per pixel, which reads its channels
// twice instead of storing them. A block's pixels belong to one image.
#pragma once

#include <cmath>
#include <cstdint>

#include "../math/saliency_loss.h"

#include "block_sum.cuh"
#include "class_sums.cuh"

namespace wsss::cuda {

constexpr int kSharedRoles = 2048;  // classes whose role a block keeps
constexpr int kSharedCounts = 512;  // classes that a block counts on its own

// The classes that always belong to the background: a kernel argument, and for later classes bytes
// that are not 0.
struct AlwaysBackground {
  uint32_t bits[kSharedRoles / 32];
  const unsigned char* later;  // [K]; not read for the first kSharedRoles classes

  __device__ __forceinline__ bool holds(int64_t k) const {
    return k < kSharedRoles ? bits[k / 32] >> (k % 32) & 1 : later[k] != 0;
  }
};

// What finds the roles of an image's classes.
struct RoleRule {
  double tau;
  bool adaptive;
  const unsigned char* present;  // [B, K - 1]
  AlwaysBackground always;
};

// The pixel of a thread.
struct SaliencyPixel {
  int64_t image, at;
  bool exists;
};
__device__ __forceinline__ SaliencyPixel saliency_pixel(const SaliencyShape& s,
                                                        unsigned blocks_per_image) {
  const unsigned image = blockIdx.x / blocks_per_image;
  const int64_t at = int64_t{blockIdx.x - image * blocks_per_image} * kSumThreads + threadIdx.x;
  return {image, at, at < s.pixels()};
}

template <class Real>
__device__ __forceinline__ Real saliency_at(const SaliencyShape& s, const Real* saliency,
                                            const SaliencyPixel& p) {
  const int64_t row = p.at / s.width, y = nearest_source(row, s.saliency_height, s.height),
                x = nearest_source(p.at - row * s.width, s.saliency_width, s.width);
  return saliency[(p.image * s.saliency_height + y) * s.saliency_width + x];
}

// Adds the pixel to count [K, 2] of its image.
template <class T>
__device__ __forceinline__ void count_pixel(const SaliencyShape& s, const SaliencyPixel& p,
                                            const T* logits, const Wide<T>* saliency, int* count,
                                            int* invalid) {
  using Real = Wide<T>;
  const int64_t plane = s.pixels();
  const Real salient = saliency_at(s, saliency, p);
  if (!(salient >= 0 && salient <= 1)) atomicAdd(invalid, 1);
  const auto sums = class_sums<T>(logits + p.image * s.channels * plane + p.at, plane, s.channels);
  if (std::isnan(sums.exponentials)) atomicAdd(count + 1, 1);
  if (!(1 / sums.exponentials > Real(0.5))) return;  // the largest probability
  atomicAdd(count + 2 * sums.largest, 1);
  if (sums.largest > 0 && salient > Real(0.5)) atomicAdd(count + 2 * sums.largest + 1, 1);
}

// counts [B, K, 2]: pixels where the class' probability exceeds 1/2, and those of them that are
// salient; in place of the latter, for the background: pixels whose probabilities are NaN. For
// integers the order of additions does not matter. kSumThreads threads per block.
template <class T>
__global__ void count_overlap(SaliencyShape s, unsigned blocks_per_image, const T* logits,
                              const Wide<T>* saliency, int* counts, int* invalid) {
  __shared__ int shared[2 * kSharedCounts];
  const SaliencyPixel p = saliency_pixel(s, blocks_per_image);
  int* of_image = counts + 2 * p.image * s.channels;
  if (s.channels > kSharedCounts) {
    if (p.exists) count_pixel(s, p, logits, saliency, of_image, invalid);
    return;
  }
  // Many pixels have the same class: their additions would wait for each other in global memory.
  const int thread = static_cast<int>(threadIdx.x), numbers = 2 * static_cast<int>(s.channels);
  for (int i = thread; i < numbers; i += kSumThreads) shared[i] = 0;
  __syncthreads();
  if (p.exists) count_pixel(s, p, logits, saliency, shared, invalid);
  __syncthreads();
  for (int i = thread; i < numbers; i += kSumThreads) {
    if (shared[i] != 0) atomicAdd(of_image + i, shared[i]);
  }
}

// The role of a class in an image, from the counts of both.
__device__ __forceinline__ Role role_of(const SaliencyShape& s, const RoleRule& rule,
                                        const int* counts, int64_t image, int64_t k) {
  const int* count = counts + 2 * image * s.channels;
  const bool there = k > 0 && rule.present[image * (s.channels - 1) + k - 1];
  const bool foreground =
      there && !rule.always.holds(k) &&
      (!rule.adaptive ||
       (count[1] == 0 && is_salient(count[2 * k], count[2 * k + 1], s.pixels(), rule.tau)));
  return foreground ? Role::kForeground : there || k == 0 ? Role::kBackground : Role::kNeither;
}

// Where the results go.
template <class Real>
struct SaliencyOutput {
  Real *foreground, *background, *estimate;  // [B, h, w]
  Real* grad;                                // [B, K, h, w]
  double* parts;                             // of the loss, of each block
  int* ticket;
  Real* loss;
};

// Maps, gradient and the squared error of a pixel; roles(k) is the role of a class.
template <class T, class Roles>
__device__ __forceinline__ double saliency_error(
    const SaliencyShape& s, Wide<T> lam, Wide<T> rest, const T* logits, Wide<T> salient,
    const SaliencyPixel& p, const Roles& roles, const SaliencyOutput<Wide<T>>& out) {
  using Real = Wide<T>;
  const int64_t plane = s.pixels(), place = p.image * s.channels * plane + p.at,
                i = p.image * plane + p.at;
  const T* z = logits + place;
  const auto sums = class_sums<T>(z, plane, s.channels);
  const Real inverse = 1 / sums.exponentials;
  Real foreground = 0, background = 0;
  for (int64_t k = 0; k < s.channels; ++k) {
    const Role role = roles(k);
    if (role == Role::kNeither) continue;
    const Real share = exponential(static_cast<Real>(z[k * plane]) - sums.top) * inverse;
    (role == Role::kForeground ? foreground : background) += share;
  }
  const Real estimated = lam * foreground + rest * (1 - background), error = estimated - salient;
  const Real slope_of_error = error * (2 / static_cast<Real>(s.images * plane)),
             level = lam * foreground - rest * background;
  for (int64_t k = 0; k < s.channels; ++k) {
    const Role role = roles(k);
    const Real p_k = exponential(static_cast<Real>(z[k * plane]) - sums.top) * inverse;
    const Real slope = role == Role::kNeither ? Real(0) : role == Role::kForeground ? lam : -rest;
    out.grad[place + k * plane] = p_k * (slope_of_error * (slope - level));
  }
  out.foreground[i] = foreground;
  out.background[i] = background;
  out.estimate[i] = estimated;
  return static_cast<double>(error) * static_cast<double>(error);
}

// Maps, gradient and loss; kSumThreads threads per block.
template <class T>
__global__ void __launch_bounds__(kSumThreads, 4)
    compute_saliency_losses(SaliencyShape s, unsigned blocks_per_image, double lam, RoleRule rule,
                            const T* logits, const Wide<T>* saliency, const int* counts,
                            const int* invalid, SaliencyOutput<Wide<T>> out) {
  using Real = Wide<T>;
  __shared__ Role shared[kSharedRoles];
  const SaliencyPixel p = saliency_pixel(s, blocks_per_image);
  for (int k = static_cast<int>(threadIdx.x); k < kSharedRoles && k < s.channels;
       k += kSumThreads) {
    shared[k] = role_of(s, rule, counts, p.image, k);
  }
  __syncthreads();
  double square = 0;
  if (p.exists) {
    square = saliency_error<T>(
        s, static_cast<Real>(lam), static_cast<Real>(1 - lam), logits, saliency_at(s, saliency, p),
        p,
        [&](int64_t k) {
          return k < kSharedRoles ? shared[k] : role_of(s, rule, counts, p.image, k);
        },
        out);
  }
  sum_blocks(square, out.parts, blockIdx.x, gridDim.x, out.ticket,
             1.0 / static_cast<double>(s.images * s.pixels()), *invalid > 0, out.loss);
}

}  // namespace wsss::cuda
