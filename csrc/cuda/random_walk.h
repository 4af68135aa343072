// The op random_walk on CUDA.
#pragma once

#include <cstdint>

#include "../math/random_walk.h"
#include "context.h"

namespace wsss::cuda {

// maps, out [batch, count, h, w], edge [batch, h, w]
void random_walk(Context& context, const WalkShape& shape, int64_t batch, int64_t count,
                 double beta, int64_t steps, const float* maps, const float* edge, float* out);

}  // namespace wsss::cuda
