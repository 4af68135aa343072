// The saliency loss, as both backends compute it.
#pragma once

#include <cstdint>

#include "nearest.h"
#include "scalar.h"

namespace wsss {

struct SaliencyShape {
  int64_t images, channels, height, width;  // of the logits; channel 0 is background
  int64_t saliency_height, saliency_width;

  WSSS_HD int64_t pixels() const { return height * width; }
};

// The map that a channel's probability is added to.
enum class Role : unsigned char { kNeither, kForeground, kBackground };

// Whether enough of a class' area is salient. `area`: number of pixels where its probability
// exceeds 1/2; `both`: number of those pixels that are salient.
WSSS_HD bool is_salient(int64_t area, int64_t both, int64_t pixels, double tau) {
  return static_cast<double>(both) /
             (static_cast<double>(area) + 1e-4 * static_cast<double>(pixels)) >
         tau;
}

}  // namespace wsss
