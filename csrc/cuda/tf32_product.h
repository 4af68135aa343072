// Batched float32 matrix products whose factors are rounded to TF32 (10 bits after the point) and
// whose sums are float32, as torch's convolutions compute them by default. torch's own products,
// which cannot be asked for it call by call, do so only under another setting.
#pragma once

#include "context.h"

namespace wsss::cuda {

// Whether the kernel pays: it needs tensor cores, and computes tiles of 128 x 128.
bool prefers_tf32(const Context& context, const Matrices& a, const Matrices& b,
                  const Matrices& out);

// out = a b for each float32 matrix of the batch of `out`.
void multiply_tf32(const Context& context, const Matrices& a, const Matrices& b,
                   const Matrices& out);

}  // namespace wsss::cuda
