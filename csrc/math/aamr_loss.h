// What both backends of the activation-aware mask refinement loss agree on.
#pragma once

#include <cstdint>

#include "scalar.h"

namespace wsss {

struct AamrShape {
  int64_t images, channels, height, width;  // of the logits; channel 0 is background
  int64_t saliency_height, saliency_width, response_height, response_width;

  WSSS_HD int64_t pixels() const { return height * width; }
};

// Whether enough of a salient region is active for it to be one of the labelled objects. The
// quotient, not a product: of whole numbers it is exactly the threshold where it should be.
WSSS_HD bool is_labelled(int64_t area, int64_t active, double overlap) {
  return static_cast<double>(active) / static_cast<double>(area) >= overlap;
}

template <class V>
struct AamrTerm {
  V loss;  // binary cross-entropy of sigmoid(odds) against the saliency
  V pull;  // its derivative by odds
};

// `odds`: log of foreground over background. `small` = exp(-|odds|) and `rest` = log(1 + small), so
// that nothing overflows.
template <class V>
WSSS_HD AamrTerm<V> aamr_term(V odds, V saliency, V small, V rest) {
  const V likely = 1 / (1 + small);
  const V foreground = odds >= V{} ? likely : small * likely;
  return {(odds > V{} ? odds : V{}) - saliency * odds + rest, foreground - saliency};
}

}  // namespace wsss
