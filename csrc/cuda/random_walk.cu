#include "random_walk.cuh"

#include "../bind/arguments.h"

#include "device.h"

namespace wsss {
namespace {

// Images whose weights stay in the second-level cache together are walked together.
constexpr int64_t kWeightBytes = 32 << 20;

template <int K>
void launch_step(const DeviceCall& call, const WalkArrays& a, int64_t first, int64_t step) {
  walk_step<K><<<blocks_for(a.images * a.shape.cells()), kBlock, 0, call.stream()>>>(a, first, a.fields[step % 2],
                                                                                    a.fields[(step + 1) % 2]);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

void walk(const DeviceCall& call, const WalkArrays& a, double beta, int64_t steps, const float* maps, const float* edge,
          float* out) {
  const int64_t cells = a.images * a.shape.cells();
  walk_start<<<blocks_for(a.images * a.plane()), kBlock, 0, call.stream()>>>(a, maps, edge);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  walk_weights<<<blocks_for(cells), kBlock, 0, call.stream()>>>(a, static_cast<float>(beta));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  for (int64_t step = 0; step < steps; ++step) {
    int64_t k = 0;
    for (; k + 4 <= a.maps; k += 4) launch_step<4>(call, a, k, step);
    if (a.maps - k == 3) launch_step<3>(call, a, k, step);
    if (a.maps - k == 2) launch_step<2>(call, a, k, step);
    if (a.maps - k == 1) launch_step<1>(call, a, k, step);
  }
  walk_end<<<blocks_for(a.images * a.maps * a.shape.height * a.shape.width), kBlock, 0, call.stream()>>>(
      a, a.fields[steps % 2], out);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// maps [B, K, h, w], edge [B, h, w] -> [B, K, h, w]
Tensor random_walk(const Tensor& maps_in, const Tensor& edge_in, int64_t radius, double beta, int64_t steps) {
  const Tensor maps = float_input("random_walk", "maps", maps_in, 4);
  const Tensor edge = float_input("random_walk", "edge", edge_in, 3);
  const WalkShape shape = walk_shape(maps, edge, radius, beta, steps);
  Tensor out = torch::stable::new_empty(maps, maps.sizes());
  if (maps.numel() == 0) return out;
  DeviceCall call(maps);
  const int64_t batch = maps.size(0), count = maps.size(1), image = maps.size(2) * maps.size(3);
  WalkArrays a{shape, 0, count, nullptr, nullptr, {}};
  const int64_t weights = neighbours(a.shape.radius) * a.shape.cells();
  // Radius 1 has no neighbours, so no weights.
  const int64_t bytes = std::max<int64_t>(weights * static_cast<int64_t>(sizeof(float)), 1);
  const int64_t chunk = std::clamp<int64_t>(kWeightBytes / bytes, 1, batch);
  a.weights = call.allocate<float>(chunk * (weights + (1 + 2 * count) * a.plane()));
  a.wall = a.weights + chunk * weights;
  a.fields[0] = a.wall + chunk * a.plane();
  a.fields[1] = a.fields[0] + chunk * count * a.plane();
  for (int64_t b = 0; b < batch; b += chunk) {
    a.images = std::min(chunk, batch - b);
    walk(call, a, beta, steps, maps.const_data_ptr<float>() + b * count * image,
         edge.const_data_ptr<float>() + b * image, out.mutable_data_ptr<float>() + b * count * image);
  }
  return out;
}

}  // namespace
}  // namespace wsss

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CUDA, m) { WSSS_IMPL(m, "random_walk", "CUDA", wsss::random_walk); }
