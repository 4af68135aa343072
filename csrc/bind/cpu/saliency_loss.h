#pragma once

#include "../../cpu/saliency_loss.h"

#include "../saliency_loss.h"
#include "backend.h"

namespace wsss {

// logits [B, K, h, w], saliency [B, H, W] or [B, 1, H, W], present [B, K - 1] uint8
// -> loss [], foreground, background and estimate [B, h, w] or [B, 1, h, w], d loss / d logits
inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> saliency_loss(
    const Tensor& logits_in, const Tensor& saliency_in, const Tensor& present_in, double tau,
    double lam, bool adaptive, const Sizes& always_background) {
  const char* op = "saliency_loss";
  const Tensor logits = real_input(op, "logits", logits_in);
  const Tensor saliency = real_input(op, "saliency", saliency_in, logits.scalar_type());
  const Tensor present = contiguous_input(present_in);
  const SaliencyShape shape = saliency_shape(logits, saliency, present, always_background);
  const auto sizes = saliency_map_sizes(shape, saliency);
  Tensor maps[3];
  for (Tensor& map : maps) map = allocate(logits, sizes);
  Tensor grad = allocate_like(logits), loss = allocate(logits, {});
  with_real(logits, [&]<class Real>(Real) {
    const SaliencyArrays<Real> arrays{
        logits.const_data_ptr<Real>(),     saliency.const_data_ptr<Real>(),
        present.const_data_ptr<uint8_t>(), maps[0].mutable_data_ptr<Real>(),
        maps[1].mutable_data_ptr<Real>(),  maps[2].mutable_data_ptr<Real>(),
        grad.mutable_data_ptr<Real>()};
    *loss.mutable_data_ptr<Real>() = static_cast<Real>(cpu::saliency_loss(
        shape, tau, lam, adaptive, always_background, arrays, TorchHost(logits)));
  });
  return {loss, maps[0], maps[1], maps[2], grad};
}
WSSS_IMPL(saliency_loss)

}  // namespace wsss
