// What the kernels of merge_maps on all devices share.
#pragma once

#include <cstdint>

namespace wsss {

constexpr int kMostViews = 32;  // the same as in wsss_fast/ops/merge_maps.py

// A network's outputs [2 images, channels, height, width]: the images', then the mirror images'.
// Strides in elements.
struct OutputView {
  const void* data;
  int64_t height, width;
  int64_t image_stride, channel_stride, row_stride, column_stride;
};

}  // namespace wsss
