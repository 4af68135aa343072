// Argument checks of saliency_loss.
#pragma once

#include "../math/saliency_loss.h"
#include "arguments.h"

namespace wsss {

// logits [B, K, h, w], saliency [B, H, W] or [B, 1, H, W], present [B, K - 1] uint8
inline SaliencyShape saliency_shape(const Tensor& logits, const Tensor& saliency,
                                    const Tensor& present, const Sizes& always_background) {
  const int64_t dims = saliency.dim();
  check(logits.dim() == 4 && (dims == 3 || (dims == 4 && saliency.size(1) == 1)) &&
            saliency.size(0) == logits.size(0),
        "saliency_loss: logits is ", logits, " but saliency is ", saliency,
        "; must be [B, K, h, w] and [B, H, W] or [B, 1, H, W]");
  check(present.scalar_type() == ScalarType::Byte && present.dim() == 2 &&
            present.size(0) == logits.size(0) && present.size(1) == logits.size(1) - 1,
        "saliency_loss: labels is ", present, "; must be uint8 [B, K - 1]");
  for (int64_t k : always_background) {
    check(k >= 1 && k < logits.size(1), "saliency_loss: background_classes holds ", k,
          "; must be in 1..", logits.size(1) - 1);
  }
  check(logits.numel() == 0 || saliency.numel() > 0, "saliency_loss: saliency is empty");
  return {logits.size(0), logits.size(1),          logits.size(2),
          logits.size(3), saliency.size(dims - 2), saliency.size(dims - 1)};
}

// The sizes of the returned maps: the saliency's dimensions, the logits' height and width.
inline Sizes saliency_map_sizes(const SaliencyShape& s, const Tensor& saliency) {
  return saliency.dim() == 3 ? Sizes{s.images, s.height, s.width}
                             : Sizes{s.images, 1, s.height, s.width};
}

}  // namespace wsss
