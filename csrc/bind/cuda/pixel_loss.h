#pragma once

#include "../../cuda/pixel_loss.h"

#include "../pixel_loss.h"
#include "backend.h"

namespace wsss {

inline std::tuple<Tensor, Tensor> pixel_loss(
    const char* op, PixelLossKind kind, const Tensor& logits_in, const Tensor& labels_in,
    const std::optional<Tensor>& present_in, double smoothing, int64_t balance,
    int64_t ignore_index, bool resize_logits, bool need_grad) {
  const Tensor logits = torch::stable::contiguous(logits_in);
  const Tensor labels = torch::stable::contiguous(labels_in);
  const PixelLossShape shape = pixel_loss_shape(op, logits, labels, resize_logits);
  check_device(op, "labels", labels, logits);
  const auto present = presence(op, logits, present_in);
  if (present) check_device(op, "present", *present, logits);
  const auto type = element_type(op, logits);
  const auto wide = wide_type(logits);
  Tensor grad = allocate(logits, need_grad ? sizes_of(logits) : Sizes{0}, wide);
  if (logits.numel() == 0) return {allocate_zeros(logits, {}, wide), grad};
  Tensor loss = allocate(logits, {}, wide);
  TorchContext context(op, logits);
  cuda::pixel_loss(
      context, {kind, type, labels.scalar_type() == ScalarType::Byte, shape,
                pixel_loss_options(op, smoothing, balance, ignore_index), const_data(logits),
                const_data(labels), static_cast<const uint8_t*>(const_data(present)),
                mutable_data(grad), mutable_data(loss)});
  return {loss, grad};
}

}  // namespace wsss
