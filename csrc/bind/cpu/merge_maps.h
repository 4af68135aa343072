#pragma once

#include "../../cpu/merge_maps.h"

#include "../merge_maps.h"
#include "backend.h"

namespace wsss {

template <class Real>
cpu::SoftmaxMaps<Real> softmax_maps(const Sizes& size, const std::optional<Tensor>& mask,
                                    const Tensor& maps) {
  return {size[0], size[1], static_cast<const uint8_t*>(const_data(mask)),
          static_cast<Real*>(mutable_data(maps))};
}

// views [2B, C, h, w] each; channels and counts as lists of maps; masks uint8
// -> maps [rows, h, w] (none without `strided`) and [rows, H, W]
inline std::tuple<Tensor, Tensor> merge_maps_softmax(
    const std::vector<Tensor>& views, const Sizes& channels, const Sizes& counts, const Sizes& size,
    bool strided, bool present_only, const std::optional<Tensor>& small_mask,
    const std::optional<Tensor>& full_mask, int64_t dtype) {
  check_views(views);
  check_size(size);
  const ScalarType type = floating_dtype(dtype);
  std::vector<Tensor> inputs;
  for (const Tensor& view : views) {
    const bool half =
        view.scalar_type() == ScalarType::Half || view.scalar_type() == ScalarType::BFloat16;
    inputs.push_back(half ? torch::stable::to(view, ScalarType::Float) : view);
  }
  const Tensor& like = inputs[0];
  const bool is_double = like.scalar_type() == ScalarType::Double;
  check(is_double || like.scalar_type() == ScalarType::Float,
        "merge_maps: views must be float16, bfloat16, float32 or float64");
  const auto wanted = wanted_channels(channels, counts, like);
  const Sizes small_size = strided_size(size);
  const auto small_input =
      strided ? mask_input("small_mask", small_mask, like, small_size) : std::nullopt;
  const auto full_input = mask_input("full_mask", full_mask, like, size);
  check_masks(small_input, full_input, strided);
  const auto rows = static_cast<int64_t>(channels.size());
  const Tensor small = allocate(like, {strided ? rows : 0, small_size[0], small_size[1]});
  const Tensor full = allocate(like, {rows, size[0], size[1]});
  const auto run = [&]<class Real>(Real) {
    cpu::SoftmaxCall<Real> call{{}, like.size(0) / 2, like.size(1), wanted, present_only, {}};
    for (const Tensor& view : inputs) call.views.push_back(output_view(view));
    if (strided) call.sizes.push_back(softmax_maps<Real>(small_size, small_input, small));
    call.sizes.push_back(softmax_maps<Real>(size, full_input, full));
    cpu::merge_maps_softmax(call, threads());
  };
  if (rows > 0) with_real(like, run);
  const auto converted = [&](const Tensor& maps) {
    return maps.scalar_type() == type ? maps : torch::stable::to(maps, type);
  };
  return {converted(small), converted(full)};
}
WSSS_IMPL(merge_maps_softmax)

}  // namespace wsss
