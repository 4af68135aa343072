#include "saliency_loss.h"

#include "../bind/arguments.h"

namespace {

using torch::headeronly::ScalarType;
using wsss::Tensor;

template <class Real>
void run(const wsss::SaliencyShape& shape, double tau, double lam, bool adaptive, const std::vector<int64_t>& always_background,
         const Tensor& logits, const Tensor& saliency, const Tensor& present, Tensor* maps, Tensor& grad, Tensor& loss) {
  wsss::SaliencyLossCpu<Real> work(
      shape, tau, lam, adaptive, always_background,
      {logits.const_data_ptr<Real>(), saliency.const_data_ptr<Real>(), present.const_data_ptr<uint8_t>()},
      {maps[0].mutable_data_ptr<Real>(), maps[1].mutable_data_ptr<Real>(), maps[2].mutable_data_ptr<Real>(),
       grad.mutable_data_ptr<Real>()});
  if (shape.images >= static_cast<int64_t>(torch::stable::get_num_threads())) {
    torch::stable::parallel_for(0, shape.images, 1, [&](int64_t first, int64_t last) { work.images(first, last); });
  } else {
    torch::stable::parallel_for(0, work.tasks(), 1, [&](int64_t first, int64_t last) { work.count(first, last); });
    for (int64_t b = 0; b < shape.images; ++b) work.assign(b);
    torch::stable::parallel_for(0, work.tasks(), 1, [&](int64_t first, int64_t last) { work.compare(first, last); });
  }
  *loss.mutable_data_ptr<Real>() = static_cast<Real>(work.loss());
}

// logits [B, K, h, w], saliency [B, H, W] or [B, 1, H, W], present [B, K - 1] uint8
// -> loss [], foreground, background and estimate [B, h, w] or [B, 1, h, w], d loss / d logits
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> saliency_loss(const Tensor& logits_in, const Tensor& saliency_in,
                                                                 const Tensor& present_in, double tau, double lam,
                                                                 bool adaptive,
                                                                 const std::vector<int64_t>& always_background) {
  const char* op = "saliency_loss";
  const Tensor logits = wsss::real_input(op, "logits", logits_in, logits_in.scalar_type());
  const Tensor saliency = wsss::real_input(op, "saliency", saliency_in, logits.scalar_type());
  const Tensor present = torch::stable::contiguous(present_in);
  const wsss::SaliencyShape shape = wsss::saliency_shape(logits, saliency, present, always_background);
  const auto sizes = wsss::saliency_map_sizes(shape, saliency);
  Tensor maps[3];
  for (Tensor& map : maps) map = torch::stable::new_empty(logits, {sizes.data(), sizes.size()});
  Tensor grad = torch::stable::new_empty(logits, logits.sizes());
  Tensor loss = torch::stable::new_empty(logits, {sizes.data(), size_t{0}});
  auto run_as = logits.scalar_type() == ScalarType::Double ? &run<double> : &run<float>;
  run_as(shape, tau, lam, adaptive, always_background, logits, saliency, present, maps, grad, loss);
  return {loss, maps[0], maps[1], maps[2], grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) { WSSS_IMPL(m, "saliency_loss", "CPU", saliency_loss); }
