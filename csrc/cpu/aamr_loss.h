// The op aamr_loss on the CPU.
#pragma once

#include <cstdint>

#include "../math/aamr_loss.h"
#include "host.h"

namespace wsss {

template <class Real>
struct AamrArrays {
  const Real *logits, *saliency, *response;  // [B, K, h, w], [B, H, W], [B, H', W']
  uint8_t* region;                           // [B, h, w]: 1 where the loss is taken
  Real* grad;                                // [B, K, h, w]
};

namespace cpu {

// Returns the loss.
template <class Real>
double aamr_loss(const AamrShape& shape, double salient, double active, double overlap,
                 const AamrArrays<Real>& arrays, const Host& host);

}  // namespace cpu
}  // namespace wsss
