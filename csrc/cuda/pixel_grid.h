// The pixels of a batch of images as points of permutohedral lattices.
#pragma once

#include "context.h"

namespace wsss::cuda {

// The features of a pixel: its position / (sx, sy), then its levels / their deviations.
struct PixelGrid {
  int64_t batch, height, width;
  int channels;                   // of the image; 0: positions only
  const float* image;             // [B, C, H, W]
  double sx, sy;                  // standard deviations in pixels
  double levels[kMaxDimensions];  // and of each channel
  double lowest, highest;         // of the image's values; others are clamped

  int64_t pixels() const { return height * width; }
  int dimensions() const { return 2 + channels; }
};

}  // namespace wsss::cuda
