#pragma once

#include "../../cpu/pixel_adaptive_refine.h"

#include "../pixel_adaptive_refine.h"
#include "backend.h"

namespace wsss {

// Calls refine(masks, image, shape, iterations, threads, out) for a result of the masks' shape.
template <class Refine>
Tensor with_refine_arrays(const char* op, const Tensor& masks_in, const Tensor& image_in,
                          const Sizes& dilations, int64_t iterations, bool pamr,
                          const Refine& refine) {
  const Tensor masks = float_input(op, "masks", masks_in, 4);
  const Tensor image = float_input(op, "image", image_in, 4);
  check_refine(op, masks, image, dilations, iterations);
  Tensor out = allocate_like(masks);
  if (masks.numel() == 0) return out;
  const RefineShape shape{
      masks.size(0), masks.size(1), image.size(1), masks.size(2), masks.size(3), dilations, pamr};
  refine(masks.const_data_ptr<float>(), image.const_data_ptr<float>(), shape, iterations, threads(),
         out.mutable_data_ptr<float>());
  return out;
}

// masks [B, K, H, W], image [B, C, H, W] -> [B, K, H, W]
inline Tensor pixel_adaptive_refine(const Tensor& masks, const Tensor& image,
                                    const Sizes& dilations, int64_t iterations, bool pamr) {
  return with_refine_arrays("pixel_adaptive_refine", masks, image, dilations, iterations, pamr,
                            cpu::pixel_adaptive_refine);
}
WSSS_IMPL(pixel_adaptive_refine)

// grad [B, K, H, W], image [B, C, H, W] -> [B, K, H, W]
inline Tensor pixel_adaptive_refine_backward(const Tensor& grad, const Tensor& image,
                                             const Sizes& dilations, int64_t iterations,
                                             bool pamr) {
  return with_refine_arrays("pixel_adaptive_refine_backward", grad, image, dilations, iterations,
                            pamr, cpu::pixel_adaptive_refine_backward);
}
WSSS_IMPL(pixel_adaptive_refine_backward)

}  // namespace wsss
