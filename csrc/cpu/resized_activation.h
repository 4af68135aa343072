// The op resized_activation on the CPU.
#pragma once

#include <cstdint>

#include "../math/bilinear.h"
#include "host.h"

namespace wsss::cpu {

// logits [images, K, h, w] -> result [images, K, H, W]
template <class Real>
void resized_activation(const ResizeShape& shape, int64_t images, bool softmax, const Real* logits,
                        Real* result, const Host& host);

}  // namespace wsss::cpu
