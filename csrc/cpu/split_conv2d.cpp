#include "split_conv2d.h"

#include "../bind.h"

namespace {

using wsss::ConvArrays;
using wsss::ConvShape;
using wsss::Tensor;
using torch::headeronly::ScalarType;

constexpr const char* kOp = "split_conv2d";

const float* vector(const std::optional<Tensor>& given, const char* name, int64_t length) {
  if (!given) return nullptr;
  wsss::check(given->scalar_type() == ScalarType::Float && given->dim() == 1 && given->size(0) == length &&
                  given->is_contiguous(),
              std::string(kOp) + ": " + name + " is " + wsss::shape_text(*given) + "; must be contiguous float32 [" +
                  std::to_string(length) + "]");
  return given->const_data_ptr<float>();
}

template <int Parts>
void run(const ConvShape& shape, const ConvArrays& arrays, int64_t batch) {
  wsss::SplitConv<Parts> conv(shape);
  for (int64_t b = 0; b < batch; ++b) {
    ConvArrays a = arrays;
    const int64_t results = shape.out_height() * shape.out_width() * shape.filters;
    a.maps += b * shape.height * shape.width * shape.channels;
    a.out += b * results;
    if (a.residual) a.residual += b * results;
    torch::stable::parallel_for(0, shape.framed_height(), 1, [&](int64_t first, int64_t last) { conv.split(a, first, last); });
    torch::stable::parallel_for(0, conv.groups(), 1, [&](int64_t first, int64_t last) { conv.run_groups(a, first, last); });
  }
}

// maps [B, H, W, C], filters [K / 32, k * k, C / 32, parts, 2, 16, 16, 2] -> [B, H', W', K]
Tensor split_conv2d(const Tensor& maps_in, const Tensor& filters, const std::optional<Tensor>& scale,
                    const std::optional<Tensor>& shift, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& residual_in, int64_t stride, int64_t dilation, bool relu) {
  const Tensor maps = wsss::float_input(kOp, "maps", maps_in, 4);
  wsss::check(filters.scalar_type() == ScalarType::BFloat16 && filters.dim() == 8 && filters.is_contiguous() &&
                  filters.size(4) == 2 && filters.size(5) == 16 && filters.size(6) == 16 && filters.size(7) == 2,
              std::string(kOp) + ": filters is " + wsss::shape_text(filters) + "; must be what pack makes");
  const int64_t taps = filters.size(1), kernel = taps == 1 ? 1 : 3, parts = filters.size(3);
  const ConvShape shape{maps.size(1), maps.size(2), maps.size(3), filters.size(0) * 32, kernel, stride, dilation};
  wsss::check(taps == kernel * kernel && filters.size(2) * wsss::kTileDepth == shape.channels && (parts == 2 || parts == 3),
              std::string(kOp) + ": maps is " + wsss::shape_text(maps) + " but filters is " + wsss::shape_text(filters));
  wsss::check(stride >= 1 && dilation >= 1, std::string(kOp) + ": stride and dilation must be >= 1");
  wsss::check(scale.has_value() == shift.has_value(), std::string(kOp) + ": scale and shift come together");
  const int64_t sizes[] = {maps.size(0), shape.height ? shape.out_height() : 0, shape.width ? shape.out_width() : 0,
                           shape.filters};
  Tensor out = torch::stable::new_empty(maps, {sizes, 4});
  std::optional<Tensor> residual;
  if (residual_in) {
    residual = wsss::float_input(kOp, "residual", *residual_in, 4);
    for (int d = 0; d < 4; ++d) {
      wsss::check(residual->size(d) == sizes[d], std::string(kOp) + ": residual is " + wsss::shape_text(*residual) +
                                                     " but the result is " + wsss::shape_text(out));
    }
  }
  const ConvArrays arrays{maps.const_data_ptr<float>(), vector(scale, "scale", shape.channels),
                          vector(shift, "shift", shape.channels),
                          static_cast<const uint16_t*>(filters.const_data_ptr()), vector(bias, "bias", shape.filters),
                          residual ? residual->const_data_ptr<float>() : nullptr, relu, out.mutable_data_ptr<float>()};
  if (out.numel() == 0) return out;
  parts == 3 ? run<3>(shape, arrays, maps.size(0)) : run<2>(shape, arrays, maps.size(0));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) { WSSS_IMPL(m, "split_conv2d", "CPU", split_conv2d); }
