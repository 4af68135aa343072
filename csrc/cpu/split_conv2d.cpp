#include "split_conv2d.h"

#include "../bind/stable_abi.h"

namespace {

using wsss::ConvArrays;
using wsss::ConvShape;
using wsss::MapArrays;
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

// A pass over some of the images: as many as keep the split map in the second cache, but at least the pixels of a piece,
// which share what is read of the filters.
constexpr int64_t kPassBytes = int64_t{1} << 20, kPassPixels = 1024;

int64_t passes_of(const ConvShape& s, int64_t threads) {
  const int64_t pixels = s.out_height() * s.out_width(), bytes = s.height * s.width * s.planes() * wsss::kMapPixel * 2;
  const int64_t most = std::max({kPassBytes / bytes, (kPassPixels + pixels - 1) / pixels, int64_t{1}});
  const int64_t rounds = ((s.batch + most - 1) / most + threads - 1) / threads;
  return std::min(rounds * threads, s.batch);
}

// Parallel over passes where there is one for each thread, else inside of them.
template <int Parts>
void run(const ConvShape& all, const MapArrays& maps, const ConvArrays& arrays) {
  const int64_t threads = std::max<int64_t>(torch::stable::get_num_threads(), 1), passes = passes_of(all, threads);
  const auto pass = [&](int64_t i, auto share) {
    const int64_t first_image = all.batch * i / passes;
    ConvShape shape = all;
    shape.batch = all.batch * (i + 1) / passes - first_image;
    MapArrays m = maps;
    m.maps += first_image * all.height * all.width * all.channels;
    if (m.inside) m.inside += 2 * first_image;
    ConvArrays a = arrays;
    const int64_t results = first_image * all.out_height() * all.out_width() * all.filters;
    a.out += results;
    if (a.residual) a.residual += results;
    wsss::SplitConv<Parts> conv(shape);
    share(conv.map().lines(), [&](int64_t first, int64_t last) { conv.map().split(m, first, last); });
    share(conv.pieces(), [&](int64_t first, int64_t last) { conv.run(a, first, last); });
  };
  if (passes >= threads) {
    torch::stable::parallel_for(0, passes, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) pass(i, [](int64_t count, auto work) { work(0, count); });
    });
    return;
  }
  for (int64_t i = 0; i < passes; ++i) {
    pass(i, [](int64_t count, auto work) { torch::stable::parallel_for(0, count, 1, work); });
  }
}

const int64_t* extents(const std::optional<Tensor>& given, int64_t batch) {
  if (!given) return nullptr;
  wsss::check(given->scalar_type() == ScalarType::Long && given->dim() == 2 && given->size(0) == batch &&
                  given->size(1) == 2 && given->is_contiguous(),
              std::string(kOp) + ": inside is " + wsss::shape_text(*given) + "; must be contiguous int64 [" +
                  std::to_string(batch) + ", 2]");
  return given->const_data_ptr<int64_t>();
}

// maps [B, H, W, C], filters [ceil(K / 32), ceil(C / 32), k * k, parts, 2, 16, 16, 2] -> [B, H', W', K]
Tensor split_conv2d(const Tensor& maps_in, const Tensor& filters, int64_t count, const std::optional<Tensor>& scale,
                    const std::optional<Tensor>& shift, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& residual_in, const std::optional<Tensor>& inside, int64_t stride,
                    int64_t dilation, bool relu) {
  const Tensor maps = wsss::float_input(kOp, "maps", maps_in, 4);
  wsss::check(filters.scalar_type() == ScalarType::BFloat16 && filters.dim() == 8 && filters.is_contiguous() &&
                  filters.size(4) == 2 && filters.size(5) == 16 && filters.size(6) == 16 && filters.size(7) == 2,
              std::string(kOp) + ": filters is " + wsss::shape_text(filters) + "; must be what pack makes");
  const int64_t taps = filters.size(2), kernel = taps == 1 ? 1 : 3, parts = filters.size(3);
  const ConvShape shape{maps.size(0), maps.size(1), maps.size(2), maps.size(3), count, kernel, stride, dilation};
  wsss::check(count >= 1 && taps == kernel * kernel && filters.size(0) == shape.blocks() &&
                  filters.size(1) == shape.planes() && (parts == 2 || parts == 3),
              std::string(kOp) + ": maps is " + wsss::shape_text(maps) + " and count " + std::to_string(count) +
                  " but filters is " + wsss::shape_text(filters));
  wsss::check(stride >= 1 && dilation >= 1, std::string(kOp) + ": stride and dilation must be >= 1");
  wsss::check(scale.has_value() == shift.has_value(), std::string(kOp) + ": scale and shift come together");
  const int64_t sizes[] = {shape.batch, shape.height ? shape.out_height() : 0, shape.width ? shape.out_width() : 0,
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
  const MapArrays given{maps.const_data_ptr<float>(), vector(scale, "scale", shape.channels),
                        vector(shift, "shift", shape.channels), extents(inside, shape.batch)};
  const ConvArrays arrays{static_cast<const uint16_t*>(filters.const_data_ptr()), vector(bias, "bias", shape.filters),
                          residual ? residual->const_data_ptr<float>() : nullptr, relu, out.mutable_data_ptr<float>()};
  if (out.numel() == 0) return out;
  parts == 3 ? run<3>(shape, given, arrays) : run<2>(shape, given, arrays);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) { WSSS_IMPL(m, "split_conv2d", "CPU", split_conv2d); }
