// The CUDA backend's only binding: checks arguments, makes results, and calls the kernels of
// cuda/kernels.h with torch's allocator, current stream and matrix products. Needs no header of the
// CUDA toolkit.
//
// With WSSS_EMULATE_CUDA the same code serves CPU tensors, and the kernels run in the emulator
// (csrc/tests/cuda_on_cpu.h).
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "../cuda/kernels.h"
#include "arguments.h"
#include "library_info.h"

#ifdef WSSS_EMULATE_CUDA
#define WSSS_DEVICE "CPU"
#define WSSS_LIBRARY_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m)
// wsss_fast's CPU kernels are this file's; tests bring others (tests/emulated_cuda.py)
#define WSSS_CPU_OPS "wsss_fast_cpu::"
#else
#define WSSS_DEVICE "CUDA"
#define WSSS_LIBRARY_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CUDA, m)
#define WSSS_CPU_OPS "wsss_fast::"
#endif

namespace wsss {
namespace {

using cuda::ElementType;
using torch::headeronly::ScalarType;
using Sizes = std::vector<int64_t>;

Tensor empty(const Tensor& like, const Sizes& sizes, ScalarType type) {
  Tensor t = torch::stable::new_empty(like, {sizes.data(), sizes.size()}, type);
// what a kernel fails to write is seen: a large negative number, an index out of range
#ifdef WSSS_EMULATE_CUDA
  if (t.numel() > 0) std::memset(t.mutable_data_ptr(), 0xcd, t.numel() * t.element_size());
#endif
  return t;
}
Tensor zeros(const Tensor& like, const Sizes& sizes, ScalarType type) {
  return torch::stable::new_zeros(like, {sizes.data(), sizes.size()}, type);
}
Sizes sizes_of(const Tensor& t) {
  Sizes sizes;
  for (int64_t d = 0; d < t.dim(); ++d) sizes.push_back(t.size(d));
  return sizes;
}

// One call of an op: the device of its first tensor is current while it lasts.
class TorchContext : public cuda::Context {
 public:
  TorchContext(const char* op, const Tensor& like)
      : Context(op, current_stream(like)),
        like_(like)
#ifndef WSSS_EMULATE_CUDA
        ,
        guard_(like.get_device_index())
#endif
  {
  }

  void* allocate(int64_t bytes) override {
    held_.push_back(empty(like_, {std::max<int64_t>(bytes, 1)}, ScalarType::Byte));
    return held_.back().mutable_data_ptr();
  }
  using Context::allocate;

  // torch's allocator hands memory out again in the order of the stream, so kernels that are queued
  // may still use it.
  size_t mark() const override { return held_.size(); }
  void release(size_t mark) override { held_.resize(mark, like_); }

  // torch's own product. Precision follows torch's settings (TF32, reduced-precision sums); half
  // types sum in float32.
  void multiply(ElementType type, const cuda::Matrices& a, const cuda::Matrices& b,
                const cuda::Matrices& out) override {
    const Tensor ta = view(type, a), tb = view(type, b), to = view(type, out);
#ifdef WSSS_EMULATE_CUDA
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_bmm_out(to.get(), ta.get(), tb.get()));
#else
    TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_bmm_out(to.get(), ta.get(), tb.get()));
#endif
  }

 private:
  static void* current_stream([[maybe_unused]] const Tensor& like) {
    void* stream = nullptr;
#ifndef WSSS_EMULATE_CUDA
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream));
#endif
    return stream;
  }

  Tensor view(ElementType type, const cuda::Matrices& m) const {
    static constexpr ScalarType kTypes[] = {
        ScalarType::Float, ScalarType::Double, ScalarType::Half, ScalarType::BFloat16};
    const int64_t between = m.same ? 0 : m.rows * m.columns;
    const int64_t sizes[] = {
        m.batch, m.transposed ? m.columns : m.rows, m.transposed ? m.rows : m.columns};
    const int64_t strides[] = {between, m.transposed ? 1 : m.columns, m.transposed ? m.columns : 1};
    // The shim takes no const; operands are only read.
    return torch::stable::from_blob(const_cast<void*>(m.data), {sizes, 3}, {strides, 3},
                                    like_.device(), kTypes[static_cast<int>(type)]);
  }

  const Tensor like_;
#ifndef WSSS_EMULATE_CUDA
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  std::vector<Tensor> held_;
};

ElementType element_type(const char* op, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return ElementType::kFloat32;
    case ScalarType::Double: return ElementType::kFloat64;
    case ScalarType::Half: return ElementType::kFloat16;
    case ScalarType::BFloat16: return ElementType::kBFloat16;
    default:
      throw std::runtime_error(
          std::string(op) + ": dtype must be float32, float64, float16 or bfloat16");
  }
}
// Of losses and their gradients.
ScalarType wide_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// A kernel that reads memory of another device would end the process' CUDA context.
void check_device(const char* op, const char* name, const Tensor& t, const Tensor& like) {
  check(t.get_device_index() == like.get_device_index(),
        std::string(op) + ": " + name + " is not on the first argument's device");
}

const void* read(const Tensor& t) { return t.numel() ? t.const_data_ptr() : nullptr; }
const void* read(const std::optional<Tensor>& t) { return t ? read(*t) : nullptr; }
void* write(const Tensor& t) { return t.numel() ? t.mutable_data_ptr() : nullptr; }
const uint8_t* read_bytes(const std::optional<Tensor>& t) {
  return static_cast<const uint8_t*>(read(t));
}

// ---- what the CUDA kernels cannot represent is computed by the CPU's, with copies

Tensor on_cpu(const Tensor& t) {
  return torch::stable::to(t, torch::stable::Device(torch::headeronly::DeviceType::CPU));
}

template <size_t N>
void call_on_cpu(const char* op, std::array<StableIValue, N>& stack) {
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "", stack.data(), TORCH_ABI_VERSION));
}

Tensor moved(StableIValue result, const Tensor& like) {
  return torch::stable::to(torch::stable::detail::to<Tensor>(result), like.device());
}

// ---- dense_crf

Tensor dense_crf_on_cpu(const Tensor& image, const Tensor& unary,
                        const std::vector<double>& gaussian, const std::vector<double>& bilateral,
                        const std::vector<double>& levels, int64_t iterations) {
  using torch::stable::detail::from;
  std::array<StableIValue, 6> stack{from(on_cpu(image)), from(on_cpu(unary)), from(gaussian),
                                    from(bilateral),     from(levels),        from(iterations)};
  call_on_cpu(WSSS_CPU_OPS "dense_crf", stack);
  return moved(stack[0], unary);
}

// image [B, C, H, W], unary [B, S, L, H, W] -> Q, as unary; the schema is described in
// wsss_fast/ops/dense_crf.py
Tensor dense_crf(const Tensor& image_in, const Tensor& unary_in, std::vector<double> gaussian,
                 std::vector<double> bilateral, std::vector<double> levels, int64_t iterations) {
  const Tensor image = float_input("dense_crf", "image", image_in, 4);
  const Tensor unary = float_input("dense_crf", "unary", unary_in, 5);
  check_device("dense_crf", "unary", unary, image);
  const int64_t channels = image.size(1), labels = unary.size(2);
  check_crf_arguments(image, unary, gaussian, bilateral, levels);
  check(labels >= 1, "dense_crf: unary is " + shape_text(unary) + "; needs a label");
  if (unary.numel() == 0) return empty(unary, sizes_of(unary), ScalarType::Float);
  const bool reads_image = !bilateral.empty() && bilateral.back() > 0;
  if (labels > cuda::kMaxLabels || (reads_image && channels + 2 > cuda::kMaxDimensions)) {
    return dense_crf_on_cpu(image, unary, gaussian, bilateral, levels, iterations);
  }
  Tensor q = empty(unary, sizes_of(unary), ScalarType::Float);
  cuda::CrfCall call{};
  call.batch = unary.size(0);
  call.height = unary.size(3);
  call.width = unary.size(4);
  call.image_channels = static_cast<int>(channels);
  call.sets = static_cast<int>(unary.size(1));
  call.labels = static_cast<int>(labels);
  call.image = static_cast<const float*>(read(image));
  call.unary = unary.const_data_ptr<float>();
  call.q = q.mutable_data_ptr<float>();
  if (!gaussian.empty()) {
    call.gaussian_sx = gaussian[0];
    call.gaussian_sy = gaussian[1];
    call.gaussian_weight = gaussian[2];
  }
  if (reads_image) {
    call.bilateral_sx = bilateral[0];
    call.bilateral_sy = bilateral[1];
    call.bilateral_weight = bilateral.back();
    std::copy_n(bilateral.begin() + 2, channels, call.levels);
  }
  call.lowest = levels[0];
  call.highest = levels[1];
  call.iterations = iterations;
  try {
    TorchContext context("dense_crf", unary);
    cuda::dense_crf(context, call);
  } catch (const cuda::BeyondLimits&) {
    return dense_crf_on_cpu(image, unary, gaussian, bilateral, levels, iterations);
  }
  return q;
}

// ---- lattices

using LatticeTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

LatticeTensors permutohedral_lattice_on_cpu(const Tensor& features) {
  std::array<StableIValue, 6> stack{torch::stable::detail::from(on_cpu(features))};
  call_on_cpu(WSSS_CPU_OPS "permutohedral_lattice", stack);
  Tensor moved_all[6];
  for (int i = 0; i < 6; ++i) moved_all[i] = moved(stack[i], features);
  return {moved_all[0], moved_all[1], moved_all[2], moved_all[3], moved_all[4], moved_all[5]};
}

cuda::PointLattice lattice_of(const Tensor& row, const Tensor& weight, const Tensor& entry,
                              const Tensor& first, const Tensor& next, const Tensor& previous) {
  return {row.size(0),
          first.numel() - 1,
          static_cast<int>(row.size(1)),
          row.mutable_data_ptr<int32_t>(),
          weight.mutable_data_ptr<float>(),
          entry.mutable_data_ptr<int32_t>(),
          first.mutable_data_ptr<int32_t>(),
          next.mutable_data_ptr<int32_t>(),
          previous.mutable_data_ptr<int32_t>()};
}

// features [N, d] -> row, weight, entry, first, next, previous (see cuda::PointLattice)
LatticeTensors permutohedral_lattice(const Tensor& features_in) {
  const Tensor features = float_input("permutohedral_lattice", "features", features_in, 2);
  const int64_t points = features.size(0), d = features.size(1), corners = d + 1;
  check(d >= 1,
        "permutohedral_lattice: features is " + shape_text(features) + "; must be [N, d], d >= 1");
  if (d > cuda::kMaxDimensions) return permutohedral_lattice_on_cpu(features);
  Tensor row = empty(features, {points, corners}, ScalarType::Int);
  Tensor weight = empty(features, {points, corners}, ScalarType::Float);
  Tensor entry = empty(features, {points * corners}, ScalarType::Int);
  Tensor first = zeros(features, {1}, ScalarType::Int);
  Tensor next = empty(features, {corners, 0}, ScalarType::Int),
         previous = empty(features, {corners, 0}, ScalarType::Int);
  if (points == 0) return {row, weight, entry, first, next, previous};
  try {
    TorchContext context("permutohedral_lattice", features);
    cuda::permutohedral_lattice(context, features.const_data_ptr<float>(), points,
                                static_cast<int>(d), [&](int64_t vertices) {
                                  first = empty(features, {vertices + 1}, ScalarType::Int);
                                  next = empty(features, {corners, vertices}, ScalarType::Int);
                                  previous = empty(features, {corners, vertices}, ScalarType::Int);
                                  return lattice_of(row, weight, entry, first, next, previous);
                                });
  } catch (const cuda::BeyondLimits&) {
    return permutohedral_lattice_on_cpu(features);
  }
  return {row, weight, entry, first, next, previous};
}

Tensor integers(const char* name, const Tensor& t, const Tensor& like) {
  check_device("lattice_filter", name, t, like);
  return int_input("lattice_filter", name, t);
}

// values [N, c] float32 or float64 -> the same shape
Tensor lattice_filter(const Tensor& row_in, const Tensor& weight_in, const Tensor& entry_in,
                      const Tensor& first_in, const Tensor& next_in, const Tensor& previous_in,
                      const Tensor& values_in, bool reverse) {
  const Tensor row = integers("row", row_in, row_in), entry = integers("entry", entry_in, row_in);
  const Tensor first = integers("first", first_in, row_in),
               next = integers("next", next_in, row_in);
  const Tensor previous = integers("previous", previous_in, row_in);
  const Tensor weight = float_input("lattice_filter", "weight", weight_in, 2);
  check_lattice_filter(row, weight, entry, first, next, previous, values_in);
  check(
      values_in.scalar_type() == ScalarType::Float || values_in.scalar_type() == ScalarType::Double,
      "lattice_filter: values must be float32 or float64");
  const Tensor values = torch::stable::contiguous(values_in);
  check_device("lattice_filter", "weight", weight, row);
  check_device("lattice_filter", "values", values, row);
  const int64_t channels = values.size(1);
  check(channels <= INT32_MAX, "lattice_filter: values has too many channels");
  Tensor out = empty(values, sizes_of(values), values.scalar_type());
  if (out.numel() == 0) return out;
  const cuda::PointLattice lattice = lattice_of(row, weight, entry, first, next, previous);
  TorchContext context("lattice_filter", values);
  cuda::lattice_filter(context, element_type("lattice_filter", values), lattice, read(values),
                       write(out), static_cast<int>(channels), reverse);
  return out;
}

// ---- label-conditioned logits
// ----------------------------------------------------------------------------------------------

using Dilations = std::vector<int64_t>;

Tensor head_operand(const char* name, const Tensor& t, const Tensor& features) {
  check(t.scalar_type() == features.scalar_type(),
        std::string("label_conditioned_logits: ") + name + " is not of the features' dtype");
  check(t.get_device_index() == features.get_device_index(),
        std::string("label_conditioned_logits: ") + name + " is not on the features' device");
  return torch::stable::contiguous(t);
}
std::optional<Tensor> head_operand(const char* name, const std::optional<Tensor>& t,
                                   const Tensor& features) {
  return t ? std::optional<Tensor>(head_operand(name, *t, features)) : std::nullopt;
}

cuda::HeadCall head_call(const Tensor& features, const std::optional<Tensor>& scale,
                         const Tensor& weight, const Dilations& dilations) {
  const std::string op = "label_conditioned_logits";
  check(features.dim() == 4 && weight.dim() == 5 && weight.size(2) == features.size(1) &&
            weight.size(3) == weight.size(4) && (weight.size(3) == 1 || weight.size(3) == 3),
        op + ": features is " + shape_text(features) + " but weight is " + shape_text(weight));
  check(static_cast<int64_t>(dilations.size()) == weight.size(0),
        op + ": one dilation is needed for each branch");
  const HeadShape shape{weight.size(1),   weight.size(2), features.size(2),
                        features.size(3), weight.size(0), weight.size(3) * weight.size(4)};
  check(shape.pixels() <= INT32_MAX, op + ": features is " + shape_text(features) + "; too large");
  return {element_type("label_conditioned_logits", features),
          shape,
          features.size(0),
          dilations,
          read(features),
          read(scale),
          read(weight)};
}

Tensor label_conditioned_logits(const Tensor& features_in, const std::optional<Tensor>& scale_in,
                                const Tensor& weight_in, const Tensor& bias_in,
                                const Dilations& dilations) {
  const Tensor features = head_operand("features", features_in, features_in);
  const auto scale = head_operand("scale", scale_in, features);
  const Tensor weight = head_operand("weight", weight_in, features),
               bias = head_operand("bias", bias_in, features);
  const cuda::HeadCall call = head_call(features, scale, weight, dilations);
  Tensor logits =
      empty(features, {features.size(0), weight.size(1), features.size(2), features.size(3)},
            features.scalar_type());
  if (logits.numel() == 0) return logits;
  TorchContext context("label_conditioned_logits", features);
  cuda::label_conditioned_logits(context, call, read(bias), write(logits));
  return logits;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> label_conditioned_logits_backward(
    const Tensor& grad_in, const Tensor& features_in, const std::optional<Tensor>& scale_in,
    const Tensor& weight_in, const Tensor& bias_in, const Dilations& dilations, bool need_features,
    bool need_weight) {
  const Tensor features = head_operand("features", features_in, features_in);
  const Tensor grad = head_operand("grad", grad_in, features);
  const auto scale = head_operand("scale", scale_in, features);
  const Tensor weight = head_operand("weight", weight_in, features);
  const cuda::HeadCall call = head_call(features, scale, weight, dilations);
  const auto type = features.scalar_type();
  auto nothing = [&] { return empty(features, {0}, type); };
  Tensor of_features = need_features ? empty(features, sizes_of(features), type) : nothing();
  Tensor of_scale = need_weight && scale ? zeros(features, sizes_of(*scale), type) : nothing();
  Tensor of_weight = need_weight ? zeros(features, sizes_of(weight), type) : nothing();
  Tensor of_bias = zeros(features, sizes_of(bias_in), type);
  if (grad.numel() > 0) {
    TorchContext context("label_conditioned_logits_backward", features);
    cuda::label_conditioned_logits_backward(context, call, read(grad), write(of_features),
                                            write(of_scale), write(of_weight), write(of_bias));
  }
  return {of_features, of_scale, of_weight, of_bias};
}

// ---- resized activation

// logits [B, K, h, w] -> [B, K, H, W]
Tensor resized_activation(const Tensor& logits_in, const std::vector<int64_t>& size, bool softmax) {
  const ResizeShape shape = resize_shape(logits_in, size);
  const Tensor logits = torch::stable::contiguous(logits_in);
  const auto type = element_type("resized_activation", logits);
  Tensor result =
      empty(logits, {logits.size(0), shape.labels, size[0], size[1]}, logits.scalar_type());
  if (logits.numel() == 0 || result.numel() == 0) return result;
  TorchContext context("resized_activation", logits);
  cuda::resized_activation(
      context, type, shape, logits.size(0), softmax, read(logits), write(result));
  return result;
}

// grad and result [B, K, H, W], size [h, w] -> d loss / d logits [B, K, h, w]
Tensor resized_activation_backward(const Tensor& grad_in, const Tensor& result_in,
                                   const std::vector<int64_t>& size, bool softmax) {
  const char* op = "resized_activation_backward";
  check(result_in.dim() == 4 && size.size() == 2 && sizes_of(grad_in) == sizes_of(result_in) &&
            grad_in.scalar_type() == result_in.scalar_type(),
        std::string(op) + ": grad is " + shape_text(grad_in) + " but result is " +
            shape_text(result_in));
  check_device(op, "result", result_in, grad_in);
  const Tensor grad = torch::stable::contiguous(grad_in),
               result = torch::stable::contiguous(result_in);
  const auto type = element_type(op, result);
  const ResizeShape shape{result.size(1), size[0], size[1], result.size(2), result.size(3)};
  const Sizes sizes{result.size(0), shape.labels, size[0], size[1]};
  if (result.numel() == 0) return zeros(result, sizes, result.scalar_type());
  Tensor of_logits = empty(result, sizes, result.scalar_type());
  if (of_logits.numel() == 0) return of_logits;
  TorchContext context(op, result);
  cuda::resized_activation_backward(
      context, type, shape, result.size(0), softmax, read(grad), read(result), write(of_logits));
  return of_logits;
}

// ---- random walk

// maps [B, K, h, w], edge [B, h, w] -> [B, K, h, w]
Tensor random_walk(const Tensor& maps_in, const Tensor& edge_in, int64_t radius, double beta,
                   int64_t steps) {
  const Tensor maps = float_input("random_walk", "maps", maps_in, 4);
  const Tensor edge = float_input("random_walk", "edge", edge_in, 3);
  check_device("random_walk", "edge", edge, maps);
  const WalkShape shape = walk_shape(maps, edge, radius, beta, steps);
  Tensor out = empty(maps, sizes_of(maps), ScalarType::Float);
  if (maps.numel() == 0) return out;
  TorchContext context("random_walk", maps);
  cuda::random_walk(
      context, shape, maps.size(0), maps.size(1), beta, steps, maps.const_data_ptr<float>(),
      edge.const_data_ptr<float>(), out.mutable_data_ptr<float>());
  return out;
}

// ---- losses

// logits [B, K, h, w], labels [B, H, W] uint8 or int64, present [B, K] uint8 -> loss [], d loss / d
// logits or empty
std::tuple<Tensor, Tensor> pixel_loss(
    const char* op, PixelLossKind kind, const Tensor& logits_in, const Tensor& labels_in,
    const std::optional<Tensor>& present_in, double smoothing, bool balance, int64_t ignore_index,
    bool resize_logits, bool need_grad) {
  const Tensor logits = torch::stable::contiguous(logits_in),
               labels = torch::stable::contiguous(labels_in);
  const PixelLossShape shape = pixel_loss_shape(op, logits, labels, resize_logits);
  check_device(op, "labels", labels, logits);
  const auto present = presence(op, logits, present_in);
  if (present) check_device(op, "present", *present, logits);
  const auto type = element_type(op, logits);
  const auto wide = wide_type(logits);
  Tensor grad = empty(logits, need_grad ? sizes_of(logits) : Sizes{0}, wide);
  if (logits.numel() == 0) return {zeros(logits, {}, wide), grad};
  Tensor loss = empty(logits, {}, wide);
  TorchContext context(op, logits);
  cuda::pixel_loss(
      context,
      {kind,
       type,
       labels.scalar_type() == ScalarType::Byte,
       shape,
       {smoothing, balance, ignore_index},
       read(logits),
       read(labels),
       read_bytes(present),
       write(grad),
       write(loss)});
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
// -> loss [], foreground, background and estimate [B, h, w] or [B, 1, h, w], d loss / d logits, of
// the saliency's dtype
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> saliency_loss(
    const Tensor& logits_in, const Tensor& saliency_in, const Tensor& present_in, double tau,
    double lam, bool adaptive, const std::vector<int64_t>& always_background) {
  const char* op = "saliency_loss";
  const Tensor logits = torch::stable::contiguous(logits_in),
               saliency = torch::stable::contiguous(saliency_in);
  const Tensor present = torch::stable::contiguous(present_in);
  const auto type = element_type(op, logits);
  const auto wide = wide_type(logits);
  check(saliency.scalar_type() == wide,
        "saliency_loss: saliency must be float32, or float64 for float64 logits");
  check_device(op, "saliency", saliency, logits);
  check_device(op, "labels", present, logits);
  const SaliencyShape shape = saliency_shape(logits, saliency, present, always_background);
  const auto sizes = saliency_map_sizes(shape, saliency);
  Tensor maps[3];
  for (Tensor& map : maps) map = empty(saliency, sizes, wide);
  Tensor grad = empty(saliency, sizes_of(logits), wide);
  if (logits.numel() == 0) return {zeros(saliency, {}, wide), maps[0], maps[1], maps[2], grad};
  Tensor loss = empty(saliency, {}, wide);
  TorchContext context(op, logits);
  cuda::saliency_loss(context, {type, shape, tau, lam, adaptive, always_background, read(logits),
                                read(saliency), read_bytes(present), write(maps[0]), write(maps[1]),
                                write(maps[2]), write(grad), write(loss)});
  return {loss, maps[0], maps[1], maps[2], grad};
}

// logits [B, K, h, w], saliency [B, H, W], response [B, H', W']
// -> loss [], region [B, h, w] uint8, d loss / d logits; loss and gradient of the saliency's dtype
std::tuple<Tensor, Tensor, Tensor> aamr_loss(const Tensor& logits_in, const Tensor& saliency_in,
                                             const Tensor& response_in, double salient,
                                             double active, double overlap) {
  const char* op = "aamr_loss";
  const Tensor logits = torch::stable::contiguous(logits_in),
               saliency = torch::stable::contiguous(saliency_in);
  const Tensor response = torch::stable::contiguous(response_in);
  const auto type = element_type(op, logits);
  const auto wide = wide_type(logits);
  const AamrShape shape = aamr_shape(logits, saliency, response);
  for (const Tensor* map : {&saliency, &response}) {
    check(map->scalar_type() == wide,
          "aamr_loss: saliency and response must be float32, or float64 for float64 logits");
    check_device(op, "a map", *map, logits);
  }
  check(shape.pixels() <= INT32_MAX, "aamr_loss: logits is " + shape_text(logits) +
                                         "; must have fewer than 2^31 pixels an image");
  Tensor region = empty(saliency, {shape.images, shape.height, shape.width}, ScalarType::Byte);
  Tensor grad = empty(saliency, sizes_of(logits), wide);
  if (logits.numel() == 0) return {zeros(saliency, {}, wide), region, grad};
  Tensor loss = empty(saliency, {}, wide);
  TorchContext context(op, logits);
  cuda::aamr_loss(
      context, {type, shape, salient, active, overlap, read(logits), read(saliency), read(response),
                static_cast<uint8_t*>(write(region)), write(grad), write(loss)});
  return {loss, region, grad};
}

}  // namespace
}  // namespace wsss

WSSS_LIBRARY_IMPL(m) {
  using namespace wsss;
  WSSS_IMPL(m, "dense_crf", WSSS_DEVICE, dense_crf);
  WSSS_IMPL(m, "permutohedral_lattice", WSSS_DEVICE, permutohedral_lattice);
  WSSS_IMPL(m, "lattice_filter", WSSS_DEVICE, lattice_filter);
  WSSS_IMPL(m, "label_conditioned_logits", WSSS_DEVICE, label_conditioned_logits);
  WSSS_IMPL(m, "label_conditioned_logits_backward", WSSS_DEVICE, label_conditioned_logits_backward);
  WSSS_IMPL(m, "resized_activation", WSSS_DEVICE, resized_activation);
  WSSS_IMPL(m, "resized_activation_backward", WSSS_DEVICE, resized_activation_backward);
  WSSS_IMPL(m, "random_walk", WSSS_DEVICE, random_walk);
  WSSS_IMPL(m, "pixel_cross_entropy", WSSS_DEVICE, pixel_cross_entropy);
  WSSS_IMPL(m, "pixel_bce", WSSS_DEVICE, pixel_bce);
  WSSS_IMPL(m, "saliency_loss", WSSS_DEVICE, saliency_loss);
  WSSS_IMPL(m, "aamr_loss", WSSS_DEVICE, aamr_loss);
}
