#pragma once

#include "../../cpu/random_walk.h"

#include "../random_walk.h"
#include "backend.h"

namespace wsss {

// maps [B, K, h, w], edge [B, h, w] -> [B, K, h, w]
inline Tensor random_walk(const Tensor& maps_in, const Tensor& edge_in, int64_t radius, double beta,
                          int64_t steps) {
  const Tensor maps = float_input("random_walk", "maps", maps_in, 4);
  const Tensor edge = float_input("random_walk", "edge", edge_in, 3);
  const WalkShape shape = walk_shape(maps, edge, radius, beta, steps);
  Tensor out = allocate_like(maps);
  if (maps.numel() == 0) return out;
  cpu::random_walk(maps.const_data_ptr<float>(), edge.const_data_ptr<float>(), maps.size(0),
                   maps.size(1), shape, beta, steps, threads(), out.mutable_data_ptr<float>());
  return out;
}
WSSS_IMPL(random_walk)

}  // namespace wsss
