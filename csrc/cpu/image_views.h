// The op image_views on the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "../math/image_views.h"

namespace wsss::cpu {

// Images [count, height, width, 3] of one size, and what they become.
struct ViewsCall {
  const uint8_t* images;
  int64_t count, height, width;
  bool mirror;
  PassOrder order;
  const void* levels;  // [3, 256]: the value of each level of a channel
  int value_bytes;     // 4, or 2 for half precisions
};

// A result [count or 2 * count, height, width, 3].
struct ViewArray {
  int64_t height, width;
  void* values;
};

// The result does not depend on the number of threads.
void image_views(const ViewsCall& call, const std::vector<ViewArray>& views, int threads);

}  // namespace wsss::cpu
