// The ops pixel_cross_entropy and pixel_bce on the CPU.
#pragma once

#include <cstdint>

#include "../math/pixel_loss.h"
#include "host.h"

namespace wsss {

template <class Real>
struct PixelLossArrays {
  const Real* logits;  // [B, K, h, w]
  const void* labels;  // [B, H, W] uint8, or int64 if `wide_labels`
  bool wide_labels;
  const uint8_t* present;  // [B, K]: 0 for classes that do not count; or null
  Real* grad;              // [B, K, h, w], or null
};

namespace cpu {

// Returns the loss; `op` names the op in error messages.
template <class Real>
double pixel_loss(const char* op, PixelLossKind kind, const PixelLossShape& shape,
                  const PixelLossOptions& options, const PixelLossArrays<Real>& arrays,
                  const Host& host);

}  // namespace cpu
}  // namespace wsss
