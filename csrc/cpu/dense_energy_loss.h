// The op dense_energy_loss on the CPU.
#pragma once

#include <cstdint>

#include "bilateral_filter.h"

namespace wsss {

struct EnergyShape {
  int64_t images, classes;
  int64_t full_height, full_width;  // of probabilities and gradient
  int64_t height, width;            // of the loss
  int64_t pixels() const { return height * width; }
  int64_t full_pixels() const { return full_height * full_width; }
};

struct EnergyParameters {
  BilateralParameters bilateral;
  float row_step, column_step;  // full pixels between two of the loss
  double weight;
  bool exact;
};

struct EnergyArrays {
  const float* probabilities;  // [B, K, H, W]
  const float* image;          // [B, C, h, w]
  const float* roi;            // [B, h, w]
  const uint8_t* labels;       // [B, h, w] or null
  float* gradient;             // [B, K, H, W] or null
};

namespace cpu {

double dense_energy_loss(const EnergyShape& shape, const EnergyParameters& parameters,
                         const EnergyArrays& arrays, const LatticeArray& lattice, int threads);

}  // namespace cpu
}  // namespace wsss
