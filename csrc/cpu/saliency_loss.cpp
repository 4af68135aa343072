#include "saliency_loss.h"

#include "saliency_loss_kernel.h"

namespace wsss::cpu {

template <class Real>
double saliency_loss(const SaliencyShape& shape, double tau, double lam, bool adaptive,
                     const std::vector<int64_t>& always_background, const SaliencyArrays<Real>& a,
                     const Host& host) {
  SaliencyLossCpu<Real> work(
      shape, tau, lam, adaptive, always_background, {a.logits, a.saliency, a.present},
      {a.foreground, a.background, a.estimate, a.grad});
  if (shape.images >= host.threads()) {
    host.parallel_for(
        shape.images, 1, [&](int64_t first, int64_t last) { work.run_images(first, last); });
  } else {
    host.parallel_for(
        work.tasks(), 1, [&](int64_t first, int64_t last) { work.count_overlap(first, last); });
    for (int64_t b = 0; b < shape.images; ++b) work.assign_roles(b);
    host.parallel_for(
        work.tasks(), 1, [&](int64_t first, int64_t last) { work.compute_losses(first, last); });
  }
  return work.loss();
}

template double saliency_loss(const SaliencyShape&, double, double, bool,
                              const std::vector<int64_t>&, const SaliencyArrays<float>&,
                              const Host&);
template double saliency_loss(const SaliencyShape&, double, double, bool,
                              const std::vector<int64_t>&, const SaliencyArrays<double>&,
                              const Host&);

}  // namespace wsss::cpu
