#pragma once

#include "../../cpu/image_views.h"

#include "../image_views.h"
#include "backend.h"

namespace wsss {

// images [B, H, W, 3] uint8 -> for each scale [B or 2B, 3, h, w] of `dtype`, channels_last
inline std::vector<Tensor> image_views(const Tensor& images_in, const std::vector<double>& scales,
                                       bool mirror, const std::vector<double>& mean,
                                       const std::vector<double>& std, ScalarType dtype,
                                       int64_t order) {
  const Tensor images = views_input(images_in, mean, std, dtype);
  Tensor levels = allocate(images, {kChannels, kLevels}, ScalarType::Float);
  float* level = levels.mutable_data_ptr<float>();
  for (int c = 0; c < kChannels; ++c) {
    for (int i = 0; i < kLevels; ++i) level[c * kLevels + i] = normalised_level(i, mean[c], std[c]);
  }
  levels = torch::stable::to(levels, dtype);
  std::vector<Tensor> results;
  std::vector<cpu::ViewArray> views;
  for (const double scale : scales) {
    const auto size = view_size(images, scale, mirror);
    const Tensor view = allocate_view(images, size, mirror, dtype);
    views.push_back({size.first, size.second, mutable_data(view)});
    results.push_back(channels_last(view));
  }
  if (images.size(0) > 0) {
    const cpu::ViewsCall call{
        images.const_data_ptr<uint8_t>(),
        images.size(0),
        images.size(1),
        images.size(2),
        mirror,
        pass_order("image_views", order),
        const_data(levels),
        dtype == ScalarType::Float ? 4 : 2};
    cpu::image_views(call, views, threads());
  }
  return results;
}
WSSS_IMPL(image_views)

}  // namespace wsss
