#pragma once

#include "../../cuda/merge_maps.h"

#include "backend.h"

namespace wsss {

// A mask [B, height, width] uint8, or none.
inline std::optional<Tensor> mask_input(const char* name, const std::optional<Tensor>& mask,
                                        const Tensor& view, const cuda::MapSize& size) {
  if (!mask) return std::nullopt;
  const Sizes wanted{view.size(0) / 2, size.height, size.width};
  check(mask->scalar_type() == ScalarType::Byte && sizes_of(*mask) == wanted,
        std::string("merge_maps: ") + name + " is " + shape_text(*mask) +
            "; must be uint8 [B, H, W] of the maps' size");
  check_device("merge_maps", name, *mask, view);
  return torch::stable::contiguous(*mask);
}

// views [2B, C, h, w] each; channels and counts as lists of rows; masks uint8
// -> maps [rows, h, w] (none without `strided`) and [rows, H, W]
inline std::tuple<Tensor, Tensor> merge_maps(
    const std::vector<Tensor>& views, const Sizes& channels, const Sizes& counts, const Sizes& size,
    int64_t align, int64_t kind, bool strided, bool present_only,
    const std::optional<Tensor>& small_mask, const std::optional<Tensor>& full_mask,
    int64_t dtype) {
  const char* op = "merge_maps";
  // In the order of FLOATING_DTYPES of wsss_fast/ops/_arguments.py.
  static constexpr ScalarType kTypes[] = {
      ScalarType::Half, ScalarType::BFloat16, ScalarType::Float, ScalarType::Double};
  check(!views.empty() && views.size() <= cuda::kMostViews,
        "merge_maps: views are " + std::to_string(views.size()) + "; must be 1..32");
  check(size.size() == 2 && size[0] >= 1 && size[1] >= 1 && align >= 1 && kind >= 0 && kind < 3 &&
            dtype >= 0 && dtype < 4,
        "merge_maps: size, align, kind or dtype is out of range");
  const Tensor& like = views[0];
  cuda::MergeCall call{};
  call.type = element_type(op, like);
  for (const Tensor& view : views) {
    check(view.dim() == 4 && view.numel() > 0 == (like.numel() > 0) &&
              view.size(0) == like.size(0) && view.size(1) == like.size(1) &&
              view.size(0) % 2 == 0 && view.scalar_type() == like.scalar_type(),
          "merge_maps: a view is " + shape_text(view) + "; all must be [2B, C, h, w] of one dtype");
    check_device(op, "views", view, like);
    call.views.push_back({const_data(view), view.size(2), view.size(3), view.stride(0),
                          view.stride(1), view.stride(2), view.stride(3)});
  }
  call.images = like.size(0) / 2;
  call.channels = like.size(1);
  check(static_cast<int64_t>(counts.size()) == call.images,
        "merge_maps: counts are of " + std::to_string(counts.size()) + " images; must be B");
  for (int64_t image = 0; image < call.images; ++image) {
    const auto all = static_cast<int64_t>(call.row_image.size()) + counts[image];
    check(counts[image] >= 0 && all <= static_cast<int64_t>(channels.size()),
          "merge_maps: counts must sum to the number of channels");
    call.row_image.resize(all, static_cast<int32_t>(image));
  }
  check(call.row_image.size() == channels.size(),
        "merge_maps: counts must sum to the number of channels");
  for (const int64_t channel : channels) {
    check(channel >= 0 && channel < call.channels,
          "merge_maps: channels holds " + std::to_string(channel) + "; must be in 0..C-1");
    call.row_channel.push_back(static_cast<int32_t>(channel));
  }
  auto rounded_up = [&](int64_t n) { return (n + align - 1) / align * align; };
  call.full = {size[0], size[1], rounded_up(size[0]), rounded_up(size[1])};
  const int64_t height = (size[0] - 1) / 4 + 1, width = (size[1] - 1) / 4 + 1;
  if (strided) call.small = {height, width, height, width};
  call.kind = static_cast<cuda::MergeKind>(kind);
  call.present_only = present_only;
  const auto small_input =
      strided ? mask_input("small_mask", small_mask, like, call.small) : std::nullopt;
  const auto full_input = mask_input("full_mask", full_mask, like, call.full);
  check(!strided || small_input.has_value() == full_input.has_value(),
        "merge_maps: masks must be given for both sizes");
  call.small_mask = static_cast<const uint8_t*>(const_data(small_input));
  call.full_mask = static_cast<const uint8_t*>(const_data(full_input));
  const auto rows = static_cast<int64_t>(channels.size());
  Tensor small = allocate(like, {strided ? rows : 0, height, width}, kTypes[dtype]);
  Tensor full = allocate(like, {rows, size[0], size[1]}, kTypes[dtype]);
  if (rows == 0) return {small, full};
  call.out_type = element_type(op, full);
  call.small_maps = mutable_data(small);
  call.full_maps = mutable_data(full);
  TorchContext context(op, like);
  cuda::merge_maps(context, call);
  return {small, full};
}
WSSS_IMPL(merge_maps)

}  // namespace wsss
