// Argument checks of random_walk.
#pragma once

#include <cmath>

#include "../math/random_walk.h"
#include "arguments.h"

namespace wsss {

// maps [B, K, h, w], edge [B, h, w]
inline WalkShape walk_shape(const Tensor& maps, const Tensor& edge, int64_t radius, double beta,
                            int64_t steps) {
  const std::string op = "random_walk: ";
  check(
      edge.size(0) == maps.size(0) && edge.size(1) == maps.size(2) && edge.size(2) == maps.size(3),
      op + "maps is " + shape_text(maps) + " but edge is " + shape_text(edge) +
          "; B, h and w must match");
  check(radius >= 1 && radius <= kMaxWalkRadius,
        op + "radius is " + std::to_string(radius) + "; must be in 1.." +
            std::to_string(kMaxWalkRadius));
  check(beta > 0 && std::isfinite(beta),
        op + "beta is " + std::to_string(beta) + "; must be finite and > 0");
  check(steps >= 0, op + "steps is " + std::to_string(steps) + "; must be >= 0");
  return {maps.size(2), maps.size(3), static_cast<int>(radius)};
}

}  // namespace wsss
