// The CPU kernels as torch ops: arguments are checked, results allocated, half precisions widened
// (they save no time on a CPU). The schemas are in wsss_fast/ops.
#include "../cpu/kernels.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "arguments.h"
#include "library_info.h"

namespace wsss {
namespace {

using torch::headeronly::ScalarType;

class TorchHost : public Host {
 public:
  explicit TorchHost(const Tensor& like) : like_(like) {}

  int threads() const override { return static_cast<int>(torch::stable::get_num_threads()); }

  void run(int64_t count, int64_t grain, void (*work)(int64_t, int64_t, void*),
           void* context) const override {
    torch::stable::parallel_for(
        0, count, grain, [=](int64_t first, int64_t last) { work(first, last, context); });
  }

  void multiply(const Matrix<float>& a, const Matrix<float>& b, const Matrix<float>& out,
                bool accumulate) const override {
    product(view(a), view(b), view(out), accumulate);
  }
  void multiply(const Matrix<double>& a, const Matrix<double>& b, const Matrix<double>& out,
                bool accumulate) const override {
    product(view(a), view(b), view(out), accumulate);
  }

 private:
  template <class Real>
  Tensor view(const Matrix<Real>& m) const {
    const int64_t sizes[] = {m.rows, m.columns}, strides[] = {m.row_stride, m.column_stride};
    constexpr auto dtype = std::is_same_v<Real, double> ? ScalarType::Double : ScalarType::Float;
    // The shim takes no const; operands are only read.
    return torch::stable::from_blob(
        const_cast<Real*>(m.data), {sizes, 2}, {strides, 2}, like_.device(), dtype);
  }

  static void product(const Tensor& a, const Tensor& b, const Tensor& out, bool accumulate) {
    TORCH_ERROR_CODE_CHECK(
        accumulate ? aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1.0, 1.0)
                   : aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
  }

  const Tensor like_;
};

int threads() { return static_cast<int>(torch::stable::get_num_threads()); }

Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype) {
  return torch::stable::new_empty(like, shape, dtype);
}
Tensor empty(const Tensor& like, const std::vector<int64_t>& shape) {
  return torch::stable::new_empty(like, shape);
}
Tensor same_shape(const Tensor& like) { return torch::stable::new_empty(like, like.sizes()); }

// Calls run(Real{}) for the dtype that real_input made of a tensor.
template <class Run>
void with_real(const Tensor& t, const Run& run) {
  t.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

// ---- dense CRF

// image [B, C, H, W], unary [B, S, L, H, W] -> Q, as unary
Tensor dense_crf(const Tensor& image_in, const Tensor& unary_in, std::vector<double> gaussian,
                 std::vector<double> bilateral, std::vector<double> levels, int64_t iterations) {
  const Tensor image = float_input("dense_crf", "image", image_in, 4);
  const Tensor unary = float_input("dense_crf", "unary", unary_in, 5);
  const CrfShape shape{unary.size(3), unary.size(4), static_cast<int>(image.size(1)),
                       static_cast<int>(unary.size(1)), static_cast<int>(unary.size(2))};
  check_crf_arguments(image, unary, gaussian, bilateral, levels);
  check(image.size(1) + 2 <= kMaxDimensions, "dense_crf: image has too many channels");
  Tensor q = same_shape(unary);
  CrfParameters parameters{};
  parameters.iterations = iterations;
  parameters.lowest = levels[0];
  parameters.highest = levels[1];
  if (!gaussian.empty()) {
    parameters.gaussian_sx = static_cast<float>(gaussian[0]);
    parameters.gaussian_sy = static_cast<float>(gaussian[1]);
    parameters.gaussian_weight = static_cast<float>(gaussian[2]);
  }
  if (!bilateral.empty()) {
    parameters.bilateral_sx = static_cast<float>(bilateral[0]);
    parameters.bilateral_sy = static_cast<float>(bilateral[1]);
    parameters.bilateral_levels.assign(bilateral.begin() + 2, bilateral.end() - 1);
    parameters.bilateral_weight = static_cast<float>(bilateral.back());
  }
  cpu::dense_crf(image.const_data_ptr<float>(), unary.const_data_ptr<float>(),
                 q.mutable_data_ptr<float>(), unary.size(0), shape, parameters, threads());
  return q;
}

// ---- lattices of points

// features [N, d] -> row, weight, entry, first, next, previous (see PointLattice)
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> permutohedral_lattice(
    const Tensor& features_in) {
  const Tensor features = float_input("permutohedral_lattice", "features", features_in, 2);
  const int64_t points = features.size(0), d = features.size(1), corners = d + 1;
  check(d >= 1 && d <= kMaxDimensions, "permutohedral_lattice: features must have 1.." +
                                           std::to_string(kMaxDimensions) + " dimensions");
  check(points * corners <= INT32_MAX, "permutohedral_lattice: more than 2^31 corners");
  Tensor row = empty(features, {points, corners}, ScalarType::Int);
  Tensor weight = empty(features, {points, corners}, ScalarType::Float);
  Tensor entry = empty(features, {points * corners}, ScalarType::Int);
  Tensor first = torch::stable::new_zeros(features, {1}, ScalarType::Int);
  Tensor next = empty(features, {corners, 0}, ScalarType::Int),
         previous = empty(features, {corners, 0}, ScalarType::Int);
  if (points > 0) {
    cpu::build_point_lattice(
        features.const_data_ptr<float>(), points, static_cast<int>(d), threads(),
        [&](int64_t vertices) {
          first = empty(features, {vertices + 1}, ScalarType::Int);
          next = empty(features, {corners, vertices}, ScalarType::Int);
          previous = empty(features, {corners, vertices}, ScalarType::Int);
          return PointLatticeArrays{
              row.mutable_data_ptr<int32_t>(),   weight.mutable_data_ptr<float>(),
              entry.mutable_data_ptr<int32_t>(), first.mutable_data_ptr<int32_t>(),
              next.mutable_data_ptr<int32_t>(),  previous.mutable_data_ptr<int32_t>()};
        });
  }
  return {row, weight, entry, first, next, previous};
}

// values [N, c] float32 or float64 -> the same shape
Tensor lattice_filter(const Tensor& row_in, const Tensor& weight_in, const Tensor& entry_in,
                      const Tensor& first_in, const Tensor& next_in, const Tensor& previous_in,
                      const Tensor& values_in, bool reverse) {
  const Tensor row = int_input("lattice_filter", "row", row_in),
               entry = int_input("lattice_filter", "entry", entry_in);
  const Tensor first = int_input("lattice_filter", "first", first_in),
               next = int_input("lattice_filter", "next", next_in);
  const Tensor previous = int_input("lattice_filter", "previous", previous_in);
  const Tensor weight = float_input("lattice_filter", "weight", weight_in, 2);
  check_lattice_filter(row, weight, entry, first, next, previous, values_in);
  const auto dtype = values_in.scalar_type();
  check(dtype == ScalarType::Float || dtype == ScalarType::Double,
        "lattice_filter: values must be float32 or float64");
  const Tensor values = torch::stable::contiguous(values_in);
  Tensor out = same_shape(values);
  if (out.numel() == 0) return out;
  const PointLattice lattice{
      row.size(0),
      first.numel() - 1,
      static_cast<int>(row.size(1)),
      row.const_data_ptr<int32_t>(),
      weight.const_data_ptr<float>(),
      entry.const_data_ptr<int32_t>(),
      first.const_data_ptr<int32_t>(),
      next.const_data_ptr<int32_t>(),
      previous.const_data_ptr<int32_t>()};
  with_real(values, [&]<class Real>(Real) {
    cpu::filter_points(lattice, values.const_data_ptr<Real>(), out.mutable_data_ptr<Real>(),
                       values.size(1), reverse, threads());
  });
  return out;
}

// ---- label-conditioned logits

struct HeadOperands {
  HeadOperands(const Tensor& features, const std::optional<Tensor>& scale, const Tensor& weight,
               const Tensor& bias)
      : features(input("features", features, features)),
        weight(input("weight", weight, features)),
        bias(input("bias", bias, features)) {
    if (scale) this->scale = input("scale", *scale, features);
  }

  static Tensor input(const char* name, const Tensor& t, const Tensor& features) {
    return real_input("label_conditioned_logits", name, t, features.scalar_type());
  }

  template <class Real>
  HeadArrays<Real> arrays() const {
    const HeadShape shape{weight.size(1),   weight.size(2), features.size(2),
                          features.size(3), weight.size(0), weight.size(3) * weight.size(4)};
    return {features.size(0),
            weight.size(3),
            shape,
            features.const_data_ptr<Real>(),
            scale ? scale->const_data_ptr<Real>() : nullptr,
            weight.const_data_ptr<Real>(),
            bias.const_data_ptr<Real>()};
  }

  const Tensor features, weight, bias;
  std::optional<Tensor> scale;
};

Tensor label_conditioned_logits(const Tensor& features, const std::optional<Tensor>& scale,
                                const Tensor& weight, const Tensor& bias,
                                const std::vector<int64_t>& dilations) {
  const HeadOperands in(features, scale, weight, bias);
  Tensor logits =
      empty(in.features, {features.size(0), weight.size(1), features.size(2), features.size(3)});
  with_real(in.features, [&]<class Real>(Real) {
    cpu::label_conditioned_logits(
        in.arrays<Real>(), dilations, logits.mutable_data_ptr<Real>(), TorchHost(in.features));
  });
  return torch::stable::to(logits, features.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> label_conditioned_logits_backward(
    const Tensor& grad_in, const Tensor& features, const std::optional<Tensor>& scale,
    const Tensor& weight, const Tensor& bias, const std::vector<int64_t>& dilations,
    bool need_features, bool need_weight) {
  const HeadOperands in(features, scale, weight, bias);
  const Tensor grad = HeadOperands::input("grad", grad_in, features);
  const auto nothing = [&] { return empty(in.features, {0}); };  // outputs must not share memory
  const auto zeros = [](const Tensor& like) {
    return torch::stable::new_zeros(like, like.sizes());
  };
  const Tensor of_features = need_features ? same_shape(in.features) : nothing();
  const Tensor of_scale = need_weight && in.scale ? zeros(*in.scale) : nothing();
  const Tensor of_weight = need_weight ? zeros(in.weight) : nothing(),
               of_bias = same_shape(in.bias);
  with_real(in.features, [&]<class Real>(Real) {
    cpu::label_conditioned_logits_backward(
        in.arrays<Real>(), dilations, grad.const_data_ptr<Real>(),
        need_features ? of_features.mutable_data_ptr<Real>() : nullptr,
        of_scale.mutable_data_ptr<Real>(),
        need_weight ? of_weight.mutable_data_ptr<Real>() : nullptr,
        of_bias.mutable_data_ptr<Real>(), TorchHost(in.features));
  });
  const auto dtype = features.scalar_type();
  return {torch::stable::to(of_features, dtype), torch::stable::to(of_scale, dtype),
          torch::stable::to(of_weight, dtype), torch::stable::to(of_bias, dtype)};
}

// logits [B, K, h, w] -> [B, K, H, W]
Tensor resized_activation(const Tensor& logits_in, const std::vector<int64_t>& size, bool softmax) {
  const Tensor logits =
      real_input("resized_activation", "logits", logits_in, logits_in.scalar_type());
  const ResizeShape shape = resize_shape(logits, size);
  const int64_t images = logits.size(0);
  Tensor result = empty(logits, {images, shape.labels, shape.out_height, shape.out_width});
  if (logits.numel() > 0 && result.numel() > 0) {
    with_real(logits, [&]<class Real>(Real) {
      cpu::resized_activation(shape, images, softmax, logits.const_data_ptr<Real>(),
                              result.mutable_data_ptr<Real>(), TorchHost(logits));
    });
  }
  return torch::stable::to(result, logits_in.scalar_type());
}

// ---- losses

// logits [B, K, h, w], labels [B, H, W] uint8 or int64, present [B, K] uint8 -> loss [], d loss / d
// logits or empty
std::tuple<Tensor, Tensor> pixel_loss(
    const char* op, PixelLossKind kind, const Tensor& logits_in, const Tensor& labels_in,
    const std::optional<Tensor>& present_in, double smoothing, bool balance, int64_t ignore_index,
    bool resize_logits, bool need_grad) {
  const Tensor logits = real_input(op, "logits", logits_in, logits_in.scalar_type());
  const Tensor labels = torch::stable::contiguous(labels_in);
  const PixelLossShape shape = pixel_loss_shape(op, logits, labels, resize_logits);
  const auto present = presence(op, logits, present_in);
  Tensor grad = need_grad ? same_shape(logits) : empty(logits, {0}), loss = empty(logits, {});
  with_real(logits, [&]<class Real>(Real) {
    const PixelLossArrays<Real> arrays{
        logits.const_data_ptr<Real>(), labels.const_data_ptr(),
        labels.scalar_type() == ScalarType::Long,
        present && present->numel() ? present->const_data_ptr<uint8_t>() : nullptr,
        grad.numel() ? grad.mutable_data_ptr<Real>() : nullptr};
    *loss.mutable_data_ptr<Real>() = static_cast<Real>(cpu::pixel_loss(
        op, kind, shape, {smoothing, balance, ignore_index}, arrays, TorchHost(logits)));
  });
  return {loss, grad};
}

std::tuple<Tensor, Tensor> pixel_cross_entropy(const Tensor& logits, const Tensor& labels,
                                               double smoothing, bool balance, int64_t ignore_index,
                                               bool resize_logits, bool need_grad) {
  return pixel_loss("pixel_cross_entropy", PixelLossKind::kCrossEntropy, logits, labels,
                    std::nullopt, smoothing, balance, ignore_index, resize_logits, need_grad);
}

std::tuple<Tensor, Tensor> pixel_bce(
    const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& present,
    double smoothing, bool balance, int64_t ignore_index, bool resize_logits, bool need_grad) {
  return pixel_loss("pixel_bce", PixelLossKind::kBinary, logits, labels, present, smoothing,
                    balance, ignore_index, resize_logits, need_grad);
}

// logits [B, K, h, w], saliency [B, H, W] or [B, 1, H, W], present [B, K - 1] uint8
// -> loss [], foreground, background and estimate [B, h, w] or [B, 1, h, w], d loss / d logits
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> saliency_loss(
    const Tensor& logits_in, const Tensor& saliency_in, const Tensor& present_in, double tau,
    double lam, bool adaptive, const std::vector<int64_t>& always_background) {
  const Tensor logits = real_input("saliency_loss", "logits", logits_in, logits_in.scalar_type());
  const Tensor saliency =
      real_input("saliency_loss", "saliency", saliency_in, logits.scalar_type());
  const Tensor present = torch::stable::contiguous(present_in);
  const SaliencyShape shape = saliency_shape(logits, saliency, present, always_background);
  const auto sizes = saliency_map_sizes(shape, saliency);
  Tensor foreground = empty(logits, sizes), background = empty(logits, sizes),
         estimate = empty(logits, sizes);
  Tensor grad = same_shape(logits), loss = empty(logits, {});
  with_real(logits, [&]<class Real>(Real) {
    const SaliencyArrays<Real> arrays{
        logits.const_data_ptr<Real>(),       saliency.const_data_ptr<Real>(),
        present.const_data_ptr<uint8_t>(),   foreground.mutable_data_ptr<Real>(),
        background.mutable_data_ptr<Real>(), estimate.mutable_data_ptr<Real>(),
        grad.mutable_data_ptr<Real>()};
    *loss.mutable_data_ptr<Real>() = static_cast<Real>(cpu::saliency_loss(
        shape, tau, lam, adaptive, always_background, arrays, TorchHost(logits)));
  });
  return {loss, foreground, background, estimate, grad};
}

// logits [B, K, h, w], saliency [B, H, W], response [B, H', W'] -> loss [], region [B, h, w] uint8,
// d loss / d logits
std::tuple<Tensor, Tensor, Tensor> aamr_loss(const Tensor& logits_in, const Tensor& saliency_in,
                                             const Tensor& response_in, double salient,
                                             double active, double overlap) {
  const Tensor logits = real_input("aamr_loss", "logits", logits_in, logits_in.scalar_type());
  const Tensor saliency = real_input("aamr_loss", "saliency", saliency_in, logits.scalar_type());
  const Tensor response = real_input("aamr_loss", "response", response_in, logits.scalar_type());
  const AamrShape shape = aamr_shape(logits, saliency, response);
  Tensor region = empty(logits, {shape.images, shape.height, shape.width}, ScalarType::Byte);
  Tensor grad = same_shape(logits), loss = empty(logits, {});
  with_real(logits, [&]<class Real>(Real) {
    const AamrArrays<Real> arrays{
        logits.const_data_ptr<Real>(), saliency.const_data_ptr<Real>(),
        response.const_data_ptr<Real>(), region.mutable_data_ptr<uint8_t>(),
        grad.mutable_data_ptr<Real>()};
    *loss.mutable_data_ptr<Real>() = static_cast<Real>(
        cpu::aamr_loss(shape, salient, active, overlap, arrays, TorchHost(logits)));
  });
  return {loss, region, grad};
}

// ---- random walk

// maps [B, K, h, w], edge [B, h, w] -> [B, K, h, w]
Tensor random_walk(const Tensor& maps_in, const Tensor& edge_in, int64_t radius, double beta,
                   int64_t steps) {
  const Tensor maps = float_input("random_walk", "maps", maps_in, 4);
  const Tensor edge = float_input("random_walk", "edge", edge_in, 3);
  const WalkShape shape = walk_shape(maps, edge, radius, beta, steps);
  Tensor out = same_shape(maps);
  if (maps.numel() == 0) return out;
  cpu::random_walk(maps.const_data_ptr<float>(), edge.const_data_ptr<float>(), maps.size(0),
                   maps.size(1), shape, beta, steps, threads(), out.mutable_data_ptr<float>());
  return out;
}

// ---- split convolution

constexpr const char* kConv = "amx_conv2d";

const float* vector_of(const std::optional<Tensor>& given, const char* name, int64_t length) {
  if (!given) return nullptr;
  check(given->scalar_type() == ScalarType::Float && given->dim() == 1 &&
            given->size(0) == length && given->is_contiguous(),
        std::string(kConv) + ": " + name + " is " + shape_text(*given) +
            "; must be contiguous float32 [" + std::to_string(length) + "]");
  return given->const_data_ptr<float>();
}

const int64_t* extents(const std::optional<Tensor>& given, int64_t batch) {
  if (!given) return nullptr;
  check(given->scalar_type() == ScalarType::Long && given->dim() == 2 && given->size(0) == batch &&
            given->size(1) == 2 && given->is_contiguous(),
        std::string(kConv) + ": inside is " + shape_text(*given) + "; must be contiguous int64 [" +
            std::to_string(batch) + ", 2]");
  return given->const_data_ptr<int64_t>();
}

// maps [B, H, W, C], filters [ceil(K / 32), ceil(C / 32), k * k, parts, 2, 16, 16, 2] -> [B, H',
// W', K]
Tensor amx_conv2d(const Tensor& maps_in, const Tensor& filters, int64_t count,
                  const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                  const std::optional<Tensor>& bias, const std::optional<Tensor>& residual_in,
                  const std::optional<Tensor>& inside, int64_t stride, int64_t dilation,
                  bool relu) {
  const Tensor maps = float_input(kConv, "maps", maps_in, 4);
  check(filters.scalar_type() == ScalarType::BFloat16 && filters.dim() == 8 &&
            filters.is_contiguous() && filters.size(4) == 2 && filters.size(5) == 16 &&
            filters.size(6) == 16 && filters.size(7) == 2,
        std::string(kConv) + ": filters is " + shape_text(filters) + "; must be what pack makes");
  const int64_t taps = filters.size(2), kernel = taps == 1 ? 1 : 3, parts = filters.size(3);
  const ConvShape shape{
      maps.size(0), maps.size(1), maps.size(2), maps.size(3), count, kernel, stride, dilation};
  check(count >= 1 && taps == kernel * kernel && filters.size(0) == shape.blocks() &&
            filters.size(1) == shape.planes() && (parts == 2 || parts == 3),
        std::string(kConv) + ": maps is " + shape_text(maps) + " and count " +
            std::to_string(count) + " but filters is " + shape_text(filters));
  check(stride >= 1 && dilation >= 1, std::string(kConv) + ": stride and dilation must be >= 1");
  check(scale.has_value() == shift.has_value(),
        std::string(kConv) + ": scale and shift come together");
  const std::vector<int64_t> sizes{shape.batch, shape.height ? shape.out_height() : 0,
                                   shape.width ? shape.out_width() : 0, shape.filters};
  Tensor out = empty(maps, sizes);
  std::optional<Tensor> residual;
  if (residual_in) {
    residual = float_input(kConv, "residual", *residual_in, 4);
    for (int d = 0; d < 4; ++d) {
      check(residual->size(d) == sizes[d],
            std::string(kConv) + ": residual is " + shape_text(*residual) + " but the result is " +
                shape_text(out));
    }
  }
  const MapArrays given{maps.const_data_ptr<float>(), vector_of(scale, "scale", shape.channels),
                        vector_of(shift, "shift", shape.channels), extents(inside, shape.batch)};
  const ConvArrays arrays{
      static_cast<const uint16_t*>(filters.const_data_ptr()),
      vector_of(bias, "bias", shape.filters),
      residual ? residual->const_data_ptr<float>() : nullptr, relu, out.mutable_data_ptr<float>()};
  if (out.numel() > 0) cpu::amx_conv2d(shape, parts, given, arrays, TorchHost(maps));
  return out;
}

}  // namespace
}  // namespace wsss

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) {
  WSSS_IMPL(m, "dense_crf", "CPU", wsss::dense_crf);
  WSSS_IMPL(m, "permutohedral_lattice", "CPU", wsss::permutohedral_lattice);
  WSSS_IMPL(m, "lattice_filter", "CPU", wsss::lattice_filter);
  WSSS_IMPL(m, "label_conditioned_logits", "CPU", wsss::label_conditioned_logits);
  WSSS_IMPL(m, "label_conditioned_logits_backward", "CPU", wsss::label_conditioned_logits_backward);
  WSSS_IMPL(m, "resized_activation", "CPU", wsss::resized_activation);
  WSSS_IMPL(m, "pixel_cross_entropy", "CPU", wsss::pixel_cross_entropy);
  WSSS_IMPL(m, "pixel_bce", "CPU", wsss::pixel_bce);
  WSSS_IMPL(m, "saliency_loss", "CPU", wsss::saliency_loss);
  WSSS_IMPL(m, "aamr_loss", "CPU", wsss::aamr_loss);
  WSSS_IMPL(m, "random_walk", "CPU", wsss::random_walk);
  WSSS_IMPL(m, "amx_conv2d", "CPU", wsss::amx_conv2d);
}
