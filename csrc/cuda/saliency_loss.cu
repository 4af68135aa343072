#include "saliency_loss.h"

#include "arena.h"
#include "saliency_loss.cuh"

namespace wsss::cuda {
namespace {

struct SaliencyWorkspace {
  int64_t numbers;
  int* counts;           // [numbers], 0 at first: of classes, of invalid values, and a ticket
  unsigned char* later;  // AlwaysBackground's
  double* parts;

  SaliencyWorkspace(Arena& arena, const SaliencyShape& s, unsigned blocks)
      : numbers(2 * s.images * s.channels + 2),
        counts(arena.allocate<int>(numbers)),
        later(arena.allocate<unsigned char>(s.channels > kSharedRoles ? s.channels : 0)),
        parts(arena.allocate<double>(blocks)) {}
};

template <class T>
void run(Context& context, const SaliencyLossCall& call) {
  using Real = Wide<T>;
  const Stream stream = stream_of(context);
  const SaliencyShape& s = call.shape;
  const unsigned per_image = blocks_for(s.pixels(), kSumThreads),
                 blocks = blocks_for(s.images * int64_t{per_image}, 1);
  const auto w = workspace_of<SaliencyWorkspace>(context, s, blocks);
  int *invalid = w.counts + w.numbers - 2, *ticket = invalid + 1;
  fill_bytes(stream, w.counts, 0, w.numbers * sizeof(int));
  if (s.channels > kSharedRoles) fill_bytes(stream, w.later, 0, s.channels);
  RoleRule rule{call.tau, call.adaptive, call.present, {{}, w.later}};
  for (const int64_t k : call.always_background) {
    if (k < kSharedRoles) {
      rule.always.bits[k / 32] |= uint32_t{1} << (k % 32);
    } else {
      fill_bytes(stream, w.later + k, 1, 1);
    }
  }
  const T* logits = static_cast<const T*>(call.logits);
  const Real* saliency = static_cast<const Real*>(call.saliency);
  launch_with_barriers(stream, blocks, kSumThreads, count_overlap<T>, s, per_image, logits,
                       saliency, w.counts, invalid);
  const SaliencyOutput<Real> out{
      static_cast<Real*>(call.foreground),
      static_cast<Real*>(call.background),
      static_cast<Real*>(call.estimate),
      static_cast<Real*>(call.grad),
      w.parts,
      ticket,
      static_cast<Real*>(call.loss)};
  launch_with_barriers(
      stream, blocks, kSumThreads, compute_saliency_losses<T>, s, per_image, call.lam, rule, logits,
      saliency, static_cast<const int*>(w.counts), static_cast<const int*>(invalid), out);
}

}  // namespace

void saliency_loss(Context& context, const SaliencyLossCall& call) {
  with_element_type(call.type, [&]<class T>(T) { run<T>(context, call); });
}

}  // namespace wsss::cuda
