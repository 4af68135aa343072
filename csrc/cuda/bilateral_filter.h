// The ops bilateral_lattice and bilateral_filter on CUDA.
#pragma once

#include "pixel_grid.h"

namespace wsss::cuda {

// The size of the lattices of a batch in memory that outlives a call. Throws BeyondLimits.
int64_t bilateral_lattice_bytes(const PixelGrid& grid);
// Builds them; `lattice` is aligned to 256 bytes.
void bilateral_lattice(Context& context, const PixelGrid& grid, void* lattice);

struct BilateralFilterCall {
  PixelGrid grid;
  void* lattice;        // that bilateral_lattice built for this grid, or null
  int64_t channels;     // K
  const float* values;  // [B, K, H, W]
  float* out;           // [B, K, H, W]
  bool transpose;
};
// Throws BeyondLimits.
void bilateral_filter(Context& context, const BilateralFilterCall& call);

}  // namespace wsss::cuda
