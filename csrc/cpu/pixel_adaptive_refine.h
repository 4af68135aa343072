// The op pixel_adaptive_refine and its gradient on the CPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../math/pixel_adaptive_refine.h"

namespace wsss {

// Of masks [images, masks, height, width] and an image [images, channels, height, width].
struct RefineShape {
  int64_t images, masks, channels, height, width;
  std::vector<int64_t> dilations;
  bool pamr;

  int64_t pixels() const { return height * width; }
  int64_t neighbours() const { return static_cast<int64_t>(dilations.size()) * kRing; }

  // Distance of the farthest neighbours in rows and columns, see offset().
  int64_t reach_y() const { return offset(largest(), height); }
  int64_t reach_x() const { return offset(largest(), width); }

  // The border is repeated, so a dilation across the whole image reaches no farther.
  static int64_t offset(int64_t dilation, int64_t size) { return std::min(dilation, size - 1); }

 private:
  int64_t largest() const { return *std::max_element(dilations.begin(), dilations.end()); }
};

namespace cpu {

// masks, image -> out, the shape of masks
void pixel_adaptive_refine(const float* masks, const float* image, const RefineShape& shape,
                           int64_t iterations, int threads, float* out);

// grad, the gradient of out, image -> out, the gradient of masks
void pixel_adaptive_refine_backward(const float* grad, const float* image, const RefineShape& shape,
                                    int64_t iterations, int threads, float* out);

}  // namespace cpu
}  // namespace wsss
