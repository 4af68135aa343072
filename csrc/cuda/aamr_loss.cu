#include "aamr_loss.h"

#include "aamr_loss.cuh"

namespace wsss::cuda {
namespace {

template <class T>
void run(Context& context, const AamrLossCall& call) {
  using Real = Wide<T>;
  const Stream stream = stream_of(context);
  const AamrShape& s = call.shape;
  const int64_t pixels = s.images * s.pixels();
  const unsigned blocks = blocks_for(pixels);
  const T* logits = static_cast<const T*>(call.logits);
  const Real* saliency = static_cast<const Real*>(call.saliency);
  const Real* response = static_cast<const Real*>(call.response);
  double* count = context.allocate<double>(1);
  double* parts = context.allocate<double>(blocks);
  int* parents = context.allocate<int>(pixels);
  // Zeros: area and active pixels of regions, and the number of invalid values.
  int* sizes = context.allocate<int>(2 * pixels + 1);
  int* invalid = sizes + 2 * pixels;
  fill_bytes(stream, sizes, 0, (2 * pixels + 1) * sizeof(int));
  launch(stream, blocks, kThreads, mark_pixels<Real>, s, static_cast<Real>(call.salient),
         static_cast<Real>(call.active), saliency, response, parents, call.region, invalid);
  launch(stream, blocks, kThreads, join_regions, s, parents);
  launch(stream, blocks, kThreads, measure_regions, s, parents, call.region, sizes);
  launch_with_barriers(stream, blocks, kSumThreads, choose_region, s, call.overlap, parents, sizes,
                       call.region, parts);
  launch_with_barriers(
      stream, 1, kSumThreads, sum_parts<double>, parts, blocks, 1.0, invalid, count);
  launch_with_barriers(stream, blocks, kSumThreads, compute_region_losses<T>, s, logits, saliency,
                       call.region, count, static_cast<Real*>(call.grad), parts);
  launch_with_barriers(stream, 1, kSumThreads, sum_parts<Real>, parts, blocks, 1.0, invalid,
                       static_cast<Real*>(call.loss));
}

}  // namespace

void aamr_loss(Context& context, const AamrLossCall& call) {
  with_element_type(call.type, [&]<class T>(T) { run<T>(context, call); });
}

}  // namespace wsss::cuda
