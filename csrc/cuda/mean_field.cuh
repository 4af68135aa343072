// Mean field of the dense CRF (Kraehenbuehl and Koltun 2011, algorithm 1) for a batch, on lattices,
// without waiting for the device, so that the whole call can be captured in a CUDA graph.
//
// A channel is Q - 1/L of one of the first L-1 labels of a unary: the messages of all L labels sum
// to 0, so the last one's needs no filtering, and constants cancel in the softmax. A pixel's
// channels are one row; those of each unary are padded to whole packs. Lattice weights include n *
// sqrt(weight * gain), so that splat and slice need no other factor.
#pragma once

#include <cmath>

#include "filter.cuh"

namespace wsss::cuda {

// Scaled features of pixels: position / (sx, sy), then levels / their deviations.
template <int D>
struct PixelFeatures {
  const float* image;  // [B, D-2, pixels]
  int64_t pixels;
  uint32_t width;
  float lowest, highest;
  float sigma[D], scale[D];

  __device__ __forceinline__ void operator()(int64_t b, int64_t p, float* scaled) const {
    const uint32_t at = static_cast<uint32_t>(p), y = at / width, x = at - y * width;
    scaled[0] = static_cast<float>(x) / sigma[0] * scale[0];
    scaled[1] = static_cast<float>(y) / sigma[1] * scale[1];
#pragma unroll
    for (int c = 2; c < D; ++c) {
      const float level = image[(b * (D - 2) + c - 2) * pixels + p];
      // NaN becomes the lowest: a key must not leave its range.
      const float inside = level >= lowest ? (level <= highest ? level : highest) : lowest;
      scaled[c] = inside / sigma[c] * scale[c];
    }
  }
};

// Multiplies corner weights by n * sqrt(weight * gain), with n from the blurred ones; writes the
// factors to `factor` [images * points].
__global__ static void normalise_corners(Term t, Corner* corner, float amount, float gain,
                                         float* factor) {
  const int64_t p = thread_number();
  if (p >= t.points) return;
  const float* ones = t.blurred();
  float sum = 0.0f;
  for (int r = 0; r < t.corners; ++r) {
    const Corner c = corner[corner_index(t.points, p, r)];
    sum += c.weight * ones[c.row];
  }
  const float f = amount / sqrtf(sum * gain + 1e-20f);
  for (int r = 0; r < t.corners; ++r) corner[corner_index(t.points, p, r)].weight *= f;
  factor[p] = f;
}

__global__ static void normalise_contributions(Contribution* contribution, int64_t entries,
                                               const float* factor) {
  const int64_t i = thread_number();  // the order does not matter: entries are whole tiles
  if (i < entries) contribution[i].weight *= factor[contribution[i].point & ~kFirst];
}

struct Update {
  const float* unary;  // [images, S, L, N]
  float* q;            // [images * N, S * padded]
  float* out;          // [images, S, L, N], or null: write q
  int64_t images, pixels;
  int sets, labels, padded;
  bool message;
};

// Reduces x with `combine` over the G lanes that share a pixel and set; all lanes get the result.
template <int G, class Combine>
__device__ __forceinline__ float across(float x, const Combine& combine) {
#pragma unroll
  for (int offset = G / 2; offset > 0; offset /= 2) {
    x = combine(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  return x;
}

// Slices, adds the unary and takes the softmax: G lanes per pixel and set, each with PER packs of V
// channels, pack lane + i * G. Neighbouring lanes read neighbouring packs of a lattice row.
template <int V, int G, int PER>
__global__ void __launch_bounds__(kThreads) update(Update u, Terms terms) {
  const int64_t group = thread_number() / G, items = u.images * u.pixels * u.sets;
  const int lane = static_cast<int>(threadIdx.x) % G;
  const bool active = group < items;
  // Idle lanes repeat the first pixel, because shuffles need whole warps.
  const int64_t item = active ? group : 0;
  const int64_t at = item / u.sets, image = at / u.pixels, pixel = at - image * u.pixels;
  const int set = static_cast<int>(item - at * u.sets), width = u.sets * u.padded;
  Pack<V> z[PER] = {};
  if (u.message) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const Term& t = terms.at[k];
      if (t.corners == 0) continue;
      const bool shared = t.copies > 1;
      const float* values = t.blurred() + (shared ? image * *t.count * width : 0) + set * u.padded;
#pragma unroll 3
      for (int r = 0; r < t.corners; ++r) {
        const Corner c = t.corner[corner_index(t.points, shared ? pixel : at, r)];
        const float* row = values + static_cast<int64_t>(c.row) * width;
#pragma unroll
        for (int i = 0; i < PER; ++i) {
          const int first = (lane + i * G) * V;
          if (first < u.padded) add_scaled(z[i], c.weight, load<V>(row + first));
        }
      }
    }
  }
  // Padding channels are 0, and so are their messages.
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < PER; ++i) {
#pragma unroll
    for (int x = 0; x < V; ++x) sum += z[i].at[x];
  }
  sum = across<G>(sum, [](float a, float b) { return a + b; });
  const int carried = u.labels - 1;
  const float* energy = u.unary + (image * u.sets + set) * u.labels * u.pixels + pixel;
  const float last = -sum - energy[carried * u.pixels];
  float top = last;
#pragma unroll
  for (int i = 0; i < PER; ++i) {
#pragma unroll
    for (int x = 0; x < V; ++x) {
      const int k = (lane + i * G) * V + x;
      z[i].at[x] = k < carried ? z[i].at[x] - energy[k * u.pixels] : -INFINITY;
      top = fmaxf(top, z[i].at[x]);
    }
  }
  top = across<G>(top, [](float a, float b) { return fmaxf(a, b); });
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < PER; ++i) {
#pragma unroll
    for (int x = 0; x < V; ++x) total += z[i].at[x] = expf(z[i].at[x] - top);
  }
  const float last_share = expf(last - top);
  total = across<G>(total, [](float a, float b) { return a + b; }) + last_share;
  if (!active) return;
  const float inverse = 1.0f / total;
  if (u.out != nullptr) {
    float* out = u.out + (image * u.sets + set) * u.labels * u.pixels + pixel;
#pragma unroll
    for (int i = 0; i < PER; ++i) {
#pragma unroll
      for (int x = 0; x < V; ++x) {
        const int k = (lane + i * G) * V + x;
        if (k < carried) out[k * u.pixels] = z[i].at[x] * inverse;
      }
    }
    if (lane == 0) out[carried * u.pixels] = last_share * inverse;
    return;
  }
  const float mean = 1.0f / static_cast<float>(u.labels);
  float* row = u.q + at * width + set * u.padded;
#pragma unroll
  for (int i = 0; i < PER; ++i) {
    const int first = (lane + i * G) * V;
    if (first >= u.padded) continue;
#pragma unroll
    for (int x = 0; x < V; ++x) {
      z[i].at[x] = first + x < carried ? z[i].at[x] * inverse - mean : 0.0f;
    }
    store<V>(row + first, z[i]);
  }
}

template <int V, int G, int PER>
void launch_update_as(Stream stream, const Update& u, const Terms& terms) {
  launch_with_barriers(
      stream, blocks_for(u.images * u.pixels * u.sets * G), kThreads, update<V, G, PER>, u, terms);
}

inline void launch_update(Stream stream, const Update& u, const Terms& terms) {
  const int packs = u.padded / 4;
  if (u.padded <= 1) launch_update_as<1, 1, 1>(stream, u, terms);
  else if (u.padded == 2) launch_update_as<2, 1, 1>(stream, u, terms);
  else if (packs == 1) launch_update_as<4, 1, 1>(stream, u, terms);
  else if (packs == 2) launch_update_as<4, 2, 1>(stream, u, terms);
  else if (packs <= 4) launch_update_as<4, 2, 2>(stream, u, terms);
  else if (packs <= 6) launch_update_as<4, 2, 3>(stream, u, terms);
  else if (packs <= 8) launch_update_as<4, 4, 2>(stream, u, terms);
  else if (packs <= 12) launch_update_as<4, 4, 3>(stream, u, terms);
  else if (packs <= 16) launch_update_as<4, 8, 2>(stream, u, terms);
  else if (packs <= 24) launch_update_as<4, 8, 3>(stream, u, terms);
  else if (packs <= 32) launch_update_as<4, 16, 2>(stream, u, terms);
  else launch_update_as<4, 16, 4>(stream, u, terms);
}

}  // namespace wsss::cuda
