// The dense CRF op on CUDA.
#pragma once

#include <cstdint>

#include "context.h"

namespace wsss::cuda {

struct CrfCall {
  int64_t batch, height, width;
  int image_channels;                                   // C
  int sets, labels;                                     // S, L
  const float* image;                                   // [B, C, H, W]
  const float* unary;                                   // [B, S, L, H, W]
  float* q;                                             // [B, S, L, H, W]
  double gaussian_sx, gaussian_sy, gaussian_weight;     // weight 0: off
  double bilateral_sx, bilateral_sy, bilateral_weight;  // weight 0: off
  double levels[kMaxDimensions];                        // standard deviation of each image channel
  double lowest, highest;                               // of the image's values; others are clamped
  int64_t iterations;
  bool half_precision = false;  // of the values on the lattices

  int64_t pixels() const { return height * width; }
  int carried() const { return labels - 1; }
  int padded() const { return carried() <= 2 ? carried() : (carried() + 3) / 4 * 4; }
  int row() const { return sets * padded(); }
};

// Throws BeyondLimits.
void dense_crf(Context& context, const CrfCall& call);

}  // namespace wsss::cuda
