#include "dense_crf.cuh"

#include "device.h"

namespace wsss {
namespace {

// image [B, C, H, W], unary [B, S, L, H, W] -> Q, as unary; the schema is described in wsss_fast/ops/dense_crf.py
Tensor dense_crf(const Tensor& image_in, const Tensor& unary_in, std::vector<double> gaussian,
                 std::vector<double> bilateral, std::vector<double> levels, int64_t iterations) {
  const Tensor image = float_input("dense_crf", "image", image_in, 4);
  const Tensor unary = float_input("dense_crf", "unary", unary_in, 5);
  const int64_t channels = image.size(1), labels = unary.size(2);
  check(image.size(0) == unary.size(0) && image.size(2) == unary.size(3) && image.size(3) == unary.size(4),
        "dense_crf: image is " + shape_text(image) + " but unary is " + shape_text(unary));
  check(labels >= 1 && labels <= 256, "dense_crf: unary has " + std::to_string(labels) + " labels; must be 1..256");
  check(gaussian.empty() || gaussian.size() == 3, "dense_crf: gaussian must be [] or [sx, sy, weight]");
  check(bilateral.empty() || static_cast<int64_t>(bilateral.size()) == channels + 3,
        "dense_crf: bilateral must be [] or [sx, sy, a deviation per channel, weight]");
  check(levels.size() == 2, "dense_crf: levels must be [lowest, highest]");
  Tensor q = torch::stable::new_empty(unary, unary.sizes());
  if (q.numel() == 0) return q;
  cuda::CrfCall call{};
  call.batch = unary.size(0);
  call.height = unary.size(3);
  call.width = unary.size(4);
  call.image_channels = static_cast<int>(channels);
  call.sets = static_cast<int>(unary.size(1));
  call.labels = static_cast<int>(labels);
  call.image = image.const_data_ptr<float>();
  call.unary = unary.const_data_ptr<float>();
  call.q = q.mutable_data_ptr<float>();
  if (!gaussian.empty()) {
    call.gaussian_sx = gaussian[0];
    call.gaussian_sy = gaussian[1];
    call.gaussian_weight = gaussian[2];
  }
  if (!bilateral.empty()) {
    call.bilateral_sx = bilateral[0];
    call.bilateral_sy = bilateral[1];
    call.bilateral_weight = bilateral.back();
    const int64_t kept = std::min<int64_t>(channels, cuda::kMaxDimensions);  // more are refused below
    std::copy_n(bilateral.begin() + 2, kept, call.levels);
  }
  call.lowest = levels[0];
  call.highest = levels[1];
  call.iterations = iterations;
  const DeviceCall device(unary);
  cuda::dense_crf(device.stream(), call, [&](int64_t bytes, const auto& use) { device.with_arena(bytes, use); });
  return q;
}

}  // namespace
}  // namespace wsss

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CUDA, m) { WSSS_IMPL(m, "dense_crf", "CUDA", wsss::dense_crf); }
