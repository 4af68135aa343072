#include "aamr_loss.cuh"

#include "device.h"
#include "element_type.h"

namespace wsss {
namespace {

using torch::headeronly::ScalarType;

template <class T>
void run(DeviceCall& call, const AamrShape& s, double salient, double active, double overlap, const Tensor& logits,
         const Tensor& saliency, const Tensor& response, const Tensor& region, const Tensor& grad, const Tensor& loss) {
  using Real = Wide<T>;
  static_assert(kBlock == kSumThreads);
  const int64_t pixels = s.images * s.pixels();
  const unsigned blocks = blocks_for(pixels);
  // The count of pixels, the blocks' sums; then, in int: parents, sizes of regions, the count of wrong values.
  const int64_t zeroed = (2 * pixels + 1) * static_cast<int64_t>(sizeof(int));
  double* count = call.allocate<double>(1 + blocks + (3 * pixels + 2) / 2);
  double* parts = count + 1;
  int* parents = reinterpret_cast<int*>(parts + blocks);
  int *sizes = parents + pixels, *wrong = sizes + 2 * pixels;
  unsigned char* inside = write<unsigned char>(region);
  const Real* shown = read<Real>(saliency);
  STD_CUDA_CHECK(cudaMemsetAsync(sizes, 0, zeroed, call.stream()));
  mark_pixels<Real><<<blocks, kBlock, 0, call.stream()>>>(s, static_cast<Real>(salient), static_cast<Real>(active), shown,
                                                         read<Real>(response), parents, inside, wrong);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  join_regions<<<blocks, kBlock, 0, call.stream()>>>(s, parents);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  measure_regions<<<blocks, kBlock, 0, call.stream()>>>(s, parents, inside, sizes);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  choose_region<<<blocks, kBlock, 0, call.stream()>>>(s, overlap, parents, sizes, inside, parts);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  sum_parts<double><<<1, kSumThreads, 0, call.stream()>>>(parts, blocks, 1.0, wrong, count);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  compare_in_region<T><<<blocks, kBlock, 0, call.stream()>>>(s, read<T>(logits), shown, inside, count, write<Real>(grad),
                                                            parts);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  sum_parts<Real><<<1, kSumThreads, 0, call.stream()>>>(parts, blocks, 1.0, wrong, write<Real>(loss));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// logits [B, K, h, w], saliency [B, H, W], response [B, H', W']
// -> loss [], region [B, h, w] uint8, d loss / d logits; loss and gradient of the saliency's dtype
std::tuple<Tensor, Tensor, Tensor> aamr_loss(const Tensor& logits_in, const Tensor& saliency_in, const Tensor& response_in,
                                             double salient, double active, double overlap) {
  const Tensor logits = torch::stable::contiguous(logits_in), saliency = torch::stable::contiguous(saliency_in);
  const Tensor response = torch::stable::contiguous(response_in);
  check(logits.dim() == 4 && logits.size(1) >= 2, "aamr_loss: logits is " + shape_text(logits));
  for (const Tensor* map : {&saliency, &response}) {
    check(map->dim() == 3 && map->size(0) == logits.size(0) && (logits.numel() == 0 || map->numel() > 0),
          "aamr_loss: logits is " + shape_text(logits) + " but a map is " + shape_text(*map));
    check(map->scalar_type() == (logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float),
          "aamr_loss: saliency and response must be float32, or float64 for float64 logits");
  }
  const AamrShape s{logits.size(0),   logits.size(1),   logits.size(2),   logits.size(3),
                    saliency.size(1), saliency.size(2), response.size(1), response.size(2)};
  check(s.pixels() <= INT32_MAX, "aamr_loss: logits is " + shape_text(logits) + "; must have fewer than 2^31 pixels an image");
  const int64_t sizes[] = {s.images, s.height, s.width};
  Tensor region = torch::stable::new_empty(saliency, {sizes, 3}, ScalarType::Byte);
  Tensor grad = torch::stable::new_empty(saliency, logits.sizes());
  Tensor loss = torch::stable::new_empty(saliency, {sizes, size_t{0}});
  DeviceCall call(logits);
  if (logits.numel() == 0) {
    STD_CUDA_CHECK(cudaMemsetAsync(loss.mutable_data_ptr(), 0, loss.element_size(), call.stream()));
    return {loss, region, grad};
  }
  with_element_type("aamr_loss", logits.scalar_type(), [&]<class T>(T) {
    run<T>(call, s, salient, active, overlap, logits, saliency, response, region, grad, loss);
  });
  return {loss, region, grad};
}

}  // namespace
}  // namespace wsss

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CUDA, m) { WSSS_IMPL(m, "aamr_loss", "CUDA", wsss::aamr_loss); }
