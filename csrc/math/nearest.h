// Nearest resizing as PyTorch's "nearest".
#pragma once

#include <cstdint>

#include "scalar.h"

namespace wsss {

// Index of the pixel that it takes: rounded down, in float32.
WSSS_HD int64_t nearest_below(int64_t i, int64_t source_size, int64_t size) {
  const float scale = static_cast<float>(source_size) / static_cast<float>(size);
  // >= 0: truncation rounds down
  const int64_t at = static_cast<int64_t>(static_cast<float>(i) * scale);
  return at < source_size ? at : source_size - 1;
}

}  // namespace wsss
