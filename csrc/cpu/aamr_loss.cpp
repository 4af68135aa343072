#include "aamr_loss.h"

#include "aamr_loss_kernel.h"

namespace wsss::cpu {

template <class Real>
double aamr_loss(const AamrShape& shape, double salient, double active, double overlap,
                 const AamrArrays<Real>& a, const Host& host) {
  AamrLossCpu<Real> work(
      shape, salient, active, overlap, {a.logits, a.saliency, a.response}, {a.region, a.grad});
  host.parallel_for(
      shape.images, 1, [&](int64_t first, int64_t last) { work.mark_regions(first, last); });
  work.reduce_counts();
  host.parallel_for(
      work.tasks(), 1, [&](int64_t first, int64_t last) { work.compute_losses(first, last); });
  return work.loss();
}

template double aamr_loss(const AamrShape&, double, double, double, const AamrArrays<float>&,
                          const Host&);
template double aamr_loss(const AamrShape&, double, double, double, const AamrArrays<double>&,
                          const Host&);

}  // namespace wsss::cpu
