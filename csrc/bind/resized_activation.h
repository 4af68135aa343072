// Argument checks of resized_activation.
#pragma once

#include "../math/bilinear.h"
#include "arguments.h"

namespace wsss {

// logits [B, K, h, w], size [H, W]
inline ResizeShape resize_shape(const Tensor& logits, const Sizes& size) {
  check(logits.dim() == 4 && size.size() == 2,
        "resized_activation: logits is " + shape_text(logits) +
            "; must be [B, K, h, w], size two numbers");
  return {logits.size(1), logits.size(2), logits.size(3), size[0], size[1]};
}

}  // namespace wsss
