#pragma once

#include "../../cpu/aamr_loss.h"

#include "../aamr_loss.h"
#include "backend.h"

namespace wsss {

// logits [B, K, h, w], saliency [B, H, W], response [B, H', W']
// -> loss [], region [B, h, w] uint8, d loss / d logits
inline std::tuple<Tensor, Tensor, Tensor> aamr_loss(
    const Tensor& logits_in, const Tensor& saliency_in, const Tensor& response_in, double salient,
    double active, double overlap) {
  const char* op = "aamr_loss";
  const Tensor logits = real_input(op, "logits", logits_in);
  const Tensor saliency = real_input(op, "saliency", saliency_in, logits.scalar_type());
  const Tensor response = real_input(op, "response", response_in, logits.scalar_type());
  const AamrShape shape = aamr_shape(logits, saliency, response);
  Tensor region = allocate(logits, {shape.images, shape.height, shape.width}, ScalarType::Byte);
  Tensor grad = allocate_like(logits), loss = allocate(logits, {});
  with_real(logits, [&]<class Real>(Real) {
    const AamrArrays<Real> arrays{
        logits.const_data_ptr<Real>(), saliency.const_data_ptr<Real>(),
        response.const_data_ptr<Real>(), region.mutable_data_ptr<uint8_t>(),
        grad.mutable_data_ptr<Real>()};
    *loss.mutable_data_ptr<Real>() = static_cast<Real>(
        cpu::aamr_loss(shape, salient, active, overlap, arrays, TorchHost(logits)));
  });
  return {loss, region, grad};
}
WSSS_IMPL(aamr_loss)

}  // namespace wsss
