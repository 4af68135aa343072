#include "mean_field.h"

#include "../bind.h"

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
  wsss::check(bilateral.empty() || image.size(1) == 3, "dense_crf: C must be 3");
  Tensor q = torch::stable::new_empty(unary, unary.sizes());
  const wsss::CrfShape shape{height, width, static_cast<int>(unary.size(1)), static_cast<int>(unary.size(2))};
  const bool g = !gaussian.empty(), b = !bilateral.empty();
  const wsss::CrfParameters parameters{g ? static_cast<float>(gaussian[0]) : 1.0f, g ? static_cast<float>(gaussian[2]) : 0.0f,
                                       b ? static_cast<float>(bilateral[0]) : 1.0f, b ? static_cast<float>(bilateral[2]) : 1.0f,
                                       b ? static_cast<float>(bilateral.back()) : 0.0f, iterations};
  wsss::dense_crf_cpu(image.const_data_ptr<float>(), unary.const_data_ptr<float>(), q.mutable_data_ptr<float>(), batch,
                      shape, parameters, static_cast<int>(torch::stable::get_num_threads()));
  return q;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) { WSSS_IMPL(m, "dense_crf", "CPU", dense_crf); }
