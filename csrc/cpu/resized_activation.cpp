#include "resized_activation.h"

#include "../bind/stable_abi.h"

namespace {

using wsss::Tensor;
using torch::headeronly::ScalarType;

constexpr int64_t kRows = 32;  // of the result in one task; its first two source rows are stretched anew

template <class Real>
void run(const Tensor& logits, const wsss::ResizeShape& shape, bool softmax, Tensor& result) {
  const int64_t tasks = (shape.out_height + kRows - 1) / kRows;
  const Real* from = logits.const_data_ptr<Real>();
  Real* to = result.mutable_data_ptr<Real>();
  torch::stable::parallel_for(0, logits.size(0) * tasks, 1, [&](int64_t first, int64_t last) {
    wsss::ResizedRows<Real> rows(shape, softmax);
    for (int64_t task = first; task < last; ++task) {
      const int64_t b = task / tasks, y = task % tasks * kRows;
      rows.run(from + b * shape.labels * shape.height * shape.width, y, std::min(y + kRows, shape.out_height),
               to + b * shape.labels * shape.out_height * shape.out_width);
    }
  });
}

// logits [B, K, h, w] -> [B, K, H, W]
Tensor resized_activation(const Tensor& logits_in, const std::vector<int64_t>& size, bool softmax) {
  const Tensor logits = wsss::real_input("resized_activation", "logits", logits_in, logits_in.scalar_type());
  wsss::check(logits.dim() == 4 && size.size() == 2,
              "resized_activation: logits is " + wsss::shape_text(logits) + "; must be [B, K, h, w], size two numbers");
  const wsss::ResizeShape shape{logits.size(1), logits.size(2), logits.size(3), size[0], size[1]};
  const int64_t sizes[] = {logits.size(0), shape.labels, size[0], size[1]};
  Tensor result = torch::stable::new_empty(logits, {sizes, 4});
  if (logits.numel() > 0 && result.numel() > 0) {
    logits.scalar_type() == ScalarType::Double ? run<double>(logits, shape, softmax, result)
                                               : run<float>(logits, shape, softmax, result);
  }
  return torch::stable::to(result, logits_in.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) { WSSS_IMPL(m, "resized_activation", "CPU", resized_activation); }
