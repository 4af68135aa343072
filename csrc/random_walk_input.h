// What both backends ask of the random walk's arguments.
#pragma once

#include <cmath>

#include "bind.h"
#include "math/walk.h"

namespace wsss {

// maps [B, K, h, w], edge [B, h, w]. Callers of the op itself come past the public function's checks.
inline WalkShape walk_shape(const Tensor& maps, const Tensor& edge, int64_t radius, double beta, int64_t steps) {
  check(edge.size(0) == maps.size(0) && edge.size(1) == maps.size(2) && edge.size(2) == maps.size(3),
        "random_walk: maps is " + shape_text(maps) + " but edge is " + shape_text(edge));
  check(radius >= 1 && radius <= kMaxWalkRadius,
        "random_walk: radius is " + std::to_string(radius) + "; must be in 1.." + std::to_string(kMaxWalkRadius));
  check(beta > 0 && std::isfinite(beta), "random_walk: beta is " + std::to_string(beta) + "; must be finite and > 0");
  check(steps >= 0, "random_walk: steps is " + std::to_string(steps) + "; must be >= 0");
  return {maps.size(2), maps.size(3), static_cast<int>(radius)};
}

}  // namespace wsss
