// The op saliency_loss on the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "../math/saliency_loss.h"
#include "host.h"

namespace wsss {

template <class Real>
struct SaliencyArrays {
  const Real* logits;                        // [B, K, h, w]
  const Real* saliency;                      // [B, H, W]
  const uint8_t* present;                    // [B, K - 1]
  Real *foreground, *background, *estimate;  // [B, h, w]
  Real* grad;                                // [B, K, h, w]
};

namespace cpu {

// Returns the loss.
template <class Real>
double saliency_loss(const SaliencyShape& shape, double tau, double lam, bool adaptive,
                     const std::vector<int64_t>& always_background,
                     const SaliencyArrays<Real>& arrays, const Host& host);

}  // namespace cpu
}  // namespace wsss
