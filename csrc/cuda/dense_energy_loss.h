// The op dense_energy_loss on CUDA.
#pragma once

#include "pixel_grid.h"

namespace wsss::cuda {

struct DenseEnergyCall {
  PixelGrid grid;                   // of the reduced image [B, C, h, w]
  void* lattice;                    // that bilateral_lattice built for this grid, or null
  int64_t channels, height, width;  // K, H, W
  double step_y, step_x;            // pixels of the probabilities between two reduced pixels
  const float* probabilities;       // [B, K, H, W]
  const float* roi;                 // [B, h, w]
  const uint8_t* labels;            // [B, h, w], or null: the gate is 1
  double weight;
  bool exact;       // the derivative with the transposed filter
  float* loss;      // []
  float* gradient;  // [B, K, H, W], or null
};
// Throws BeyondLimits.
void dense_energy_loss(Context& context, const DenseEnergyCall& call);

}  // namespace wsss::cuda
