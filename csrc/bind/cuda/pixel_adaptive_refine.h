#pragma once

#include "../../cuda/pixel_adaptive_refine.h"

#include "../pixel_adaptive_refine.h"
#include "backend.h"

namespace wsss {

template <class Refine>
Tensor refined(const char* op, const char* name, const Tensor& values_in, const Tensor& image_in,
               const Sizes& dilations, int64_t iterations, bool pamr, const Refine& refine) {
  const Tensor values = float_input(op, name, values_in, 4);
  const Tensor image = float_input(op, "image", image_in, 4);
  check_device(op, "image", image, values);
  check_refine(op, values, image, dilations, iterations);
  if (iterations == 0) return torch::stable::clone(values);
  Tensor out = allocate_like(values);
  if (values.numel() == 0) return out;
  TorchContext context(op, values);
  refine(context, cuda::RefineCall{
                      values.size(0), image.size(1), values.size(1), values.size(2), values.size(3),
                      dilations, iterations, pamr, image.const_data_ptr<float>(),
                      values.const_data_ptr<float>(), out.mutable_data_ptr<float>()});
  return out;
}

// masks [B, K, H, W], image [B, C, H, W] -> [B, K, H, W]
inline Tensor pixel_adaptive_refine(const Tensor& masks, const Tensor& image,
                                    const Sizes& dilations, int64_t iterations, bool pamr) {
  return refined("pixel_adaptive_refine", "masks", masks, image, dilations, iterations, pamr,
                 cuda::pixel_adaptive_refine);
}
WSSS_IMPL(pixel_adaptive_refine)

// grad [B, K, H, W], image [B, C, H, W] -> [B, K, H, W]
inline Tensor pixel_adaptive_refine_backward(const Tensor& grad, const Tensor& image,
                                             const Sizes& dilations, int64_t iterations,
                                             bool pamr) {
  return refined("pixel_adaptive_refine_backward", "grad", grad, image, dilations, iterations, pamr,
                 cuda::pixel_adaptive_refine_backward);
}
WSSS_IMPL(pixel_adaptive_refine_backward)

}  // namespace wsss
