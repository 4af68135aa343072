#include "resized_activation.cuh"

#include "device.h"
#include "element_type.h"

namespace wsss {
namespace {

// logits [B, K, h, w] -> [B, K, H, W]
Tensor resized_activation(const Tensor& logits_in, const std::vector<int64_t>& size, bool softmax) {
  check(logits_in.dim() == 4 && size.size() == 2,
        "resized_activation: logits is " + shape_text(logits_in) + "; must be [B, K, h, w], size two numbers");
  const Tensor logits = torch::stable::contiguous(logits_in);
  const ResizeShape shape{logits.size(1), logits.size(2), logits.size(3), size[0], size[1]};
  const int64_t images = logits.size(0), sizes[] = {images, shape.labels, size[0], size[1]};
  Tensor result = torch::stable::new_empty(logits, {sizes, 4});
  if (logits.numel() == 0 || result.numel() == 0) return result;
  DeviceCall call(logits);
  with_element_type("resized_activation", logits.scalar_type(), [&]<class T>(T) {
    resize_and_activate<T><<<blocks_for(images * size[0] * size[1]), kBlock, 0, call.stream()>>>(
        shape, images, softmax, read<T>(logits), write<T>(result));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return result;
}

}  // namespace
}  // namespace wsss

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CUDA, m) { WSSS_IMPL(m, "resized_activation", "CUDA", wsss::resized_activation); }
