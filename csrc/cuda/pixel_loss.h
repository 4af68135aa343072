// The ops pixel_cross_entropy and pixel_bce on CUDA.
#pragma once

#include <cstdint>

#include "../math/pixel_loss.h"
#include "context.h"

namespace wsss::cuda {

// The loss [], gradients and maps have the type of sums: float64 for float64 logits, else float32.
struct PixelLossCall {
  PixelLossKind kind;
  ElementType type;
  bool byte_labels;  // uint8, else int64
  PixelLossShape shape;
  PixelLossOptions options;
  const void* logits;      // [B, K, h, w]
  const void* labels;      // [B, H, W]
  const uint8_t* present;  // [B, K] or null
  void* grad;              // [B, K, h, w] or null
  void* loss;
};
void pixel_loss(Context& context, const PixelLossCall& call);

}  // namespace wsss::cuda
