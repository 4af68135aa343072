#include "saliency_loss.cuh"

#include "../bind/arguments.h"

#include "device.h"
#include "element_type.h"

namespace wsss {
namespace {

using torch::headeronly::ScalarType;

template <class T>
void run(const DeviceCall& call, const SaliencyShape& s, double tau, double lam, bool adaptive, const Tensor& logits,
         const Tensor& saliency, const Tensor& present, int* counts, double* parts, const Tensor* maps, const Tensor& grad,
         const Tensor& loss) {
  using Real = Wide<T>;
  const int64_t pixels = s.images * s.pixels(), channels = s.images * s.channels;
  static_assert(kBlock == kSumThreads);
  const unsigned blocks = blocks_for(pixels);
  int* wrong = counts + 2 * channels;
  unsigned char* mask = reinterpret_cast<unsigned char*>(wrong + 1);
  Role* roles = reinterpret_cast<Role*>(mask + s.channels);
  count_overlap<T><<<blocks, kBlock, 0, call.stream()>>>(s, read<T>(logits), read<Real>(saliency), counts, wrong);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  assign_roles<<<blocks_for(channels), kBlock, 0, call.stream()>>>(s, tau, adaptive, read<unsigned char>(present), mask,
                                                                  counts, roles);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  compare_with_saliency<T><<<blocks, kBlock, 0, call.stream()>>>(
      s, lam, read<T>(logits), read<Real>(saliency), roles, write<Real>(maps[0]), write<Real>(maps[1]),
      write<Real>(maps[2]), write<Real>(grad), parts);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  sum_parts<Real><<<1, kSumThreads, 0, call.stream()>>>(parts, blocks, 1.0 / static_cast<double>(pixels), wrong,
                                                       write<Real>(loss));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// logits [B, K, h, w], saliency [B, H, W], present [B, K - 1] uint8
// -> loss [], foreground, background and estimate [B, h, w], d loss / d logits, of the saliency's dtype
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> saliency_loss(const Tensor& logits_in, const Tensor& saliency_in,
                                                                 const Tensor& present_in, double tau, double lam,
                                                                 bool adaptive,
                                                                 const std::vector<int64_t>& always_background) {
  const Tensor logits = torch::stable::contiguous(logits_in), saliency = torch::stable::contiguous(saliency_in);
  const Tensor present = torch::stable::contiguous(present_in);
  check(saliency.scalar_type() == (logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float),
        "saliency_loss: saliency must be float32, or float64 for float64 logits");
  const SaliencyShape s = saliency_shape(logits, saliency, present, always_background);
  const auto sizes = saliency_map_sizes(s, saliency);
  Tensor maps[3];
  for (Tensor& map : maps) map = torch::stable::new_empty(saliency, {sizes.data(), sizes.size()});
  Tensor grad = torch::stable::new_empty(saliency, logits.sizes());
  Tensor loss = torch::stable::new_empty(saliency, {sizes.data(), size_t{0}});
  DeviceCall call(logits);
  if (logits.numel() == 0) {
    STD_CUDA_CHECK(cudaMemsetAsync(loss.mutable_data_ptr(), 0, loss.element_size(), call.stream()));
    return {loss, maps[0], maps[1], maps[2], grad};
  }
  // Counts, the count of wrong values, the mask and the roles, then the sums.
  const int64_t channels = s.images * s.channels, zeroed = (2 * channels + 1) * static_cast<int64_t>(sizeof(int)) + s.channels;
  double* parts = call.allocate<double>(blocks_for(s.images * s.pixels()) + (zeroed + channels + 7) / 8);
  int* counts = reinterpret_cast<int*>(parts + blocks_for(s.images * s.pixels()));
  STD_CUDA_CHECK(cudaMemsetAsync(counts, 0, zeroed, call.stream()));
  unsigned char* mask = reinterpret_cast<unsigned char*>(counts + 2 * channels + 1);
  for (int64_t k : always_background) STD_CUDA_CHECK(cudaMemsetAsync(mask + k, 1, 1, call.stream()));
  with_element_type("saliency_loss", logits.scalar_type(), [&]<class T>(T) {
    run<T>(call, s, tau, lam, adaptive, logits, saliency, present, counts, parts, maps, grad, loss);
  });
  return {loss, maps[0], maps[1], maps[2], grad};
}

}  // namespace
}  // namespace wsss

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CUDA, m) { WSSS_IMPL(m, "saliency_loss", "CUDA", wsss::saliency_loss); }
