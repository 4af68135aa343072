// Checks of arguments that the CPU and the CUDA binding share.
#pragma once

#include <cmath>

#include "../math/saliency.h"
#include "../math/walk.h"
#include "stable_abi.h"

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

// logits [B, K, h, w], saliency [B, H, W] or [B, 1, H, W], present [B, K - 1] uint8
inline SaliencyShape saliency_shape(const Tensor& logits, const Tensor& saliency, const Tensor& present,
                                    const std::vector<int64_t>& always_background) {
  const int64_t dims = saliency.dim();
  check(logits.dim() == 4 && (dims == 3 || (dims == 4 && saliency.size(1) == 1)) && saliency.size(0) == logits.size(0),
        "saliency_loss: logits is " + shape_text(logits) + " but saliency is " + shape_text(saliency));
  check(present.scalar_type() == torch::headeronly::ScalarType::Byte && present.dim() == 2 &&
            present.size(0) == logits.size(0) && present.size(1) == logits.size(1) - 1,
        "saliency_loss: labels is " + shape_text(present) + "; must be uint8 [B, K - 1]");
  for (int64_t k : always_background) check(k >= 1 && k < logits.size(1), "saliency_loss: no such background class");
  check(logits.numel() == 0 || saliency.numel() > 0, "saliency_loss: saliency is empty");
  return {logits.size(0), logits.size(1), logits.size(2), logits.size(3), saliency.size(dims - 2), saliency.size(dims - 1)};
}

// The sizes of the maps that are returned: the saliency's dimensions, the logits' height and width.
inline std::vector<int64_t> saliency_map_sizes(const SaliencyShape& s, const Tensor& saliency) {
  return saliency.dim() == 3 ? std::vector<int64_t>{s.images, s.height, s.width}
                             : std::vector<int64_t>{s.images, 1, s.height, s.width};
}

}  // namespace wsss
