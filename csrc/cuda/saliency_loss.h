// The op saliency_loss on CUDA.
#pragma once

#include <cstdint>
#include <vector>

#include "../math/saliency_loss.h"
#include "context.h"

namespace wsss::cuda {

// The loss [], gradients and maps have the type of sums: float64 for float64 logits, else float32.
struct SaliencyLossCall {
  ElementType type;
  SaliencyShape shape;
  double tau, lam;
  bool adaptive;
  std::vector<int64_t> always_background;
  const void* logits;                        // [B, K, h, w]
  const void* saliency;                      // [B, H, W]
  const uint8_t* present;                    // [B, K - 1]
  void *foreground, *background, *estimate;  // [B, h, w]
  void* grad;                                // [B, K, h, w]
  void* loss;
};
void saliency_loss(Context& context, const SaliencyLossCall& call);

}  // namespace wsss::cuda
