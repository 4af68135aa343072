#pragma once

#include "../../cpu/resized_activation.h"

#include "../resized_activation.h"
#include "backend.h"

namespace wsss {

// logits [B, K, h, w] -> [B, K, H, W]
inline Tensor resized_activation(const Tensor& logits_in, const Sizes& size, bool softmax) {
  const Tensor logits = real_input("resized_activation", "logits", logits_in);
  const ResizeShape shape = resize_shape(logits, size);
  const int64_t images = logits.size(0);
  Tensor result = allocate(logits, {images, shape.labels, shape.out_height, shape.out_width});
  if (logits.numel() > 0 && result.numel() > 0) {
    with_real(logits, [&]<class Real>(Real) {
      cpu::resized_activation(shape, images, softmax, logits.const_data_ptr<Real>(),
                              result.mutable_data_ptr<Real>(), TorchHost(logits));
    });
  }
  return torch::stable::to(result, logits_in.scalar_type());
}
WSSS_IMPL(resized_activation)

}  // namespace wsss
