// The op resize_window, which the CPU alone has a kernel for.
#pragma once

#include <cstdint>

#include "../math/bicubic.h"

namespace wsss::cpu {

// image [H, W, channels], channels 1 or 3 -> result [bottom - top, right - left, channels], a
// window of the resized image. It does not depend on the number of threads.
void resize_window(const uint8_t* image, const ResizedImage& size, int64_t channels,
                   PassOrder order, const Window& window, int threads, uint8_t* result);

}  // namespace wsss::cpu
