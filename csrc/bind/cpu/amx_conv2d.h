#pragma once

#include "../../cpu/amx/amx_conv2d.h"

#include "backend.h"

namespace wsss {

inline void check_conv(bool good, const std::string& message) {
  check(good, "amx_conv2d: " + message);
}

inline const float* vector_of(const std::optional<Tensor>& given, const char* name,
                              int64_t length) {
  if (!given) return nullptr;
  check_conv(given->scalar_type() == ScalarType::Float && given->dim() == 1 &&
                 given->size(0) == length && given->is_contiguous(),
             std::string(name) + " is " + shape_text(*given) + "; must be contiguous float32 [" +
                 std::to_string(length) + "]");
  return given->const_data_ptr<float>();
}

inline const int64_t* extents_of(const std::optional<Tensor>& given, int64_t batch) {
  if (!given) return nullptr;
  check_conv(given->scalar_type() == ScalarType::Long && given->dim() == 2 &&
                 given->size(0) == batch && given->size(1) == 2 && given->is_contiguous(),
             "inside is " + shape_text(*given) + "; must be contiguous int64 [" +
                 std::to_string(batch) + ", 2]");
  return given->const_data_ptr<int64_t>();
}

inline ConvShape conv_shape(const Tensor& maps, const Tensor& filters, int64_t count,
                            int64_t stride, int64_t dilation) {
  check_conv(filters.scalar_type() == ScalarType::BFloat16 && filters.dim() == 8 &&
                 filters.is_contiguous() && filters.size(4) == 2 && filters.size(5) == 16 &&
                 filters.size(6) == 16 && filters.size(7) == 2,
             "filters is " + shape_text(filters) + "; must be the result of pack");
  const int64_t taps = filters.size(2), kernel = taps == 1 ? 1 : 3, parts = filters.size(3);
  const ConvShape shape{
      maps.size(0), maps.size(1), maps.size(2), maps.size(3), count, kernel, stride, dilation};
  check_conv(count >= 1 && taps == kernel * kernel && filters.size(0) == shape.blocks() &&
                 filters.size(1) == shape.planes() && (parts == 2 || parts == 3),
             "maps is " + shape_text(maps) + " and count " + std::to_string(count) +
                 " but filters is " + shape_text(filters));
  check_conv(stride >= 1 && dilation >= 1, "stride and dilation must be >= 1");
  return shape;
}

// maps [B, H, W, C], filters [ceil(K / 32), ceil(C / 32), k * k, parts, 2, 16, 16, 2]
// -> [B, H', W', K]
inline Tensor amx_conv2d(
    const Tensor& maps_in, const Tensor& filters, int64_t count, const std::optional<Tensor>& scale,
    const std::optional<Tensor>& shift, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& residual_in, const std::optional<Tensor>& inside, int64_t stride,
    int64_t dilation, bool relu) {
  const Tensor maps = float_input("amx_conv2d", "maps", maps_in, 4);
  const ConvShape shape = conv_shape(maps, filters, count, stride, dilation);
  check_conv(scale.has_value() == shift.has_value(), "scale and shift must be given together");
  const Sizes sizes{shape.batch, shape.height ? shape.out_height() : 0,
                    shape.width ? shape.out_width() : 0, shape.filters};
  Tensor out = allocate(maps, sizes);
  std::optional<Tensor> residual;
  if (residual_in) {
    residual = float_input("amx_conv2d", "residual", *residual_in, 4);
    check_conv(sizes_of(*residual) == sizes,
               "residual is " + shape_text(*residual) + " but the result is " + shape_text(out));
  }
  const MapArrays given{maps.const_data_ptr<float>(), vector_of(scale, "scale", shape.channels),
                        vector_of(shift, "shift", shape.channels), extents_of(inside, shape.batch)};
  const ConvArrays arrays{
      static_cast<const uint16_t*>(filters.const_data_ptr()),
      vector_of(bias, "bias", shape.filters),
      residual ? residual->const_data_ptr<float>() : nullptr, relu, out.mutable_data_ptr<float>()};
  if (out.numel() > 0) {
    cpu::amx_conv2d(shape, filters.size(3), given, arrays, TorchHost(maps));
  }
  return out;
}
WSSS_IMPL(amx_conv2d)

}  // namespace wsss
