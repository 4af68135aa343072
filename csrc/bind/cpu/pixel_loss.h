#pragma once

#include "../../cpu/pixel_loss.h"

#include "../pixel_loss.h"
#include "backend.h"

namespace wsss {

inline std::tuple<Tensor, Tensor> pixel_loss(
    const char* op, PixelLossKind kind, const Tensor& logits_in, const Tensor& labels_in,
    const std::optional<Tensor>& present_in, double smoothing, int64_t balance,
    int64_t ignore_index, bool resize_logits, bool need_grad) {
  const Tensor logits = real_input(op, "logits", logits_in);
  const Tensor labels = contiguous_input(labels_in);
  const PixelLossShape shape = pixel_loss_shape(op, logits, labels, resize_logits);
  const auto present = presence(op, logits, present_in);
  Tensor grad = need_grad ? allocate_like(logits) : allocate(logits, {0}),
         loss = allocate(logits, {});
  with_real(logits, [&]<class Real>(Real) {
    const PixelLossArrays<Real> arrays{
        logits.const_data_ptr<Real>(), labels.const_data_ptr(),
        labels.scalar_type() == ScalarType::Long, static_cast<const uint8_t*>(const_data(present)),
        static_cast<Real*>(mutable_data(grad))};
    *loss.mutable_data_ptr<Real>() = static_cast<Real>(cpu::pixel_loss(
        op, kind, shape, pixel_loss_options(op, smoothing, balance, ignore_index), arrays,
        TorchHost(logits)));
  });
  return {loss, grad};
}

}  // namespace wsss
