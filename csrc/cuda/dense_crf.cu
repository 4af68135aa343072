// Dense CRF on CUDA: the lattice comes from one radix sort of vertex keys, splatting gathers over the sorted entries.
// No atomics: results do not depend on scheduling. Images are processed one after the other on the current stream; the
// host waits once per lattice, for the number of vertices, and never inside the iterations.
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "../math/lattice.h"
#include "device.h"

namespace wsss {
namespace {

constexpr unsigned kWarp = 0xffffffffu;

__device__ __forceinline__ int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Entry e = pixel * (D+1) + corner. One more pixel, at the origin, exists when 4 does not divide N (as in pydensecrf).
struct DeviceLattice {
  int corners = 0;
  int64_t vertices = 0;
  int32_t* row = nullptr;       // [entries] vertex of an entry
  float* weight = nullptr;      // [entries]
  uint32_t* entry = nullptr;    // [entries] sorted by vertex
  int32_t* first = nullptr;     // [vertices + 1] where a vertex's entries start
  int32_t* next = nullptr;      // [corners, vertices], -1: none
  int32_t* previous = nullptr;  // [corners, vertices], -1: none
  float* values = nullptr;      // [vertices, channels]
  float* other = nullptr;       // [vertices, channels]
};

// Features are pixel position / sxy, then levels / srgb; scaled for the lattice.
template <int D>
struct Features {
  const float* image;  // [D-2, H*W]
  int64_t pixels;
  int64_t width;
  float sxy, srgb;
  float scale[D];
};

template <int D>
__global__ void locate_pixels(Features<D> f, KeyLayout<D> layout, int64_t padded, uint64_t* key, uint32_t* entry,
                              float* weight) {
  const int64_t p = global_thread();
  if (p >= padded) return;
  float scaled[D];
  for (int i = 0; i < D; ++i) scaled[i] = 0.0f;
  if (p < f.pixels) {
    scaled[0] = static_cast<float>(p % f.width) / f.sxy * f.scale[0];
    scaled[1] = static_cast<float>(p / f.width) / f.sxy * f.scale[1];
    for (int c = 2; c < D; ++c) scaled[c] = f.image[(c - 2) * f.pixels + p] / f.srgb * f.scale[c];
  }
  Simplex<D, float, int> simplex;
  locate<D>(scaled, simplex);
  uint64_t keys[D + 1];
  vertex_keys<D>(layout, simplex.quotient, simplex.rank, keys);
  for (int r = 0; r <= D; ++r) {
    const int64_t e = p * (D + 1) + r;
    key[e] = keys[r];
    entry[e] = static_cast<uint32_t>(e);
    weight[e] = simplex.weight[r];
  }
}

__global__ void mark_heads(const uint64_t* key, int64_t entries, int32_t* head) {
  const int64_t i = global_thread();
  if (i < entries) head[i] = i == 0 || key[i] != key[i - 1];
}

// `number` [entries]: inclusive sum of the heads, so vertex + 1.
__global__ void number_entries(const uint64_t* key, const uint32_t* entry, const int32_t* number, int64_t entries,
                               int64_t vertices, int32_t* row, uint64_t* vertex_key, int32_t* first) {
  const int64_t i = global_thread();
  if (i >= entries) return;
  const int32_t v = number[i] - 1;
  row[entry[i]] = v;
  if (i == 0 || number[i - 1] != number[i]) {
    vertex_key[v] = key[i];
    first[v] = static_cast<int32_t>(i);
  }
  if (i == 0) first[vertices] = static_cast<int32_t>(entries);
}

template <int D>
__global__ void find_neighbours(KeyLayout<D> layout, const uint64_t* key, int64_t vertices, int32_t* next,
                                int32_t* previous) {
  const int64_t i = global_thread();
  if (i >= vertices * (D + 1)) return;
  const int j = static_cast<int>(i / vertices);
  const int64_t v = i % vertices;
  const uint64_t wanted = next_key<D>(layout, key[v], j);
  int64_t low = 0, high = vertices;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (key[middle] < wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const bool found = low < vertices && key[low] == wanted;
  next[i] = found ? static_cast<int32_t>(low) : -1;
  if (found) previous[j * vertices + low] = static_cast<int32_t>(v);  // one writer: v is low's only predecessor
}

// A warp per vertex; G lanes take channels, the 32/G groups share the entries and are summed in a fixed order.
// q [pixels, channels], or null for ones.
template <int G>
__global__ void splat(const uint32_t* entry, const int32_t* first, int64_t vertices, const float* weight, int corners,
                      int64_t pixels, const float* q, int channels, float* values) {
  const int64_t v = global_thread() / 32;
  if (v >= vertices) return;  // whole warps
  const int lane = threadIdx.x % 32, group = lane / G;
  for (int base = 0; base < channels; base += G) {
    const int c = base + lane % G;
    float sum = 0.0f;
    for (int32_t i = first[v] + group; i < first[v + 1]; i += 32 / G) {
      const uint32_t e = entry[i];
      const int64_t pixel = e / corners;
      if (pixel < pixels && c < channels) sum += weight[e] * (q ? q[pixel * channels + c] : 1.0f);
    }
    for (int offset = 16; offset >= G; offset /= 2) sum += __shfl_xor_sync(kWarp, sum, offset);
    if (group == 0 && c < channels) values[v * channels + c] = sum;
  }
}

__global__ void blur(const float* from, float* to, const int32_t* next, const int32_t* previous, int64_t vertices,
                     int channels) {
  const int64_t i = global_thread();
  if (i >= vertices * channels) return;
  const int64_t v = i / channels, c = i % channels;
  const float ahead = next[v] < 0 ? 0.0f : from[next[v] * static_cast<int64_t>(channels) + c];
  const float behind = previous[v] < 0 ? 0.0f : from[previous[v] * static_cast<int64_t>(channels) + c];
  to[i] = from[i] + 0.5f * (ahead + behind);
}

__device__ __forceinline__ float slice(const DeviceLattice& l, int64_t pixel, int channels, int c) {
  float sum = 0.0f;
  for (int r = 0; r < l.corners; ++r) {
    const int64_t e = pixel * l.corners + r;
    sum += l.weight[e] * l.values[l.row[e] * static_cast<int64_t>(channels) + c];
  }
  return sum;
}

// Entry weights times n * sqrt(weight * gain); lattice.values holds the blurred ones.
__global__ void normalise(DeviceLattice l, int64_t pixels, float term_weight, float gain) {
  const int64_t p = global_thread();
  if (p >= pixels) return;
  const float factor = sqrtf(term_weight * gain) / sqrtf(slice(l, p, 1, 0) * gain + 1e-20f);
  for (int r = 0; r < l.corners; ++r) l.weight[p * l.corners + r] *= factor;
}

// unary [channels, pixels] -> energy [pixels, channels], channels = S*L
__global__ void to_pixel_major(const float* unary, int64_t pixels, int channels, float* energy) {
  const int64_t i = global_thread();
  if (i < pixels * channels) energy[i] = unary[i % channels * pixels + i / channels];
}

// Q = softmax_L(-energy + messages). G lanes per (pixel, set), each with PER labels. q [pixels, S*L]; `out`
// [S, L, pixels] is written instead on the last step.
template <int G, int PER>
__global__ void update(const float* energy, DeviceLattice a, DeviceLattice b, int64_t pixels, int sets, int labels,
                       bool message, float* q, float* out) {
  const int64_t group = global_thread() / G;
  const int lane = threadIdx.x % G;
  const bool active = group < pixels * sets;
  const int64_t at = active ? group : 0;  // idle lanes repeat the first pixel: shuffles need whole warps
  const int64_t pixel = at / sets, set = at % sets;
  const int channels = sets * labels;
  float z[PER];
  float top = -INFINITY;
  for (int i = 0; i < PER; ++i) {
    const int k = lane + i * G;
    z[i] = -INFINITY;
    if (k < labels) {
      z[i] = -energy[at * labels + k];
      const int c = static_cast<int>(set) * labels + k;
      if (message && a.corners) z[i] += slice(a, pixel, channels, c);
      if (message && b.corners) z[i] += slice(b, pixel, channels, c);
    }
    top = fmaxf(top, z[i]);
  }
  for (int offset = G / 2; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(kWarp, top, offset));
  float sum = 0.0f;
  for (int i = 0; i < PER; ++i) sum += z[i] = expf(z[i] - top);
  for (int offset = G / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kWarp, sum, offset);
  if (!active) return;
  for (int i = 0; i < PER; ++i) {
    const int k = lane + i * G;
    if (k >= labels) continue;
    if (out) {
      out[(set * labels + k) * pixels + pixel] = z[i] / sum;
    } else {
      q[at * labels + k] = z[i] / sum;
    }
  }
}

void launch_splat(DeviceCall& call, const DeviceLattice& l, int64_t pixels, const float* q, int channels) {
  const unsigned blocks = blocks_for(l.vertices * 32);
  auto run = [&](auto kernel) {
    kernel<<<blocks, kBlock, 0, call.stream()>>>(l.entry, l.first, l.vertices, l.weight, l.corners, pixels, q, channels,
                                                 l.values);
  };
  if (channels <= 1) run(splat<1>);
  else if (channels <= 2) run(splat<2>);
  else if (channels <= 4) run(splat<4>);
  else if (channels <= 8) run(splat<8>);
  else if (channels <= 16) run(splat<16>);
  else run(splat<32>);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Splats q and blurs; the result is in l.values.
void splat_and_blur(DeviceCall& call, DeviceLattice& l, int64_t pixels, const float* q, int channels) {
  launch_splat(call, l, pixels, q, channels);
  for (int j = 0; j < l.corners; ++j) {
    blur<<<blocks_for(l.vertices * channels), kBlock, 0, call.stream()>>>(
        l.values, l.other, l.next + j * l.vertices, l.previous + j * l.vertices, l.vertices, channels);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    std::swap(l.values, l.other);
  }
}

void launch_update(DeviceCall& call, const float* energy, const DeviceLattice& a, const DeviceLattice& b,
                   int64_t pixels, int sets, int labels, bool message, float* q, float* out) {
  auto run = [&](auto kernel, int lanes) {
    kernel<<<blocks_for(pixels * sets * lanes), kBlock, 0, call.stream()>>>(energy, a, b, pixels, sets, labels, message,
                                                                            q, out);
  };
  if (labels <= 1) run(update<1, 1>, 1);
  else if (labels <= 2) run(update<2, 1>, 2);
  else if (labels <= 4) run(update<4, 1>, 4);
  else if (labels <= 8) run(update<8, 1>, 8);
  else if (labels <= 16) run(update<16, 1>, 16);
  else if (labels <= 32) run(update<32, 1>, 32);
  else if (labels <= 64) run(update<32, 2>, 32);
  else if (labels <= 128) run(update<32, 4>, 32);
  else run(update<32, 8>, 32);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Sorts `key` with `entry` and numbers the vertices; returns the vertex keys. Waits for the number of vertices.
uint64_t* sort_vertices(DeviceCall& call, DeviceLattice& l, uint64_t* key, uint32_t* entry, int64_t entries, int bits) {
  uint64_t* sorted_key = call.allocate<uint64_t>(entries);
  l.entry = call.allocate<uint32_t>(entries);
  int32_t* head = call.allocate<int32_t>(entries);
  int32_t* number = call.allocate<int32_t>(entries);
  size_t sort_bytes = 0, scan_bytes = 0;
  STD_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, key, sorted_key, entry, l.entry, entries, 0, bits,
                                                 call.stream()));
  STD_CUDA_CHECK(cub::DeviceScan::InclusiveSum(nullptr, scan_bytes, head, number, entries, call.stream()));
  void* scratch = call.allocate<char>(static_cast<int64_t>(std::max(sort_bytes, scan_bytes)));
  STD_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(scratch, sort_bytes, key, sorted_key, entry, l.entry, entries, 0, bits,
                                                 call.stream()));
  mark_heads<<<blocks_for(entries), kBlock, 0, call.stream()>>>(sorted_key, entries, head);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  STD_CUDA_CHECK(cub::DeviceScan::InclusiveSum(scratch, scan_bytes, head, number, entries, call.stream()));
  int32_t vertices = 0;
  STD_CUDA_CHECK(cudaMemcpyAsync(&vertices, number + entries - 1, sizeof(vertices), cudaMemcpyDeviceToHost,
                                 call.stream()));
  STD_CUDA_CHECK(cudaStreamSynchronize(call.stream()));
  l.vertices = vertices;
  l.row = call.allocate<int32_t>(entries);
  l.first = call.allocate<int32_t>(l.vertices + 1);
  uint64_t* vertex_key = call.allocate<uint64_t>(l.vertices);
  number_entries<<<blocks_for(entries), kBlock, 0, call.stream()>>>(sorted_key, l.entry, number, entries, l.vertices,
                                                                    l.row, vertex_key, l.first);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return vertex_key;
}

template <int D>
DeviceLattice build(DeviceCall& call, Features<D> features, int64_t height, float term_weight, int channels) {
  feature_scale(D, features.scale);
  double span[D];
  for (int i = 0; i < D; ++i) {
    const double reach = i == 0 ? features.width / static_cast<double>(features.sxy)
                       : i == 1 ? height / static_cast<double>(features.sxy) : 255.0 / features.srgb;
    span[i] = reach * features.scale[i];
  }
  KeyLayout<D> layout;
  check(layout.fit(span), "dense_crf: sigmas are too small for 64-bit lattice keys");
  const int64_t pixels = features.pixels, padded = pixels + (pixels % 4 != 0), entries = padded * (D + 1);
  check(entries <= INT32_MAX, "dense_crf: image is too large for the CUDA kernel");

  DeviceLattice l;
  l.corners = D + 1;
  uint64_t* key = call.allocate<uint64_t>(entries);
  uint32_t* entry = call.allocate<uint32_t>(entries);
  l.weight = call.allocate<float>(entries);
  locate_pixels<D><<<blocks_for(padded), kBlock, 0, call.stream()>>>(features, layout, padded, key, entry, l.weight);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const uint64_t* vertex_key = sort_vertices(call, l, key, entry, entries, layout.bits);

  const int64_t links = l.vertices * (D + 1);
  l.next = call.allocate<int32_t>(links);
  l.previous = call.allocate<int32_t>(links);
  STD_CUDA_CHECK(cudaMemsetAsync(l.previous, 0xff, links * sizeof(int32_t), call.stream()));
  find_neighbours<D><<<blocks_for(links), kBlock, 0, call.stream()>>>(layout, vertex_key, l.vertices, l.next,
                                                                      l.previous);
  STD_CUDA_KERNEL_LAUNCH_CHECK();

  l.values = call.allocate<float>(l.vertices * channels);
  l.other = call.allocate<float>(l.vertices * channels);
  splat_and_blur(call, l, pixels, nullptr, 1);
  normalise<<<blocks_for(pixels), kBlock, 0, call.stream()>>>(l, pixels, term_weight, lattice_gain(D));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return l;
}

// image [B, 3, H, W], unary [B, S, L, H, W] -> Q, as unary
Tensor dense_crf(const Tensor& image_in, const Tensor& unary_in, double gaussian_sxy, double gaussian_weight,
                 double bilateral_sxy, double bilateral_srgb, double bilateral_weight, int64_t iterations) {
  const Tensor image = float_input("dense_crf", "image", image_in, 4);
  const Tensor unary = float_input("dense_crf", "unary", unary_in, 5);
  const int64_t batch = unary.size(0), height = unary.size(3), width = unary.size(4), pixels = height * width;
  const int sets = static_cast<int>(unary.size(1)), labels = static_cast<int>(unary.size(2)), channels = sets * labels;
  check(image.size(0) == batch && image.size(1) == 3 && image.size(2) == height && image.size(3) == width,
        "dense_crf: image is " + shape_text(image) + " but unary is " + shape_text(unary));
  check(labels <= 256, "dense_crf: more than 256 labels");
  Tensor result = torch::stable::new_empty(unary, unary.sizes());
  if (result.numel() == 0) return result;
  DeviceCall call(unary);
  const int64_t steps = gaussian_weight > 0 || bilateral_weight > 0 ? iterations : 0;
  float* energy = call.allocate<float>(pixels * channels);
  float* q = call.allocate<float>(pixels * channels);
  DeviceLattice spatial, bilateral;
  if (steps > 0 && gaussian_weight > 0) {
    const Features<2> features{nullptr, pixels, width, static_cast<float>(gaussian_sxy), 1.0f, {}};
    spatial = build<2>(call, features, height, static_cast<float>(gaussian_weight), channels);
  }
  const size_t shared = call.mark();
  for (int64_t b = 0; b < batch; ++b) {
    const float* levels = image.const_data_ptr<float>() + b * 3 * pixels;
    float* out = result.mutable_data_ptr<float>() + b * channels * pixels;
    to_pixel_major<<<blocks_for(pixels * channels), kBlock, 0, call.stream()>>>(
        unary.const_data_ptr<float>() + b * channels * pixels, pixels, channels, energy);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    if (steps > 0 && bilateral_weight > 0) {
      const Features<5> features{levels, pixels, width, static_cast<float>(bilateral_sxy),
                                 static_cast<float>(bilateral_srgb), {}};
      bilateral = build<5>(call, features, height, static_cast<float>(bilateral_weight), channels);
    }
    for (int64_t step = 0; step <= steps; ++step) {
      launch_update(call, energy, spatial, bilateral, pixels, sets, labels, step > 0, q, step == steps ? out : nullptr);
      if (step == steps) break;
      if (spatial.corners) splat_and_blur(call, spatial, pixels, q, channels);
      if (bilateral.corners) splat_and_blur(call, bilateral, pixels, q, channels);
    }
    call.release(shared);
  }
  return result;
}

}  // namespace
}  // namespace wsss

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CUDA, m) { WSSS_IMPL(m, "dense_crf", "CUDA", wsss::dense_crf); }
