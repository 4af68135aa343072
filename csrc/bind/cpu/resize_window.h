#pragma once

#include "../../cpu/resize_window.h"

#include "../image_views.h"
#include "backend.h"

namespace wsss {

// image [H, W, C] uint8, C 1 or 3 -> [rows, columns, C]
inline Tensor resize_window(const Tensor& image_in, int64_t height, int64_t width, int64_t top,
                            int64_t left, int64_t rows, int64_t columns, int64_t order) {
  const std::string op = "resize_window: ";
  check(image_in.dim() == 3 && (image_in.size(2) == 1 || image_in.size(2) == kChannels) &&
            image_in.scalar_type() == ScalarType::Byte && image_in.numel() > 0,
        op + "image is " + shape_text(image_in) + "; must be uint8 [H, W, 1 or 3], not empty");
  for (const int64_t side : {height, width, image_in.size(0), image_in.size(1)}) {
    check(side >= 1 && side <= kMaxViewSide, op + "a side is " + std::to_string(side) +
                                                 "; must be in 1.." + std::to_string(kMaxViewSide));
  }
  check(top >= 0 && left >= 0 && rows >= 1 && columns >= 1 && rows <= height - top &&
            columns <= width - left,
        op + "the window of " + std::to_string(rows) + " x " + std::to_string(columns) + " at (" +
            std::to_string(top) + ", " + std::to_string(left) + ") is not within " +
            std::to_string(height) + " x " + std::to_string(width));
  const Tensor image = torch::stable::contiguous(image_in);
  Tensor result = allocate(image, {rows, columns, image.size(2)});
  const ResizedImage size{{image.size(0), height}, {image.size(1), width}};
  cpu::resize_window(
      image.const_data_ptr<uint8_t>(), size, image.size(2), pass_order("resize_window", order),
      {top, top + rows, left, left + columns}, threads(), result.mutable_data_ptr<uint8_t>());
  return result;
}
WSSS_IMPL(resize_window)

}  // namespace wsss
