#include "pixel_loss.cuh"

#include "device.h"
#include "element_type.h"

namespace wsss {
namespace {

using torch::headeronly::ScalarType;

constexpr unsigned kCountBlocks = 512;

template <class T, class Label>
void run(const DeviceCall& call, const PixelLossInput<T, Label>& in, const Tensor& grad, const Tensor& loss, Tensor& log_sums,
         double* counts, double* parts, PixelTotals* totals) {
  using Real = Wide<T>;
  static_assert(kBlock == kSumThreads);
  const unsigned blocks = blocks_for(in.s.images * in.s.pixels());
  const cudaStream_t stream = call.stream();
  const bool pulled = in.s.upsample && grad.numel() > 0;
  count_labels<<<kCountBlocks, kSumThreads, 0, stream>>>(in, counts);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  total_labels<<<1, kSumThreads, 0, stream>>>(counts, kCountBlocks, in.options.balance, totals);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  lose_pixels<<<blocks, kSumThreads, 0, stream>>>(in, totals, in.s.upsample ? nullptr : write<Real>(grad),
                                                  write<Real>(log_sums), parts);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  if (pulled) {
    check(grad.numel() <= INT32_MAX, "wsss_fast: too many elements for one CUDA launch");
    pull_gradient<<<static_cast<unsigned>(grad.numel()), kSumThreads, 0, stream>>>(in, totals, read<Real>(log_sums),
                                                                                  write<Real>(grad));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  sum_losses<Real><<<1, kSumThreads, 0, stream>>>(parts, blocks, totals, write<Real>(loss));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// logits [B, K, h, w], labels [B, H, W] uint8 or int64, present [B, K] uint8 -> loss [], d loss / d logits or empty
std::tuple<Tensor, Tensor> pixel_loss(const char* op, PixelLossKind kind, const Tensor& logits_in, const Tensor& labels_in,
                                      const std::optional<Tensor>& present_in, double smoothing, bool balance,
                                      int64_t ignore_index, bool resize_logits, bool need_grad) {
  const Tensor logits = torch::stable::contiguous(logits_in), labels = torch::stable::contiguous(labels_in);
  const std::string name = op;
  check(logits.dim() == 4 && labels.dim() == 3 && labels.size(0) == logits.size(0),
        name + ": logits is " + shape_text(logits) + " but labels is " + shape_text(labels));
  const bool bytes = labels.scalar_type() == ScalarType::Byte;
  check(bytes || labels.scalar_type() == ScalarType::Long, name + ": labels must be uint8 or int64");
  std::optional<Tensor> present;
  if (present_in) {
    present = torch::stable::contiguous(*present_in);
    check(present->scalar_type() == ScalarType::Byte && present->dim() == 2 && present->size(0) == logits.size(0) &&
              present->size(1) == logits.size(1),
          name + ": present is " + shape_text(*present) + "; must be uint8 [B, K]");
  }
  const bool same = logits.size(2) == labels.size(1) && logits.size(3) == labels.size(2);
  const PixelLossShape s{logits.size(0), logits.size(1), logits.size(2), logits.size(3), labels.size(1), labels.size(2),
                         resize_logits && !same};
  const auto wide = logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const int64_t nothing[] = {0};
  Tensor grad = need_grad ? torch::stable::new_empty(logits, logits.sizes(), wide)
                          : torch::stable::new_empty(logits, {nothing, size_t{1}}, wide);
  Tensor loss = torch::stable::new_empty(logits, {nothing, size_t{0}}, wide);
  DeviceCall call(logits);
  if (logits.numel() == 0) {
    STD_CUDA_CHECK(cudaMemsetAsync(loss.mutable_data_ptr(), 0, loss.element_size(), call.stream()));
    return {loss, grad};
  }
  check(labels.numel() > 0, name + ": labels is empty");
  const int64_t stored[] = {s.upsample && need_grad ? s.images * s.pixels() : 0};
  Tensor log_sums = torch::stable::new_empty(logits, {stored, size_t{1}}, wide);
  double* counts = call.allocate<double>(3 * kCountBlocks);
  double* parts = call.allocate<double>(blocks_for(s.images * s.pixels()));
  PixelTotals* totals = call.allocate<PixelTotals>(1);
  const PixelLossOptions options{smoothing, balance, ignore_index};
  with_element_type(op, logits.scalar_type(), [&]<class T>(T) {
    const auto run_with = [&]<class Label>(Label) {
      const PixelLossInput<T, Label> in{kind,          s, options, read<T>(logits), read<Label>(labels),
                                        read<unsigned char>(present)};
      run<T, Label>(call, in, grad, loss, log_sums, counts, parts, totals);
    };
    bytes ? run_with(uint8_t{}) : run_with(int64_t{});
  });
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
}  // namespace wsss

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CUDA, m) {
  WSSS_IMPL(m, "pixel_cross_entropy", "CUDA", wsss::pixel_cross_entropy);
  WSSS_IMPL(m, "pixel_bce", "CUDA", wsss::pixel_bce);
}
