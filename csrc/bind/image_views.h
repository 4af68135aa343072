// Argument checks of image_views.
#pragma once

#include "../math/image_views.h"
#include "arguments.h"

namespace wsss {

// The same as in wsss_fast/ops/image_views.py.
constexpr int64_t kMaxViewSide = int64_t{1} << 20, kMaxViewValues = int64_t{1} << 33;

inline PassOrder pass_order(const char* op, int64_t order) {
  check(order >= 0 && order < kPassOrders,
        std::string(op) + ": order is " + std::to_string(order) + "; must be in 0.." +
            std::to_string(kPassOrders - 1));
  return static_cast<PassOrder>(order);
}

// images [B, H, W, 3] uint8, made contiguous
inline Tensor views_input(const Tensor& images, const std::vector<double>& mean,
                          const std::vector<double>& std, ScalarType dtype) {
  const std::string op = "image_views: ";
  check(images.dim() == 4 && images.size(3) == kChannels && images.size(1) > 0 &&
            images.size(2) > 0 && images.scalar_type() == ScalarType::Byte,
        op + "images is " + shape_text(images) + "; must be uint8 [B, H, W, 3], H and W >= 1");
  check(mean.size() == kChannels && std.size() == kChannels,
        op + "mean and std hold " + std::to_string(mean.size()) + " and " +
            std::to_string(std.size()) + " numbers; must hold 3");
  check(dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
        op + "dtype must be float32, bfloat16 or float16");
  return torch::stable::contiguous(images);
}

// The size (h, w) of the images at a scale.
inline std::pair<int64_t, int64_t> view_size(const Tensor& images, double scale, bool mirror) {
  const auto fail = [&] {
    check(false,
          "image_views: scales holds " + std::to_string(scale) + " but images is " +
              shape_text(images) + "; must be > 0, sides at most " + std::to_string(kMaxViewSide) +
              ", values at most " + std::to_string(kMaxViewValues));
  };
  if (!(scale > 0 && scale <= kMaxViewSide)) fail();
  const int64_t height = scaled_side(images.size(1), scale),
                width = scaled_side(images.size(2), scale);
  for (const int64_t side : {images.size(1), images.size(2), height, width}) {
    if (side > kMaxViewSide) fail();
  }
  const int64_t planes = images.size(0) * (mirror ? 2 : 1) * kChannels;
  if (planes > kMaxViewValues / (height * width)) fail();
  return {height, width};
}

// New memory for a view [M * B, h, w, 3].
inline Tensor allocate_view(const Tensor& images, std::pair<int64_t, int64_t> size, bool mirror,
                            ScalarType dtype) {
  return allocate(
      images, {images.size(0) * (mirror ? 2 : 1), size.first, size.second, kChannels}, dtype);
}

// [N, h, w, 3] -> [N, 3, h, w] in channels_last format.
inline Tensor channels_last(const Tensor& t) {
  return torch::stable::transpose(torch::stable::transpose(t, 2, 3), 1, 2);
}

}  // namespace wsss
