#pragma once

#include "../../cuda/aamr_loss.h"

#include "../aamr_loss.h"
#include "backend.h"

namespace wsss {

// logits [B, K, h, w], saliency [B, H, W], response [B, H', W']
// -> loss [], region [B, h, w] uint8, d loss / d logits; loss and gradient of the saliency's dtype
inline std::tuple<Tensor, Tensor, Tensor> aamr_loss(
    const Tensor& logits_in, const Tensor& saliency_in, const Tensor& response_in, double salient,
    double active, double overlap) {
  const char* op = "aamr_loss";
  const Tensor logits = torch::stable::contiguous(logits_in);
  const Tensor saliency = torch::stable::contiguous(saliency_in);
  const Tensor response = torch::stable::contiguous(response_in);
  const auto type = element_type(op, logits);
  const auto wide = wide_type(logits);
  const AamrShape shape = aamr_shape(logits, saliency, response);
  for (const Tensor* map : {&saliency, &response}) {
    check(map->scalar_type() == wide,
          "aamr_loss: saliency and response must be float32, or float64 for float64 logits");
    check_device(op, "a map", *map, logits);
  }
  check(shape.pixels() <= INT32_MAX, "aamr_loss: logits is " + shape_text(logits) +
                                         "; must have fewer than 2^31 pixels per image");
  Tensor region = allocate(saliency, {shape.images, shape.height, shape.width}, ScalarType::Byte);
  Tensor grad = allocate(saliency, sizes_of(logits));
  if (logits.numel() == 0) return {allocate_zeros(saliency, {}, wide), region, grad};
  Tensor loss = allocate(saliency, {});
  TorchContext context(op, logits);
  cuda::aamr_loss(
      context, {type, shape, salient, active, overlap, const_data(logits), const_data(saliency),
                const_data(response), static_cast<uint8_t*>(mutable_data(region)),
                mutable_data(grad), mutable_data(loss)});
  return {loss, region, grad};
}
WSSS_IMPL(aamr_loss)

}  // namespace wsss
