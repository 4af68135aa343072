// The dense CRF op on CUDA.
#pragma once

#include <algorithm>
#include <cstdint>

#include "pixel_grid.h"

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
  void* lattice = nullptr;      // of the bilateral term (StoredLattices), or null: build it

  int64_t pixels() const { return height * width; }
  int carried() const { return labels - 1; }
  int padded() const { return carried() <= 2 ? carried() : (carried() + 3) / 4 * 4; }
  int row() const { return sets * padded(); }
  PixelGrid spatial_grid() const {
    return {batch, height, width, 0, nullptr, gaussian_sx, gaussian_sy, {}, 0, 0};
  }
  PixelGrid bilateral_grid() const {
    PixelGrid grid{batch,        height,       width, image_channels, image,
                   bilateral_sx, bilateral_sy, {},    lowest,         highest};
    std::copy_n(levels, std::min(image_channels, kMaxDimensions), grid.levels);
    return grid;
  }
};

// Throws BeyondLimits.
void dense_crf(Context& context, const CrfCall& call);

}  // namespace wsss::cuda
