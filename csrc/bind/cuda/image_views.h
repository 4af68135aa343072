#pragma once

#include "../../cuda/image_views.h"

#include "../image_views.h"
#include "backend.h"

namespace wsss {

// images [B, H, W, 3] uint8 -> for each scale [B or 2B, 3, h, w] of `dtype`, channels_last
inline std::vector<Tensor> image_views(const Tensor& images_in, const std::vector<double>& scales,
                                       bool mirror, const std::vector<double>& mean,
                                       const std::vector<double>& std, ScalarType dtype,
                                       int64_t order) {
  const Tensor images = views_input(images_in, mean, std, dtype);
  std::vector<Tensor> results;
  std::vector<cuda::ViewArray> views;
  ElementType type = ElementType::kFloat32;
  for (const double scale : scales) {
    const auto size = view_size(images, scale, mirror);
    const Tensor view = allocate_view(images, size, mirror, dtype);
    type = element_type("image_views", view);
    views.push_back({size.first, size.second, mutable_data(view)});
    results.push_back(channels_last(view));
  }
  if (images.size(0) > 0 && !views.empty()) {
    TorchContext context("image_views", images);
    cuda::ViewsCall call{
        images.const_data_ptr<uint8_t>(),
        images.size(0),
        images.size(1),
        images.size(2),
        mirror,
        pass_order("image_views", order),
        type,
        {},
        {}};
    std::copy(mean.begin(), mean.end(), call.mean);
    std::copy(std.begin(), std.end(), call.std);
    cuda::image_views(context, call, views);
  }
  return results;
}
WSSS_IMPL(image_views)

}  // namespace wsss
