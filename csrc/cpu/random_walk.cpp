#include "random_walk.h"

#include "../bind.h"

namespace {

using wsss::Tensor;

// maps [B, K, h, w], edge [B, h, w] -> [B, K, h, w]
Tensor random_walk(const Tensor& maps_in, const Tensor& edge_in, int64_t radius, double beta, int64_t steps) {
  const Tensor maps = wsss::float_input("random_walk", "maps", maps_in, 4);
  const Tensor edge = wsss::float_input("random_walk", "edge", edge_in, 3);
  wsss::check(edge.size(0) == maps.size(0) && edge.size(1) == maps.size(2) && edge.size(2) == maps.size(3),
              "random_walk: maps is " + wsss::shape_text(maps) + " but edge is " + wsss::shape_text(edge));
  Tensor out = torch::stable::new_empty(maps, maps.sizes());
  if (maps.numel() == 0) return out;
  const wsss::WalkShape shape{maps.size(2), maps.size(3), static_cast<int>(radius)};
  wsss::random_walk_cpu(maps.const_data_ptr<float>(), edge.const_data_ptr<float>(), maps.size(0), maps.size(1), shape,
                        beta, steps, static_cast<int>(torch::stable::get_num_threads()), out.mutable_data_ptr<float>());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) { WSSS_IMPL(m, "random_walk", "CPU", random_walk); }
