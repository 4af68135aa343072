// Binary cross-entropy of infinite logits.
#pragma once

#include "scalar.h"

namespace wsss {

// The binary cross-entropy of a logit that is not finite, as in PyTorch:
// (1 - target) logit - log sigmoid(logit). For floats and vectors of floats.
template <class V>
WSSS_HD V binary_term_of_infinity(V logit, V target) {
  return (1 - target) * logit - (logit < V{} ? logit : V{});
}

}  // namespace wsss
