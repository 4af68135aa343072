// The op image_views on CUDA. Nothing is read back or copied from the host, so that a call never
// waits and can be captured in a graph.
#pragma once

#include <cstdint>
#include <vector>

#include "../math/image_views.h"
#include "context.h"

namespace wsss::cuda {

// Images [count, height, width, 3] of one size, and what they become.
struct ViewsCall {
  const uint8_t* images;
  int64_t count, height, width;
  bool mirror;
  PassOrder order;
  ElementType type;  // float32 or a half precision
  double mean[kChannels], std[kChannels];
};

// A result [count or 2 * count, height, width, 3].
struct ViewArray {
  int64_t height, width;
  void* values;
};

void image_views(Context& context, const ViewsCall& call, const std::vector<ViewArray>& views);

}  // namespace wsss::cuda
