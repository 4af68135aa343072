// The bilateral filter of maps on the CPU, and lattices that are stored for several calls.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace wsss {

struct BilateralParameters {
  float sx, sy;               // standard deviations in pixels
  std::vector<float> levels;  // standard deviation of each image channel
  double lowest, highest;     // bounds of the image's values

  int channels() const { return static_cast<int>(levels.size()); }
  int dimensions() const { return 2 + channels(); }
};

// The array that bilateral_lattice fills for a batch of images; size 0: none.
struct LatticeArray {
  const int32_t* data = nullptr;
  int64_t size = 0;
};

namespace cpu {

// image [B, C, H, W]. Stores the lattices of all images in an array that `allocate` makes for a
// number of integers.
void bilateral_lattice(const float* image, int64_t batch, int64_t height, int64_t width,
                       const BilateralParameters& parameters, int threads,
                       const std::function<int32_t*(int64_t)>& allocate);

struct FilterShape {
  int64_t batch, channels, height, width;
};

// values and out [B, K, H, W], image [B, C, H, W]; `transpose` applies the transposed filter.
void bilateral_filter(const float* values, const float* image, const LatticeArray& lattice,
                      float* out, const FilterShape& shape, const BilateralParameters& parameters,
                      bool transpose, int threads);

}  // namespace cpu
}  // namespace wsss
