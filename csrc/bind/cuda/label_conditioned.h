#pragma once

#include "../../cuda/label_conditioned.h"

#include "../label_conditioned.h"
#include "backend.h"

namespace wsss {

struct HeadOperands {
  HeadOperands(const Tensor& features, const std::optional<Tensor>& scale, const Tensor& weight,
               const Tensor& bias, const Sizes& dilations, bool tf32)
      : channels_last(is_channels_last(features)),
        features(channels_last ? features : input("features", features, features)),
        weight(input("weight", weight, features)),
        bias(input("bias", bias, features)) {
    const HeadShape shape = head_shape(features, scale, weight, bias, dilations);
    check(shape.pixels() <= INT32_MAX,
          "label_conditioned_logits: features is " + shape_text(features) + "; too large");
    if (scale) this->scale = input("scale", *scale, features);
    call = {element_type("label_conditioned_logits", features),
            shape,
            features.size(0),
            dilations,
            const_data(this->features),
            const_data(this->scale),
            const_data(this->weight),
            channels_last,
            tf32};
  }

  static Tensor input(const char* name, const Tensor& t, const Tensor& features) {
    const std::string op = "label_conditioned_logits: ";
    check(t.scalar_type() == features.scalar_type(), op + name + " must have the features' dtype");
    check(t.get_device_index() == features.get_device_index(),
          op + name + " must be on the features' device");
    return t.is_contiguous() ? t : torch::stable::contiguous(t);
  }

  const bool channels_last;
  const Tensor features, weight, bias;
  std::optional<Tensor> scale;
  cuda::HeadCall call;
};

inline Tensor label_conditioned_logits(const Tensor& features, const std::optional<Tensor>& scale,
                                       const Tensor& weight, const Tensor& bias,
                                       const Sizes& dilations, bool tf32) {
  const HeadOperands in(features, scale, weight, bias, dilations, tf32);
  const HeadShape& s = in.call.shape;
  Tensor logits = allocate(features, {features.size(0), s.labels, s.height, s.width});
  if (logits.numel() == 0) return logits;
  TorchContext context("label_conditioned_logits", features);
  cuda::label_conditioned_logits(context, in.call, const_data(in.bias), mutable_data(logits));
  return logits;
}
WSSS_IMPL(label_conditioned_logits)

// -> the gradients of features (in their order), scale, weight and bias; empty where they are not
// needed
inline std::tuple<Tensor, Tensor, Tensor, Tensor> label_conditioned_logits_backward(
    const Tensor& grad_in, const Tensor& features, const std::optional<Tensor>& scale,
    const Tensor& weight, const Tensor& bias, const Sizes& dilations, bool need_features,
    bool need_weight, bool tf32) {
  const HeadOperands in(features, scale, weight, bias, dilations, tf32);
  check_head_gradient(grad_in, in.call.shape, features.size(0));
  const Tensor grad = HeadOperands::input("grad", grad_in, features);
  const auto nothing = [&] { return allocate(features, {0}); };  // outputs must not share memory
  // Of an empty batch the sums are zero.
  const auto sum = [&](const Tensor& like) {
    return grad.numel() > 0 ? allocate_like(like) : allocate_zeros_like(like);
  };
  Tensor grad_features = !need_features     ? nothing()
                         : in.channels_last ? torch::stable::empty_like(in.features)
                                            : allocate_like(features);
  Tensor grad_scale = need_weight && scale ? sum(*scale) : nothing();
  Tensor grad_weight = need_weight ? sum(weight) : nothing();
  Tensor grad_bias = sum(bias);
  if (grad.numel() > 0) {
    TorchContext context("label_conditioned_logits_backward", features);
    cuda::label_conditioned_logits_backward(
        context, in.call, const_data(grad), mutable_data(grad_features), mutable_data(grad_scale),
        mutable_data(grad_weight), mutable_data(grad_bias));
  }
  return {grad_features, grad_scale, grad_weight, grad_bias};
}
WSSS_IMPL(label_conditioned_logits_backward)

}  // namespace wsss
