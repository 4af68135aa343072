#include "aamr_loss.h"

#include "aamr_loss.cuh"
#include "arena.h"

namespace wsss::cuda {
namespace {

struct AamrWorkspace {
  double* parts;
  RegionTotals* totals;
  RegionWork regions;

  AamrWorkspace(Arena& arena, const AamrShape& s, unsigned blocks, bool small)
      : parts(arena.allocate<double>(blocks)),
        totals(arena.allocate<RegionTotals>(small ? s.images : 1)),
        regions{arena.allocate<int>(s.images * s.pixels()),
                arena.allocate<int>(2 * s.images * s.pixels()),
                arena.allocate<RegionTotals>(small ? 0 : blocks), arena.allocate<int>(2)} {}
};

template <class T>
void run(Context& context, const AamrLossCall& call) {
  using Real = Wide<T>;
  const Stream stream = stream_of(context);
  const AamrShape& s = call.shape;
  const bool small = s.pixels() <= kSmallImage && s.images <= INT32_MAX;
  const unsigned blocks = blocks_for(s.images * s.pixels(), kSumThreads);
  const auto w = workspace_of<AamrWorkspace>(context, s, blocks, small);
  const AamrInput<Real> in{
      s,
      static_cast<Real>(call.salient),
      static_cast<Real>(call.active),
      call.overlap,
      static_cast<const Real*>(call.saliency),
      static_cast<const Real*>(call.response)};
  if (small) {
    launch_with_barriers(stream, static_cast<unsigned>(s.images), kRegionThreads,
                         find_small_regions<Real>, in, w.regions, call.region, w.totals);
  } else {
    launch_with_barriers(
        stream, blocks, kSumThreads, mark_pixels<Real>, in, w.regions, call.region);
    launch(stream, blocks, kSumThreads, join_regions, s, w.regions.parents);
    launch(stream, blocks, kSumThreads, measure_regions, s, w.regions, call.region);
    launch_with_barriers(stream, blocks, kSumThreads, choose_regions, s, call.overlap, w.regions,
                         call.region, w.totals);
  }
  const AamrOutput<Real> out{
      static_cast<Real*>(call.grad), w.parts, w.regions.tickets + 1, static_cast<Real*>(call.loss)};
  launch_with_barriers(
      stream, blocks, kSumThreads, compute_region_losses<T>, in, static_cast<const T*>(call.logits),
      call.region, w.totals, small ? s.images : int64_t{1}, out);
}

}  // namespace

void aamr_loss(Context& context, const AamrLossCall& call) {
  with_element_type(call.type, [&]<class T>(T) { run<T>(context, call); });
}

}  // namespace wsss::cuda
