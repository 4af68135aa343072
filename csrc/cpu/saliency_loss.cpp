#include "saliency_loss.h"

#include "../bind.h"

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

// logits [B, K, h, w], saliency [B, H, W], present [B, K - 1] uint8
// -> loss [], foreground, background and estimate [B, h, w], d loss / d logits
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> saliency_loss(const Tensor& logits_in, const Tensor& saliency_in,
                                                                 const Tensor& present_in, double tau, double lam,
                                                                 bool adaptive,
                                                                 const std::vector<int64_t>& always_background) {
  const char* op = "saliency_loss";
  const Tensor logits = wsss::real_input(op, "logits", logits_in, logits_in.scalar_type());
  const Tensor saliency = wsss::real_input(op, "saliency", saliency_in, logits.scalar_type());
  const Tensor present = torch::stable::contiguous(present_in);
  wsss::check(logits.dim() == 4 && saliency.dim() == 3 && saliency.size(0) == logits.size(0),
              "saliency_loss: logits is " + wsss::shape_text(logits) + " but saliency is " + wsss::shape_text(saliency));
  wsss::check(present.scalar_type() == ScalarType::Byte && present.dim() == 2 && present.size(0) == logits.size(0) &&
                  present.size(1) == logits.size(1) - 1,
              "saliency_loss: labels is " + wsss::shape_text(present) + "; must be uint8 [B, K - 1]");
  const wsss::SaliencyShape shape{logits.size(0), logits.size(1),   logits.size(2),
                                  logits.size(3), saliency.size(1), saliency.size(2)};
  for (int64_t k : always_background) wsss::check(k >= 1 && k < shape.channels, "saliency_loss: no such background class");
  const int64_t sizes[] = {shape.images, shape.height, shape.width};
  Tensor maps[3];
  for (Tensor& map : maps) map = torch::stable::new_empty(logits, {sizes, 3});
  Tensor grad = torch::stable::new_empty(logits, logits.sizes()), loss = torch::stable::new_empty(logits, {sizes, size_t{0}});
  wsss::check(logits.numel() == 0 || saliency.numel() > 0, "saliency_loss: saliency is empty");
  auto run_as = logits.scalar_type() == ScalarType::Double ? &run<double> : &run<float>;
  run_as(shape, tau, lam, adaptive, always_background, logits, saliency, present, maps, grad, loss);
  return {loss, maps[0], maps[1], maps[2], grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) { WSSS_IMPL(m, "saliency_loss", "CPU", saliency_loss); }
