// Nearest-neighbour resizing as in PyTorch's mode "nearest".
#pragma once

#include <cstdint>

#include "scalar.h"

namespace wsss {

// The index of the source pixel of pixel `i`: rounded down, in float32 as in PyTorch.
WSSS_HD int64_t nearest_source(int64_t i, int64_t source_size, int64_t size) {
  const float scale = static_cast<float>(source_size) / static_cast<float>(size);
  // >= 0: truncation rounds down
  const int64_t at = static_cast<int64_t>(static_cast<float>(i) * scale);
  return at < source_size ? at : source_size - 1;
}

}  // namespace wsss
