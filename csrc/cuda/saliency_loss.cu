#include "saliency_loss.h"

#include "saliency_loss.cuh"

namespace wsss::cuda {
namespace {

template <class T>
void run(Context& context, const SaliencyLossCall& call) {
  using Real = Wide<T>;
  const Stream stream = stream_of(context);
  const SaliencyShape& s = call.shape;
  const int64_t pixels = s.images * s.pixels(), channels = s.images * s.channels;
  const unsigned blocks = blocks_for(pixels);
  const T* logits = static_cast<const T*>(call.logits);
  const Real* saliency = static_cast<const Real*>(call.saliency);
  double* parts = context.allocate<double>(blocks);
  // Zeros: counts, the number of invalid values and the mask.
  const int64_t zeroed = (2 * channels + 1) * static_cast<int64_t>(sizeof(int)) + s.channels;
  int* counts = static_cast<int*>(context.allocate(zeroed));
  int* invalid = counts + 2 * channels;
  unsigned char* mask = reinterpret_cast<unsigned char*>(invalid + 1);
  Role* roles = context.allocate<Role>(channels);
  fill_bytes(stream, counts, 0, zeroed);
  for (int64_t k : call.always_background) fill_bytes(stream, mask + k, 1, 1);
  launch(stream, blocks, kThreads, count_overlap<T>, s, logits, saliency, counts, invalid);
  launch(stream, blocks_for(channels), kThreads, assign_roles, s, call.tau, call.adaptive,
         call.present, mask, counts, roles);
  launch_with_barriers(
      stream, blocks, kSumThreads, compute_saliency_losses<T>, s, call.lam, logits, saliency, roles,
      static_cast<Real*>(call.foreground), static_cast<Real*>(call.background),
      static_cast<Real*>(call.estimate), static_cast<Real*>(call.grad), parts);
  launch_with_barriers(stream, 1, kSumThreads, sum_parts<Real>, parts, blocks,
                       1.0 / static_cast<double>(pixels), invalid, static_cast<Real*>(call.loss));
}

}  // namespace

void saliency_loss(Context& context, const SaliencyLossCall& call) {
  with_element_type(call.type, [&]<class T>(T) { run<T>(context, call); });
}

}  // namespace wsss::cuda
