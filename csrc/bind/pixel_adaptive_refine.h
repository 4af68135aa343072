// Argument checks of pixel_adaptive_refine and its gradient.
#pragma once

#include "../math/pixel_adaptive_refine.h"
#include "arguments.h"

namespace wsss {

// masks or their gradient [B, K, H, W], image [B, C, H, W]
inline void check_refine(const char* op, const Tensor& masks, const Tensor& image,
                         const Sizes& dilations, int64_t iterations) {
  check(image.size(0) == masks.size(0) && image.size(2) == masks.size(2) &&
            image.size(3) == masks.size(3),
        op, ": image is ", image, " but masks is ", masks, "; B, H and W must match");
  check(image.size(1) > 0, op, ": image is ", image, "; must have a channel");
  check(!dilations.empty(), op, ": dilations is empty");
  for (const int64_t d : dilations) {
    check(d >= 1 && d <= kMaxDilation, op, ": dilations has ", d, "; must be in 1..", kMaxDilation);
  }
  check(iterations >= 0, op, ": iterations is ", iterations, "; must be >= 0");
}

}  // namespace wsss
