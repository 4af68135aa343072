#pragma once

#include "../../cuda/resized_activation.h"

#include "../resized_activation.h"
#include "backend.h"

namespace wsss {

// logits [B, K, h, w] -> [B, K, H, W]
inline Tensor resized_activation(const Tensor& logits_in, const Sizes& size, bool softmax) {
  const char* op = "resized_activation";
  const ResizeShape shape = resize_shape(logits_in, size);
  const Tensor logits = torch::stable::contiguous(logits_in);
  const auto type = element_type(op, logits);
  const int64_t images = logits.size(0);
  Tensor result = allocate(logits, {images, shape.labels, size[0], size[1]});
  if (logits.numel() == 0 || result.numel() == 0) return result;
  TorchContext context(op, logits);
  cuda::resized_activation(
      context, type, shape, images, softmax, const_data(logits), mutable_data(result));
  return result;
}
WSSS_IMPL(resized_activation)

// grad and result [B, K, H, W], size [h, w] -> d loss / d logits [B, K, h, w]
inline Tensor resized_activation_backward(const Tensor& grad_in, const Tensor& result_in,
                                          const Sizes& size, bool softmax) {
  const char* op = "resized_activation_backward";
  check(result_in.dim() == 4 && size.size() == 2 && sizes_of(grad_in) == sizes_of(result_in) &&
            grad_in.scalar_type() == result_in.scalar_type(),
        std::string(op) + ": grad is " + shape_text(grad_in) + " but result is " +
            shape_text(result_in) + "; must be [B, K, H, W] of the same dtype, size two numbers");
  check_device(op, "result", result_in, grad_in);
  const Tensor grad = torch::stable::contiguous(grad_in);
  const Tensor result = torch::stable::contiguous(result_in);
  const auto type = element_type(op, result);
  const int64_t images = result.size(0);
  const ResizeShape shape{result.size(1), size[0], size[1], result.size(2), result.size(3)};
  const Sizes sizes{images, shape.labels, size[0], size[1]};
  if (result.numel() == 0) return allocate_zeros(result, sizes, result.scalar_type());
  Tensor grad_logits = allocate(result, sizes);
  if (grad_logits.numel() == 0) return grad_logits;
  TorchContext context(op, result);
  cuda::resized_activation_backward(context, type, shape, images, softmax, const_data(grad),
                                    const_data(result), mutable_data(grad_logits));
  return grad_logits;
}
WSSS_IMPL(resized_activation_backward)

}  // namespace wsss
