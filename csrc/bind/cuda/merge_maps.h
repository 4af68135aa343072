#pragma once

#include "../../cuda/merge_maps.h"

#include "../merge_maps.h"
#include "backend.h"

namespace wsss {

// What the two ops share: the views and the wanted rows.
inline cuda::MergeCall merge_call(const std::vector<Tensor>& views, const Sizes& channels,
                                  const Sizes& counts, const Sizes& size, bool strided) {
  check_views(views);
  check_size(size);
  const Tensor& like = views[0];
  cuda::MergeCall call{};
  call.type = element_type("merge_maps", like);
  for (const Tensor& view : views) {
    check_device("merge_maps", "views", view, like);
    call.views.push_back(output_view(view));
  }
  call.images = like.size(0) / 2;
  call.channels = like.size(1);
  int32_t image = 0;
  for (const auto& own : wanted_channels(channels, counts, like)) {
    call.row_channel.insert(call.row_channel.end(), own.begin(), own.end());
    call.row_image.resize(call.row_channel.size(), image++);
  }
  const Sizes small = strided_size(size);
  if (strided) call.small = {small[0], small[1], small[0], small[1]};
  call.full = {size[0], size[1], size[0], size[1]};
  return call;
}

// Allocates the maps [rows, h, w] (none without small ones) and [rows, H, W], and computes them.
inline std::tuple<Tensor, Tensor> merged(cuda::MergeCall& call, const Tensor& like,
                                         const Sizes& size, int64_t dtype) {
  const auto rows = static_cast<int64_t>(call.row_channel.size());
  const ScalarType type = floating_dtype(dtype);
  const Sizes of_small = strided_size(size);
  Tensor small = allocate(like, {call.small.height ? rows : 0, of_small[0], of_small[1]}, type);
  Tensor full = allocate(like, {rows, size[0], size[1]}, type);
  if (rows == 0) return {small, full};
  call.out_type = element_type("merge_maps", full);
  call.small_maps = mutable_data(small);
  call.full_maps = mutable_data(full);
  TorchContext context("merge_maps", like);
  cuda::merge_maps(context, call);
  return {small, full};
}

// views [2B, C, h, w] each; channels and counts as lists of maps
// -> maps [rows, h, w] (none without `strided`) and [rows, H, W]
inline std::tuple<Tensor, Tensor> merge_maps(
    const std::vector<Tensor>& views, const Sizes& channels, const Sizes& counts, const Sizes& size,
    int64_t align, bool relative, bool strided, int64_t dtype) {
  cuda::MergeCall call = merge_call(views, channels, counts, size, strided);
  check(align >= 1, "merge_maps: align must be >= 1");
  call.full.resized_height = (size[0] + align - 1) / align * align;
  call.full.resized_width = (size[1] + align - 1) / align * align;
  call.kind = relative ? cuda::MergeKind::kRelative : cuda::MergeKind::kSum;
  return merged(call, views[0], size, dtype);
}
WSSS_IMPL(merge_maps)

// The same with masks uint8 [B, h, w] and [B, H, W].
inline std::tuple<Tensor, Tensor> merge_maps_softmax(
    const std::vector<Tensor>& views, const Sizes& channels, const Sizes& counts, const Sizes& size,
    bool strided, bool present_only, const std::optional<Tensor>& small_mask,
    const std::optional<Tensor>& full_mask, int64_t dtype) {
  cuda::MergeCall call = merge_call(views, channels, counts, size, strided);
  const Tensor& like = views[0];
  call.kind = cuda::MergeKind::kSoftmax;
  call.present_only = present_only;
  const auto small =
      strided ? mask_input("small_mask", small_mask, like, strided_size(size)) : std::nullopt;
  const auto full = mask_input("full_mask", full_mask, like, size);
  check_masks(small, full, strided);
  for (const auto& mask : {small, full}) {
    if (mask) check_device("merge_maps", "mask", *mask, like);
  }
  call.small_mask = static_cast<const uint8_t*>(const_data(small));
  call.full_mask = static_cast<const uint8_t*>(const_data(full));
  return merged(call, like, size, dtype);
}
WSSS_IMPL(merge_maps_softmax)

}  // namespace wsss
