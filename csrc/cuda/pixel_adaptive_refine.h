// The op pixel_adaptive_refine and its backward pass on CUDA.
#pragma once

#include <cstdint>
#include <vector>

#include "context.h"

namespace wsss::cuda {

struct RefineCall {
  int64_t batch, channels, masks, height, width;  // channels of the image
  std::vector<int64_t> dilations;
  int64_t iterations;  // at least one
  bool pamr;
  const float* image;   // [batch, channels, height, width]
  const float* values;  // [batch, masks, height, width]: the masks, or the gradient of the result
  float* out;           // like values
  // Images are processed in chunks whose weights need no more than this, which stays in the L2
  // cache, or one by one.
  int64_t chunk_bytes = int64_t{32} << 20;
};

void pixel_adaptive_refine(Context& context, const RefineCall& call);
// The gradient of the masks.
void pixel_adaptive_refine_backward(Context& context, const RefineCall& call);

}  // namespace wsss::cuda
