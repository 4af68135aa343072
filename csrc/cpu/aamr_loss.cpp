#include "aamr_loss.h"

#include "../bind/stable_abi.h"

namespace {

using torch::headeronly::ScalarType;
using wsss::Tensor;

template <class Real>
void run(const wsss::AamrShape& shape, double salient, double active, double overlap, const Tensor& logits,
         const Tensor& saliency, const Tensor& response, Tensor& region, Tensor& grad, Tensor& loss) {
  wsss::AamrLossCpu<Real> work(
      shape, salient, active, overlap,
      {logits.const_data_ptr<Real>(), saliency.const_data_ptr<Real>(), response.const_data_ptr<Real>()},
      {region.mutable_data_ptr<uint8_t>(), grad.mutable_data_ptr<Real>()});
  torch::stable::parallel_for(0, shape.images, 1, [&](int64_t first, int64_t last) { work.mark(first, last); });
  work.settle();
  torch::stable::parallel_for(0, work.tasks(), 1, [&](int64_t first, int64_t last) { work.compare(first, last); });
  *loss.mutable_data_ptr<Real>() = static_cast<Real>(work.loss());
}

// logits [B, K, h, w], saliency [B, H, W], response [B, H', W'] -> loss [], region [B, h, w] uint8, d loss / d logits
std::tuple<Tensor, Tensor, Tensor> aamr_loss(const Tensor& logits_in, const Tensor& saliency_in, const Tensor& response_in,
                                             double salient, double active, double overlap) {
  const char* op = "aamr_loss";
  const Tensor logits = wsss::real_input(op, "logits", logits_in, logits_in.scalar_type());
  const Tensor saliency = wsss::real_input(op, "saliency", saliency_in, logits.scalar_type());
  const Tensor response = wsss::real_input(op, "response", response_in, logits.scalar_type());
  wsss::check(logits.dim() == 4 && logits.size(1) >= 2, "aamr_loss: logits is " + wsss::shape_text(logits));
  for (const Tensor* map : {&saliency, &response}) {
    wsss::check(map->dim() == 3 && map->size(0) == logits.size(0) && (logits.numel() == 0 || map->numel() > 0),
                "aamr_loss: logits is " + wsss::shape_text(logits) + " but a map is " + wsss::shape_text(*map));
  }
  const wsss::AamrShape shape{logits.size(0),   logits.size(1),   logits.size(2),   logits.size(3),
                              saliency.size(1), saliency.size(2), response.size(1), response.size(2)};
  const int64_t sizes[] = {shape.images, shape.height, shape.width};
  Tensor region = torch::stable::new_empty(logits, {sizes, 3}, ScalarType::Byte);
  Tensor grad = torch::stable::new_empty(logits, logits.sizes()), loss = torch::stable::new_empty(logits, {sizes, size_t{0}});
  auto run_as = logits.scalar_type() == ScalarType::Double ? &run<double> : &run<float>;
  run_as(shape, salient, active, overlap, logits, saliency, response, region, grad, loss);
  return {loss, region, grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) { WSSS_IMPL(m, "aamr_loss", "CPU", aamr_loss); }
