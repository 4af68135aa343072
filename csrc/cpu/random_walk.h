// The op random_walk on the CPU.
#pragma once

#include <cstdint>

#include "../math/random_walk.h"

namespace wsss::cpu {

// maps [B, K, h, w], edge [B, h, w] -> out [B, K, h, w]; K is `count`
void random_walk(const float* maps, const float* edge, int64_t batch, int64_t count,
                 const WalkShape& shape, double beta, int64_t steps, int threads, float* out);

}  // namespace wsss::cpu
