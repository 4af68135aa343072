// The activation-aware mask refinement loss, as both backends compute it.
#pragma once

#include <cstdint>

#include "binary_term.h"
#include "scalar.h"

namespace wsss {

struct AamrShape {
  int64_t images, channels, height, width;  // of the logits; channel 0 is background
  int64_t saliency_height, saliency_width, response_height, response_width;

  WSSS_HD int64_t pixels() const { return height * width; }
};

// Whether enough of a salient region is active for it to count as a labelled object. Compares the
// quotient, not a product: a quotient of integers equals the threshold exactly where it should.
WSSS_HD bool is_labelled(int64_t area, int64_t active, double overlap) {
  return static_cast<double>(active) / static_cast<double>(area) >= overlap;
}

template <class V>
struct AamrTerm {
  V loss;   // binary cross-entropy between sigmoid(log_odds) and the saliency
  V slope;  // its derivative with respect to log_odds
};

// `log_odds`: log(foreground / background). The caller passes `small` = exp(-|log_odds|) and
// `log1p_small` = log(1 + small), which cannot overflow.
template <class V>
WSSS_HD AamrTerm<V> aamr_term(V log_odds, V saliency, V small, V log1p_small) {
  const V likely = 1 / (1 + small);
  const V foreground = log_odds >= V{} ? likely : small * likely;
  const V finite = (log_odds > V{} ? log_odds : V{}) - saliency * log_odds + log1p_small;
  return {log_odds - log_odds == V{} ? finite : binary_term_of_infinity(log_odds, saliency),
          foreground - saliency};
}

}  // namespace wsss
