#include "pixel_loss.h"

#include "../bind/stable_abi.h"

namespace {

using torch::headeronly::ScalarType;
using wsss::PixelLossKind;
using wsss::Tensor;

struct Call {
  const char* op;
  PixelLossKind kind;
  wsss::PixelLossShape shape;
  wsss::PixelLossOptions options;
  const uint8_t* present;
};

template <class Real, class Label>
void run(const Call& call, const Tensor& logits, const Tensor& labels, Tensor& grad, Tensor& loss) {
  Real* grads = grad.numel() ? grad.mutable_data_ptr<Real>() : nullptr;
  wsss::PixelLossCpu<Real, Label> work(call.kind, call.shape, call.options, logits.const_data_ptr<Real>(),
                                       static_cast<const Label*>(labels.const_data_ptr()), call.present, grads);
  const auto parallel = [](int64_t count, const auto& body) { torch::stable::parallel_for(0, count, 1, body); };
  parallel(work.tasks(), [&](int64_t first, int64_t last) { work.count(first, last); });
  if (const auto wrong = work.wrong_label()) {
    throw std::runtime_error(std::string(call.op) + ": labels holds " + std::to_string(*wrong) + "; must be 0.." +
                             std::to_string(call.shape.classes - 1) + " or " + std::to_string(call.options.ignore));
  }
  work.weigh();
  parallel(work.tasks(), [&](int64_t first, int64_t last) { work.lose(first, last); });
  if (call.shape.upsample && grads != nullptr) {
    parallel(call.shape.images, [&](int64_t first, int64_t last) { work.bring_together(first, last); });
  }
  *loss.mutable_data_ptr<Real>() = static_cast<Real>(work.loss());
}

// logits [B, K, h, w], labels [B, H, W] uint8 or int64, present [B, K] uint8 -> loss [], d loss / d logits or empty
std::tuple<Tensor, Tensor> pixel_loss(const char* op, PixelLossKind kind, const Tensor& logits_in, const Tensor& labels_in,
                                      const std::optional<Tensor>& present_in, double smoothing, bool balance,
                                      int64_t ignore_index, bool resize_logits, bool need_grad) {
  const Tensor logits = wsss::real_input(op, "logits", logits_in, logits_in.scalar_type());
  const Tensor labels = torch::stable::contiguous(labels_in);
  const std::string name = op;
  wsss::check(logits.dim() == 4 && labels.dim() == 3 && labels.size(0) == logits.size(0),
              name + ": logits is " + wsss::shape_text(logits) + " but labels is " + wsss::shape_text(labels));
  wsss::check(logits.numel() == 0 || labels.numel() > 0, name + ": labels is empty");
  const bool bytes = labels.scalar_type() == ScalarType::Byte;
  wsss::check(bytes || labels.scalar_type() == ScalarType::Long, name + ": labels must be uint8 or int64");
  const bool same = logits.size(2) == labels.size(1) && logits.size(3) == labels.size(2);
  Call call{op,
            kind,
            {logits.size(0), logits.size(1), logits.size(2), logits.size(3), labels.size(1), labels.size(2),
             resize_logits && !same && logits.numel() > 0},
            {smoothing, balance, ignore_index},
            nullptr};
  std::optional<Tensor> present;
  if (present_in) {
    present = torch::stable::contiguous(*present_in);
    wsss::check(present->scalar_type() == ScalarType::Byte && present->dim() == 2 && present->size(0) == logits.size(0) &&
                    present->size(1) == logits.size(1),
                name + ": present is " + wsss::shape_text(*present) + "; must be uint8 [B, K]");
    if (present->numel()) call.present = present->const_data_ptr<uint8_t>();
  }
  const int64_t nothing[] = {0};
  Tensor grad = need_grad ? torch::stable::new_empty(logits, logits.sizes()) : torch::stable::new_empty(logits, {nothing, size_t{1}});
  Tensor loss = torch::stable::new_empty(logits, {nothing, size_t{0}});
  const bool wide = logits.scalar_type() == ScalarType::Double;
  auto run_as = wide ? bytes ? &run<double, uint8_t> : &run<double, int64_t>
                     : bytes ? &run<float, uint8_t> : &run<float, int64_t>;
  run_as(call, logits, labels, grad, loss);
  return {loss, grad};
}

std::tuple<Tensor, Tensor> pixel_cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing, bool balance,
                                               int64_t ignore_index, bool resize_logits, bool need_grad) {
  return pixel_loss("pixel_cross_entropy", PixelLossKind::kCrossEntropy, logits, labels, std::nullopt, smoothing, balance,
                    ignore_index, resize_logits, need_grad);
}

std::tuple<Tensor, Tensor> pixel_bce(const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& present,
                                     double smoothing, bool balance, int64_t ignore_index, bool resize_logits, bool need_grad) {
  return pixel_loss("pixel_bce", PixelLossKind::kBinary, logits, labels, present, smoothing, balance, ignore_index,
                    resize_logits, need_grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) {
  WSSS_IMPL(m, "pixel_cross_entropy", "CPU", pixel_cross_entropy);
  WSSS_IMPL(m, "pixel_bce", "CPU", pixel_bce);
}
