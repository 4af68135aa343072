// Argument checks of label_conditioned_logits.
#pragma once

#include "../math/taps.h"
#include "arguments.h"

namespace wsss {

// features [B, C, h, w], scale [B, C], weight [R, K, C, k, k], bias [R, K]
inline HeadShape head_shape(const Tensor& features, const std::optional<Tensor>& scale,
                            const Tensor& weight, const Tensor& bias, const Sizes& dilations) {
  const std::string op = "label_conditioned_logits: ";
  check(features.dim() == 4 && weight.dim() == 5 && weight.size(2) == features.size(1) &&
            weight.size(3) == weight.size(4) && (weight.size(3) == 1 || weight.size(3) == 3),
        op + "features is " + shape_text(features) + " but weight is " + shape_text(weight) +
            "; must be [B, C, h, w] and [R, K, C, k, k] with k = 1 or 3");
  check(!scale || sizes_of(*scale) == Sizes{features.size(0), features.size(1)},
        op + "features is " + shape_text(features) + " but scale is " +
            (scale ? shape_text(*scale) : "") + "; must be [B, C]");
  check(sizes_of(bias) == Sizes{weight.size(0), weight.size(1)},
        op + "weight is " + shape_text(weight) + " but bias is " + shape_text(bias) +
            "; must be [R, K]");
  check(static_cast<int64_t>(dilations.size()) == weight.size(0),
        op + "dilations holds " + std::to_string(dilations.size()) +
            " numbers; must be R=" + std::to_string(weight.size(0)));
  return {weight.size(1),   weight.size(2), features.size(2),
          features.size(3), weight.size(0), weight.size(3) * weight.size(4)};
}

// Whether the features are in channels-last order and not also contiguous, as torch computes it.
inline bool is_channels_last(const Tensor& features) {
  if (features.dim() != 4 || features.is_contiguous()) return false;
  int64_t step = 1;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (features.size(d) == 1) continue;
    if (features.stride(d) != step) return false;
    step *= features.size(d);
  }
  return true;
}

// `grad` has the shape of the logits.
inline void check_head_gradient(const Tensor& grad, const HeadShape& s, int64_t images) {
  check(
      sizes_of(grad) == Sizes{images, s.labels, s.height, s.width},
      "label_conditioned_logits_backward: grad is " + shape_text(grad) + "; must be [B, K, h, w]");
}

}  // namespace wsss
