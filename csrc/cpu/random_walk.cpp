#include "random_walk.h"

#include "../bind/arguments.h"

namespace {

using wsss::Tensor;

// maps [B, K, h, w], edge [B, h, w] -> [B, K, h, w]
Tensor random_walk(const Tensor& maps_in, const Tensor& edge_in, int64_t radius, double beta, int64_t steps) {
  const Tensor maps = wsss::float_input("random_walk", "maps", maps_in, 4);
  const Tensor edge = wsss::float_input("random_walk", "edge", edge_in, 3);
  const wsss::WalkShape shape = wsss::walk_shape(maps, edge, radius, beta, steps);
  Tensor out = torch::stable::new_empty(maps, maps.sizes());
  if (maps.numel() == 0) return out;
  wsss::random_walk_cpu(maps.const_data_ptr<float>(), edge.const_data_ptr<float>(), maps.size(0), maps.size(1), shape,
                        beta, steps, static_cast<int>(torch::stable::get_num_threads()), out.mutable_data_ptr<float>());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) { WSSS_IMPL(m, "random_walk", "CPU", random_walk); }
