// Argument checks of random_walk.
#pragma once

#include <cmath>

#include "../math/random_walk.h"
#include "arguments.h"

namespace wsss {

// maps [B, K, h, w], edge [B, h, w]
inline WalkShape walk_shape(const Tensor& maps, const Tensor& edge, int64_t radius, double beta,
                            int64_t steps) {
  check(
      edge.size(0) == maps.size(0) && edge.size(1) == maps.size(2) && edge.size(2) == maps.size(3),
      "random_walk: maps is ", maps, " but edge is ", edge, "; B, h and w must match");
  check(radius >= 1 && radius <= kMaxWalkRadius, "random_walk: radius is ", radius,
        "; must be in 1..", kMaxWalkRadius);
  check(beta > 0 && std::isfinite(beta), "random_walk: beta is ", beta, "; must be finite and > 0");
  check(steps >= 0, "random_walk: steps is ", steps, "; must be >= 0");
  return {maps.size(2), maps.size(3), static_cast<int>(radius)};
}

}  // namespace wsss
