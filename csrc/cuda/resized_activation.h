// The op resized_activation and its gradient on CUDA.
#pragma once

#include <cstdint>

#include "../math/bilinear.h"
#include "context.h"

namespace wsss::cuda {

// logits [images, K, h, w] -> result [images, K, H, W]
void resized_activation(Context& context, ElementType type, const ResizeShape& shape,
                        int64_t images, bool softmax, const void* logits, void* result);

// grad, result [images, K, H, W] -> grad_logits [images, K, h, w]
void resized_activation_backward(Context& context, ElementType type, const ResizeShape& shape,
                                 int64_t images, bool softmax, const void* grad, const void* result,
                                 void* grad_logits);

}  // namespace wsss::cuda
