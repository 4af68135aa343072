#include "mean_field.h"

#include "../bind/stable_abi.h"

namespace {

using wsss::Tensor;

// image [B, C, H, W], unary [B, S, L, H, W] -> Q, as unary; the schema is described in wsss_fast/ops/dense_crf.py
Tensor dense_crf(const Tensor& image_in, const Tensor& unary_in, std::vector<double> gaussian,
                 std::vector<double> bilateral, std::vector<double> levels, int64_t iterations) {
  const Tensor image = wsss::float_input("dense_crf", "image", image_in, 4);
  const Tensor unary = wsss::float_input("dense_crf", "unary", unary_in, 5);
  const int64_t batch = unary.size(0), height = unary.size(3), width = unary.size(4);
  wsss::check(image.size(0) == batch && image.size(2) == height && image.size(3) == width,
              "dense_crf: image is " + wsss::shape_text(image) + " but unary is " + wsss::shape_text(unary));
  const size_t channels = static_cast<size_t>(image.size(1));
  wsss::check(gaussian.empty() || gaussian.size() == 3, "dense_crf: gaussian must be [] or [sx, sy, weight]");
  wsss::check(bilateral.empty() || bilateral.size() == channels + 3,
              "dense_crf: bilateral must be [] or [sx, sy, a deviation per channel, weight]");
  wsss::check(channels + 2 <= wsss::kMaxDimensions, "dense_crf: image has too many channels");
  wsss::check(levels.size() == 2, "dense_crf: levels must be [lowest, highest]");
  Tensor q = torch::stable::new_empty(unary, unary.sizes());
  const wsss::CrfShape shape{height, width, static_cast<int>(channels), static_cast<int>(unary.size(1)),
                             static_cast<int>(unary.size(2))};
  wsss::CrfParameters parameters{};
  parameters.iterations = iterations;
  parameters.lowest = levels[0];
  parameters.highest = levels[1];
  if (!gaussian.empty()) {
    parameters.gaussian_sx = static_cast<float>(gaussian[0]);
    parameters.gaussian_sy = static_cast<float>(gaussian[1]);
    parameters.gaussian_weight = static_cast<float>(gaussian[2]);
  }
  if (!bilateral.empty()) {
    parameters.bilateral_sx = static_cast<float>(bilateral[0]);
    parameters.bilateral_sy = static_cast<float>(bilateral[1]);
    parameters.bilateral_levels.assign(bilateral.begin() + 2, bilateral.end() - 1);
    parameters.bilateral_weight = static_cast<float>(bilateral.back());
  }
  wsss::dense_crf_cpu(image.const_data_ptr<float>(), unary.const_data_ptr<float>(), q.mutable_data_ptr<float>(), batch,
                      shape, parameters, static_cast<int>(torch::stable::get_num_threads()));
  return q;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) { WSSS_IMPL(m, "dense_crf", "CPU", dense_crf); }
