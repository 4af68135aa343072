// Label-conditioned logits on CUDA: a batched matrix product of the taps with the features of some images at a time,
// then one kernel for the shifted addition. How many images: as many as keep the workspace below a quarter of the
// features.
#include "label_conditioned.cuh"

#include "device.h"
#include "element_type.h"
#include "gemm.h"

namespace wsss {
namespace {

using Dilations = std::vector<int64_t>;

template <class T>
class DeviceHead {
 public:
  DeviceHead(const Tensor& features, const Tensor& weight, const Dilations& dilations)
      : call_(features),
        features_(features),
        shape_{weight.size(1), weight.size(2), features.size(2), features.size(3), weight.size(0),
               weight.size(3) * weight.size(4)} {
    check(shape_.pixels() <= INT32_MAX, "label_conditioned_logits: features is " + shape_text(features) + "; too large");
    upload(plan_taps(dilations, weight.size(3), shape_.height, shape_.width));
  }

  // logits [B, K, h, w]. Labels in shares, so that packed weights are no larger than the features of an image.
  void forward(const T* scale, const T* weight, const T* bias, T* logits) {
    const int64_t shares = std::clamp<int64_t>((taps_.count * shape_.labels + pixels() - 1) / pixels(), 1, shape_.labels);
    const size_t taps_only = call_.mark();
    for (int64_t i = 0; i < shares; ++i) {
      const LabelShare share{shape_.labels * i / shares, shape_.labels * (i + 1) / shares};
      const int64_t rows = taps_.count * share.count();
      const T* packed = pack(share, weight);
      const int64_t group = images_at_once(rows);
      T* scaled = scale ? call_.allocate<T>(group * rows * channels()) : nullptr;
      T* responses = call_.allocate<T>(group * rows * pixels());
      each_group(group, [&](int64_t first, int64_t images) {
        const Matrices taps = scaled_weight(packed, scale, scaled, rows, first, images);
        multiply(features_, taps, feature_matrices(first, images), {responses, images, rows, pixels()});
        add_shifted<T><<<blocks_for(images * share.count() * pixels()), kBlock, 0, call_.stream()>>>(
            shape_, taps_, share, images, responses, bias, logits + first * shape_.labels * pixels());
        STD_CUDA_KERNEL_LAUNCH_CHECK();
      });
      call_.release(taps_only);
    }
  }

  // As on the CPU: what is null is not computed. grad_weight starts at zero.
  void backward(const T* grad, const T* scale, const T* weight, T* grad_features, T* grad_scale, T* grad_weight) {
    const int64_t rows = taps_.count * shape_.labels, group = images_at_once(rows);
    const T* packed = pack({0, shape_.labels}, weight);
    // Holds the scaled weights of the images, then the gradient with respect to them.
    T* work = call_.allocate<T>(group * rows * channels());
    T* gradients = call_.allocate<T>(group * rows * pixels());
    Wide<T>* sum = grad_weight ? call_.allocate<Wide<T>>(rows * channels()) : nullptr;
    each_group(group, [&](int64_t first, int64_t images) {
      gather_shifted<T><<<blocks_for(images * rows * pixels()), kBlock, 0, call_.stream()>>>(
          shape_, taps_, images, grad + first * shape_.labels * pixels(), gradients);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      const Matrices gradient{gradients, images, rows, pixels()};
      if (grad_features) {
        const Matrices taps = scaled_weight(packed, scale, work, rows, first, images);
        multiply(features_, taps.t(), gradient,
                 {grad_features + first * channels() * pixels(), images, channels(), pixels()});
      }
      if (!grad_weight) return;
      multiply(features_, gradient, feature_matrices(first, images).t(), {work, images, rows, channels()});
      const T* factor = scale ? scale + first * channels() : nullptr;
      add_products<T><<<blocks_for(rows * channels()), kBlock, 0, call_.stream()>>>(images, rows, channels(), work,
                                                                                   factor, first == 0, sum);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      if (!scale) return;
      const dim3 grid(static_cast<unsigned>((channels() + kScaleChannels - 1) / kScaleChannels),
                      static_cast<unsigned>(images));
      scale_gradient<T><<<grid, dim3(kScaleChannels, kScaleParts), 0, call_.stream()>>>(
          rows, channels(), packed, work, grad_scale + first * channels());
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
    if (!grad_weight) return;
    unpack_weight<T><<<blocks_for(rows * channels()), kBlock, 0, call_.stream()>>>(shape_, taps_, sum, grad_weight);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  void backward_bias(const T* grad, T* grad_bias) {
    bias_gradient<T><<<static_cast<unsigned>(shape_.labels), kBiasThreads, 0, call_.stream()>>>(
        shape_, features_.size(0), grad, grad_bias);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  int64_t pixels() const { return shape_.pixels(); }
  int64_t channels() const { return shape_.channels; }

  void upload(const Taps& taps) {
    std::vector<int32_t> numbers;
    for (const auto* part : {&taps.dy, &taps.dx, &taps.first, &taps.source}) {
      numbers.insert(numbers.end(), part->begin(), part->end());
    }
    const int64_t count = static_cast<int64_t>(numbers.size());
    int32_t* table = call_.allocate<int32_t>(count);
    for (int64_t start = 0; start < count; start += Numbers::kMost) {
      Numbers some{};
      const int64_t n = std::min<int64_t>(Numbers::kMost, count - start);
      std::copy_n(numbers.begin() + start, n, some.value);
      store_numbers<<<1, Numbers::kMost, 0, call_.stream()>>>(some, static_cast<int32_t>(n), table + start);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    const int64_t t = taps.count();
    taps_ = {static_cast<int32_t>(t), table, table + t, table + 2 * t, table + 3 * t + 1};
  }

  T* pack(LabelShare share, const T* weight) {
    const int64_t count = taps_.count * share.count() * channels();
    T* packed = call_.allocate<T>(count);
    pack_weight<T><<<blocks_for(count), kBlock, 0, call_.stream()>>>(shape_, taps_, share, weight, packed);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return packed;
  }

  // Packed weights times the scale of each image, written to `scaled`; without scale the packed ones for every image.
  Matrices scaled_weight(const T* packed, const T* scale, T* scaled, int64_t rows, int64_t first, int64_t images) {
    if (!scale) return {packed, images, rows, channels(), true};
    scale_weight<T><<<blocks_for(images * rows * channels()), kBlock, 0, call_.stream()>>>(
        images, rows, channels(), packed, scale + first * channels(), scaled);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return {scaled, images, rows, channels()};
  }

  Matrices feature_matrices(int64_t first, int64_t images) const {
    return {static_cast<const T*>(features_.const_data_ptr()) + first * channels() * pixels(), images, channels(), pixels()};
  }

  int64_t images_at_once(int64_t rows) const {
    const int64_t spare = features_.numel() / 4 - rows * channels();
    return std::clamp<int64_t>(spare / (rows * (channels() + pixels())), 1, std::min<int64_t>(features_.size(0), 65535));
  }

  template <class Work>
  void each_group(int64_t group, Work work) const {
    for (int64_t first = 0; first < features_.size(0); first += group) {
      work(first, std::min(group, features_.size(0) - first));
    }
  }

  DeviceCall call_;
  const Tensor features_;
  const HeadShape shape_;
  DeviceTaps taps_{};
};

Tensor operand(const char* name, const Tensor& t, const Tensor& features) {
  check(t.scalar_type() == features.scalar_type(),
        std::string("label_conditioned_logits: ") + name + " is not of the features' dtype");
  check(t.get_device_index() == features.get_device_index(),
        std::string("label_conditioned_logits: ") + name + " is not on the features' device");
  return torch::stable::contiguous(t);
}
std::optional<Tensor> operand(const char* name, const std::optional<Tensor>& t, const Tensor& features) {
  return t ? std::optional<Tensor>(operand(name, *t, features)) : std::nullopt;
}

Tensor label_conditioned_logits(const Tensor& features_in, const std::optional<Tensor>& scale_in,
                                const Tensor& weight_in, const Tensor& bias_in, const Dilations& dilations) {
  const Tensor features = operand("features", features_in, features_in);
  const auto scale = operand("scale", scale_in, features);
  const Tensor weight = operand("weight", weight_in, features), bias = operand("bias", bias_in, features);
  const int64_t sizes[] = {features.size(0), weight.size(1), features.size(2), features.size(3)};
  Tensor logits = torch::stable::new_empty(features, {sizes, 4});
  if (logits.numel() == 0) return logits;
  with_element_type("label_conditioned_logits", features.scalar_type(), [&]<class T>(T) {
    DeviceHead<T>(features, weight, dilations)
        .forward(read<T>(scale), read<T>(weight), read<T>(bias), write<T>(logits));
  });
  return logits;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> label_conditioned_logits_backward(
    const Tensor& grad_in, const Tensor& features_in, const std::optional<Tensor>& scale_in, const Tensor& weight_in,
    const Tensor& bias_in, const Dilations& dilations, bool need_features, bool need_weight) {
  const Tensor features = operand("features", features_in, features_in), grad = operand("grad", grad_in, features);
  const auto scale = operand("scale", scale_in, features);
  const Tensor weight = operand("weight", weight_in, features);
  const int64_t none[] = {0};
  auto nothing = [&] { return torch::stable::new_empty(features, {none, 1}); };
  auto zeros = [&](const Tensor& like) { return torch::stable::new_zeros(like, like.sizes()); };
  Tensor of_features = need_features ? torch::stable::new_empty(features, features.sizes()) : nothing();
  Tensor of_scale = need_weight && scale ? zeros(*scale) : nothing();
  Tensor of_weight = need_weight ? zeros(weight) : nothing(), of_bias = zeros(bias_in);
  if (grad.numel() > 0) {
    with_element_type("label_conditioned_logits", features.scalar_type(), [&]<class T>(T) {
      DeviceHead<T> head(features, weight, dilations);
      head.backward_bias(read<T>(grad), write<T>(of_bias));
      head.backward(read<T>(grad), read<T>(scale), read<T>(weight), write<T>(of_features), write<T>(of_scale),
                    write<T>(of_weight));
    });
  }
  return {of_features, of_scale, of_weight, of_bias};
}

}  // namespace
}  // namespace wsss

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CUDA, m) {
  WSSS_IMPL(m, "label_conditioned_logits", "CUDA", wsss::label_conditioned_logits);
  WSSS_IMPL(m, "label_conditioned_logits_backward", "CUDA", wsss::label_conditioned_logits_backward);
}
