// The op label_conditioned_logits and its gradient on the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "../math/taps.h"
#include "host.h"

namespace wsss {

// features [images, C, h, w], scale [images, C] or null, weight [R, K, C, k, k], bias [R, K];
// kernel = k
template <class Real>
struct HeadArrays {
  int64_t images, kernel;
  HeadShape shape;
  const Real *features, *scale, *weight, *bias;
};

namespace cpu {

// logits [images, K, h, w]
template <class Real>
void label_conditioned_logits(const HeadArrays<Real>& head, const std::vector<int64_t>& dilations,
                              Real* logits, const Host& host);

// `grad` has the shape of the logits. Gradients that are null are not computed (grad_scale and
// grad_weight go together and must start at zero).
template <class Real>
void label_conditioned_logits_backward(
    const HeadArrays<Real>& head, const std::vector<int64_t>& dilations, const Real* grad,
    Real* grad_features, Real* grad_scale, Real* grad_weight, Real* grad_bias, const Host& host);

}  // namespace cpu
}  // namespace wsss
