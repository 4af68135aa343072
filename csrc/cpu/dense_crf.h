// The dense CRF op on the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "bilateral_filter.h"

namespace wsss {

struct CrfShape {
  int64_t height, width;
  int image_channels;
  int sets, labels;  // S, L
  int64_t pixels() const { return height * width; }
};

// A term of weight 0 is off.
struct CrfParameters {
  float gaussian_weight, gaussian_sx, gaussian_sy;
  float bilateral_weight, bilateral_sx, bilateral_sy;
  std::vector<float> bilateral_levels;  // standard deviation of each image channel
  double lowest, highest;               // bounds of the image's values
  int64_t iterations;

  BilateralParameters bilateral() const {
    return {bilateral_sx, bilateral_sy, bilateral_levels, lowest, highest};
  }
};

namespace cpu {

// image [B, C, H, W], unary and q [B, S, L, H, W]; lattice: of the image
void dense_crf(const float* image, const float* unary, float* q, int64_t batch,
               const CrfShape& shape, const CrfParameters& parameters, int threads,
               const LatticeArray& lattice = {});

}  // namespace cpu
}  // namespace wsss
