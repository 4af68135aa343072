// IRN's random walk: one thread per cell, one launch per step. Neighbours are summed in the CPU
// kernel's order, so that both give the same bits if `beta` is an integer.
#pragma once

#include <cmath>
#include <cstdint>

#include "../math/random_walk.h"

#include "launch.cuh"

namespace wsss::cuda {

// A chunk of images on the device: each row is followed by border cells, each plane has margins.
struct WalkArrays {
  WalkShape shape;
  int64_t images, maps;
  float* wall;       // [images, plane]
  float* weights;    // [images, neighbours, cells]
  float* fields[2];  // [images, maps, plane]

  WSSS_HD int64_t plane() const { return 2 * shape.margin() + shape.cells(); }
};

// Copies maps [images, K, h, w] and edge [images, h, w] into planes; one thread per
// cell of each plane of `wall`.
__global__ static void walk_start(WalkArrays a, const float* maps, const float* edge) {
  const int64_t i = thread_number(), plane = a.plane();
  if (i >= a.images * plane) return;
  const WalkShape s = a.shape;
  const int64_t image = i / plane, at = i % plane, cell = at - s.margin(), y = cell / s.stride(),
                x = cell % s.stride();
  const bool inside = cell >= 0 && y < s.height && x < s.width;
  const float wall = inside ? edge[(image * s.height + y) * s.width + x] : 1.0f;
  a.wall[i] = wall;
  for (int64_t k = 0; k < a.maps; ++k) {
    const int64_t to = (image * a.maps + k) * plane + at;
    const float value = inside ? maps[((image * a.maps + k) * s.height + y) * s.width + x] : 0.0f;
    a.fields[0][to] = inside ? value * (1 - wall) : 0.0f;
    a.fields[1][to] = 0.0f;
  }
}

// Transition weights of a cell: affinities divided by their sum. One thread per cell of each image.
__global__ static void walk_weights(WalkArrays a, float beta) {
  const int64_t i = thread_number(), cells = a.shape.cells();
  if (i >= a.images * cells) return;
  const WalkShape s = a.shape;
  const int64_t image = i / cells, cell = i % cells;
  const float* wall = a.wall + image * a.plane() + s.margin() + cell;
  const int count = neighbours(s.radius);
  float* weight = a.weights + image * count * cells + cell;
  const int whole = static_cast<int>(beta < kMaxIntegerPower ? beta : kMaxIntegerPower);
  float sum = 1.0f;  // a cell's affinity to itself
  int64_t n = 0;
  for (int y = -s.reach(); y <= s.reach(); ++y) {
    const int half = half_width(s.radius, y);
    for (int x = -half; x <= half; ++x) {
      if (x == 0 && y == 0) continue;
      float highest = 0.0f;
      for_each_on_path(y, x, [&](int v, int u) {
        const float there = wall[v * s.stride() + u];
        highest = there > highest ? there : highest;
      });
      const float affinity =
          whole == beta ? integer_power(1 - highest, whole) : powf(1 - highest, beta);
      weight[n++ * cells] = affinity;
      sum += affinity;
    }
  }
  for (n = 0; n < count; ++n) weight[n * cells] = weight[n * cells] / sum;
}

// One step of maps [first, first + K) of every image. One thread per cell of each image.
template <int K>
__global__ void walk_step(WalkArrays a, int64_t first, const float* from, float* to) {
  const int64_t i = thread_number(), cells = a.shape.cells(), plane = a.plane();
  if (i >= a.images * cells) return;
  const WalkShape s = a.shape;
  const int64_t image = i / cells, cell = i % cells;
  // Border cells stay 0: through a NaN there, a NaN of one row would reach the next.
  if (cell % s.stride() >= s.width) return;
  const int64_t place = (image * a.maps + first) * plane + s.margin() + cell;
  const float* weight = a.weights + image * neighbours(s.radius) * cells + cell;
  float here[K], sum[K] = {};
  for (int k = 0; k < K; ++k) here[k] = from[place + k * plane];
  for (int y = -s.reach(); y <= s.reach(); ++y) {
    const int half = half_width(s.radius, y);
    const float* there = from + place + y * s.stride();
    for (int x = -half; x <= half; ++x) {
      if (x == 0 && y == 0) continue;
      const float w = *weight;
      weight += cells;
      for (int k = 0; k < K; ++k) sum[k] += w * (there[k * plane + x] - here[k]);
    }
  }
  for (int k = 0; k < K; ++k) to[place + k * plane] = here[k] + sum[k];
}

// Copies the result to out [images, K, h, w]; one thread per value.
__global__ static void walk_end(WalkArrays a, const float* field, float* out) {
  const int64_t i = thread_number();
  const WalkShape s = a.shape;
  if (i >= a.images * a.maps * s.height * s.width) return;
  const int64_t x = i % s.width, y = i / s.width % s.height, map = i / (s.width * s.height);
  out[i] = field[map * a.plane() + s.margin() + y * s.stride() + x];
}

}  // namespace wsss::cuda
