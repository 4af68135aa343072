// Argument checks of aamr_loss.
#pragma once

#include "../math/aamr_loss.h"
#include "arguments.h"

namespace wsss {

// logits [B, K, h, w], saliency [B, H, W], response [B, H', W']
inline AamrShape aamr_shape(const Tensor& logits, const Tensor& saliency, const Tensor& response) {
  check(logits.dim() == 4 && logits.size(1) >= 2, "aamr_loss: logits is ", logits,
        "; must be [B, K, h, w], K >= 2");
  for (const Tensor* map : {&saliency, &response}) {
    check(map->dim() == 3 && map->size(0) == logits.size(0) &&
              (logits.numel() == 0 || map->numel() > 0),
          "aamr_loss: logits is ", logits, " but a map is ", *map, "; must be [B, H, W]");
  }
  return {logits.size(0),   logits.size(1),   logits.size(2),   logits.size(3),
          saliency.size(1), saliency.size(2), response.size(1), response.size(2)};
}

}  // namespace wsss
