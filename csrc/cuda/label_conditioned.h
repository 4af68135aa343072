// The op label_conditioned_logits and its gradient on CUDA.
#pragma once

#include <cstdint>
#include <vector>

#include "../math/taps.h"
#include "context.h"

namespace wsss::cuda {

struct HeadCall {
  ElementType type;
  HeadShape shape;
  int64_t images;
  std::vector<int64_t> dilations;
  const void* features;  // [B, C, h, w], or [B, h, w, C] if `channels_last`
  const void* scale;     // [B, C] or null
  const void* weight;    // [R, K, C, k, k]
  bool channels_last;    // the order of the features and their gradient
  bool tf32;             // float32 products may round their factors to TF32
};

// bias [R, K] -> logits [B, K, h, w]
void label_conditioned_logits(Context& context, const HeadCall& call, const void* bias,
                              void* logits);

// grad [B, K, h, w] -> the gradients; what is null is not computed. grad_scale needs grad_weight.
void label_conditioned_logits_backward(Context& context, const HeadCall& call, const void* grad,
                                       void* grad_features, void* grad_scale, void* grad_weight,
                                       void* grad_bias);

}  // namespace wsss::cuda
