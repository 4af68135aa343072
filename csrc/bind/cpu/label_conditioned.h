#pragma once

#include "../../cpu/label_conditioned.h"

#include "../label_conditioned.h"
#include "backend.h"

namespace wsss {

struct HeadOperands {
  HeadOperands(const Tensor& features, const std::optional<Tensor>& scale, const Tensor& weight,
               const Tensor& bias, const Sizes& dilations)
      : features(input("features", features, features)),
        weight(input("weight", weight, features)),
        bias(input("bias", bias, features)),
        shape(head_shape(features, scale, weight, bias, dilations)) {
    if (scale) this->scale = input("scale", *scale, features);
  }

  static Tensor input(const char* name, const Tensor& t, const Tensor& features) {
    return real_input("label_conditioned_logits", name, t, features.scalar_type());
  }

  template <class Real>
  HeadArrays<Real> arrays() const {
    return {features.size(0),
            weight.size(3),
            shape,
            features.const_data_ptr<Real>(),
            scale ? scale->const_data_ptr<Real>() : nullptr,
            weight.const_data_ptr<Real>(),
            bias.const_data_ptr<Real>()};
  }

  const Tensor features, weight, bias;
  const HeadShape shape;
  std::optional<Tensor> scale;
};

inline Tensor label_conditioned_logits(const Tensor& features, const std::optional<Tensor>& scale,
                                       const Tensor& weight, const Tensor& bias,
                                       const Sizes& dilations, [[maybe_unused]] bool tf32) {
  const HeadOperands in(features, scale, weight, bias, dilations);
  const HeadShape& s = in.shape;
  Tensor logits = allocate(in.features, {features.size(0), s.labels, s.height, s.width});
  with_real(in.features, [&]<class Real>(Real) {
    cpu::label_conditioned_logits(
        in.arrays<Real>(), dilations, logits.mutable_data_ptr<Real>(), TorchHost(in.features));
  });
  return torch::stable::to(logits, features.scalar_type());
}
WSSS_IMPL(label_conditioned_logits)

// -> the gradients of features (in their order), scale, weight and bias; empty where they are not
// needed
inline std::tuple<Tensor, Tensor, Tensor, Tensor> label_conditioned_logits_backward(
    const Tensor& grad_in, const Tensor& features, const std::optional<Tensor>& scale,
    const Tensor& weight, const Tensor& bias, const Sizes& dilations, bool need_features,
    bool need_weight, [[maybe_unused]] bool tf32) {
  const HeadOperands in(features, scale, weight, bias, dilations);
  check_head_gradient(grad_in, in.shape, features.size(0));
  const Tensor grad = HeadOperands::input("grad", grad_in, features);
  const auto nothing = [&] { return allocate(in.features, {0}); };  // outputs must not share memory
  const Tensor grad_features = need_features ? allocate_like(in.features) : nothing();
  const Tensor grad_scale = need_weight && in.scale ? allocate_zeros_like(*in.scale) : nothing();
  const Tensor grad_weight = need_weight ? allocate_zeros_like(in.weight) : nothing();
  const Tensor grad_bias = allocate_like(in.bias);
  with_real(in.features, [&]<class Real>(Real) {
    cpu::label_conditioned_logits_backward(
        in.arrays<Real>(), dilations, grad.const_data_ptr<Real>(),
        need_features ? grad_features.mutable_data_ptr<Real>() : nullptr,
        grad_scale.mutable_data_ptr<Real>(),
        need_weight ? grad_weight.mutable_data_ptr<Real>() : nullptr,
        grad_bias.mutable_data_ptr<Real>(), TorchHost(in.features));
  });
  const auto dtype = features.scalar_type();
  const auto order = need_features && is_channels_last(features)
                         ? torch::headeronly::MemoryFormat::ChannelsLast
                         : torch::headeronly::MemoryFormat::Contiguous;
  return {torch::stable::contiguous(torch::stable::to(grad_features, dtype), order),
          torch::stable::to(grad_scale, dtype), torch::stable::to(grad_weight, dtype),
          torch::stable::to(grad_bias, dtype)};
}
WSSS_IMPL(label_conditioned_logits_backward)

}  // namespace wsss
