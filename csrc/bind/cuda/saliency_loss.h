#pragma once

#include "../../cuda/saliency_loss.h"

#include "../saliency_loss.h"
#include "backend.h"

namespace wsss {

// logits [B, K, h, w], saliency [B, H, W] or [B, 1, H, W], present [B, K - 1] uint8
// -> loss [], foreground, background and estimate [B, h, w] or [B, 1, h, w], d loss / d logits, all
// of the saliency's dtype
inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> saliency_loss(
    const Tensor& logits_in, const Tensor& saliency_in, const Tensor& present_in, double tau,
    double lam, bool adaptive, const Sizes& always_background) {
  const char* op = "saliency_loss";
  const Tensor logits = torch::stable::contiguous(logits_in);
  const Tensor saliency = torch::stable::contiguous(saliency_in);
  const Tensor present = torch::stable::contiguous(present_in);
  const auto type = element_type(op, logits);
  const auto wide = wide_type(logits);
  check(saliency.scalar_type() == wide,
        "saliency_loss: saliency must be float32, or float64 for float64 logits");
  check_device(op, "saliency", saliency, logits);
  check_device(op, "labels", present, logits);
  const SaliencyShape shape = saliency_shape(logits, saliency, present, always_background);
  const auto sizes = saliency_map_sizes(shape, saliency);
  Tensor maps[3];
  for (Tensor& map : maps) map = allocate(saliency, sizes);
  Tensor grad = allocate(saliency, sizes_of(logits));
  if (logits.numel() == 0) {
    return {allocate_zeros(saliency, {}, wide), maps[0], maps[1], maps[2], grad};
  }
  Tensor loss = allocate(saliency, {});
  TorchContext context(op, logits);
  cuda::saliency_loss(
      context,
      {type, shape, tau, lam, adaptive, always_background, const_data(logits), const_data(saliency),
       static_cast<const uint8_t*>(const_data(present)), mutable_data(maps[0]),
       mutable_data(maps[1]), mutable_data(maps[2]), mutable_data(grad), mutable_data(loss)});
  return {loss, maps[0], maps[1], maps[2], grad};
}
WSSS_IMPL(saliency_loss)

}  // namespace wsss
