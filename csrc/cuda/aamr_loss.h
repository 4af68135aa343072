// The op aamr_loss on CUDA.
#pragma once

#include <cstdint>

#include "../math/aamr_loss.h"
#include "context.h"

namespace wsss::cuda {

// The loss [], gradients and maps have the type of sums: float64 for float64 logits, else float32.
struct AamrLossCall {
  ElementType type;
  AamrShape shape;
  double salient, active, overlap;
  const void* logits;    // [B, K, h, w]
  const void* saliency;  // [B, H, W]
  const void* response;  // [B, H', W']
  uint8_t* region;       // [B, h, w]
  void* grad;            // [B, K, h, w]
  void* loss;
};
void aamr_loss(Context& context, const AamrLossCall& call);

}  // namespace wsss::cuda
