// Argument checks of merge_maps and merge_maps_softmax.
#pragma once

#include <algorithm>

#include "../math/merge_maps.h"
#include "arguments.h"

namespace wsss {

// views [2B, C, h, w] each, of one dtype
inline void check_views(const std::vector<Tensor>& views) {
  check(!views.empty() && views.size() <= kMostViews,
        "merge_maps: views are " + std::to_string(views.size()) + "; must be 1.." +
            std::to_string(kMostViews));
  const Tensor& like = views[0];
  for (const Tensor& view : views) {
    check(view.dim() == 4 && view.numel() > 0 == (like.numel() > 0) &&
              view.size(0) == like.size(0) && view.size(1) == like.size(1) &&
              view.size(0) % 2 == 0 && view.scalar_type() == like.scalar_type(),
          "merge_maps: a view is " + shape_text(view) + "; all must be [2B, C, h, w] of one dtype");
  }
}

inline OutputView output_view(const Tensor& view) {
  return {const_data(view), view.size(2),   view.size(3),  view.stride(0),
          view.stride(1),   view.stride(2), view.stride(3)};
}

// The wanted channels of each image: `channels` of one image after the other, `counts` of them.
inline std::vector<std::vector<int32_t>> wanted_channels(const Sizes& channels, const Sizes& counts,
                                                         const Tensor& view) {
  check(static_cast<int64_t>(counts.size()) == view.size(0) / 2,
        "merge_maps: counts are of " + std::to_string(counts.size()) + " images; must be B");
  for (const int64_t channel : channels) {
    check(channel >= 0 && channel < view.size(1),
          "merge_maps: channels holds " + std::to_string(channel) + "; must be in 0..C-1");
  }
  std::vector<std::vector<int32_t>> wanted;
  auto next = channels.begin();
  for (const int64_t count : counts) {
    check(count >= 0 && count <= channels.end() - next,
          "merge_maps: counts must sum to the number of channels");
    wanted.emplace_back(next, next + count);
    next += count;
  }
  check(next == channels.end(), "merge_maps: counts must sum to the number of channels");
  return wanted;
}

inline void check_size(const Sizes& size) {
  check(size.size() == 2 && size[0] >= 1 && size[1] >= 1,
        "merge_maps: size must be two integers >= 1");
}

// The place of a dtype in FLOATING_DTYPES of wsss_fast/ops/_arguments.py.
inline ScalarType floating_dtype(int64_t place) {
  static constexpr ScalarType kTypes[] = {
      ScalarType::Half, ScalarType::BFloat16, ScalarType::Float, ScalarType::Double};
  check(place >= 0 && place < 4, "merge_maps: dtype is out of range");
  return kTypes[place];
}

// The sizes of the maps: a quarter of the images' size, and `size`.
inline Sizes strided_size(const Sizes& size) {
  return {(size[0] - 1) / 4 + 1, (size[1] - 1) / 4 + 1};
}

// A mask uint8 [B, height, width], made contiguous, or none.
inline std::optional<Tensor> mask_input(const char* name, const std::optional<Tensor>& mask,
                                        const Tensor& view, const Sizes& size) {
  if (!mask) return std::nullopt;
  check(mask->scalar_type() == ScalarType::Byte &&
            sizes_of(*mask) == Sizes{view.size(0) / 2, size[0], size[1]},
        std::string("merge_maps: ") + name + " is " + shape_text(*mask) +
            "; must be uint8 [B, H, W] of the maps' size");
  return torch::stable::contiguous(*mask);
}

inline void check_masks(const std::optional<Tensor>& small, const std::optional<Tensor>& full,
                        bool strided) {
  check(!strided || small.has_value() == full.has_value(),
        "merge_maps: masks must be given for both sizes");
}

}  // namespace wsss
