// The activation-aware mask refinement loss: the CPU and CUDA kernels compared with the definition
// in double, for odd sizes and winding regions, and independence of the order of tasks.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"
#include "cuda_workspace.h"
#include "testing.h"

#include "../cpu/aamr_loss_kernel.h"
#include "../cuda/aamr_loss.cu"

namespace {

using wsss::testing::uniform;

template <class Real>
struct Problem {
  wsss::AamrShape s;
  double salient, active, overlap;
  std::vector<Real> logits, saliency, response;
};

template <class Real>
struct Result {
  std::vector<unsigned char> region;
  std::vector<Real> grad;
  double loss = 0;

  explicit Result(const wsss::AamrShape& s)
      : region(s.images * s.pixels(), 9), grad(region.size() * s.channels, Real(-9)) {}
  bool operator==(const Result&) const = default;
};

// Finds regions by flood fill, and computes the loss from probabilities.
template <class Real>
Result<double> by_definition(const Problem<Real>& p) {
  const auto& s = p.s;
  Result<double> r(s);
  const int64_t n = s.pixels();
  std::vector<double> target(s.images * n);
  double inside = 0;
  for (int64_t b = 0; b < s.images; ++b) {
    std::vector<bool> salient(n), active(n), seen(n);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t y = i / s.width, x = i % s.width;
      const Real shown =
          p.saliency[(b * s.saliency_height + y * s.saliency_height / s.height) * s.saliency_width +
                     x * s.saliency_width / s.width];
      target[b * n + i] = shown;
      salient[i] = shown >= static_cast<Real>(p.salient);
      active[i] =
          p.response[(b * s.response_height + y * s.response_height / s.height) * s.response_width +
                     x * s.response_width / s.width] >= static_cast<Real>(p.active);
    }
    for (int64_t i = 0; i < n; ++i) {
      if (!salient[i]) r.region[b * n + i] = !active[i];
      if (!salient[i] || seen[i]) continue;
      std::vector<int64_t> found{i};
      seen[i] = true;
      double active_pixels = 0;
      for (size_t next = 0; next < found.size(); ++next) {
        const int64_t y = found[next] / s.width, x = found[next] % s.width;
        active_pixels += active[found[next]];
        for (int64_t v = std::max<int64_t>(y - 1, 0); v <= std::min(y + 1, s.height - 1); ++v) {
          for (int64_t u = std::max<int64_t>(x - 1, 0); u <= std::min(x + 1, s.width - 1); ++u) {
            const int64_t at = v * s.width + u;
            if (!salient[at] || seen[at]) continue;
            seen[at] = true;
            found.push_back(at);
          }
        }
      }
      for (int64_t at : found) {
        r.region[b * n + at] = active_pixels / static_cast<double>(found.size()) >= p.overlap;
      }
    }
    for (int64_t i = 0; i < n; ++i) inside += r.region[b * n + i];
  }
  for (int64_t b = 0; b < s.images; ++b) {
    for (int64_t i = 0; i < n; ++i) {
      const auto at = [&](int64_t k) { return (b * s.channels + k) * n + i; };
      const double t = target[b * n + i], counts = r.region[b * n + i];
      double sum = 0;
      for (int64_t k = 1; k < s.channels; ++k) sum += std::exp(p.logits[at(k)]);
      const double all = sum + std::exp(p.logits[at(0)]), f = sum / all;
      if (counts > 0) r.loss -= (t * std::log(f) + (1 - t) * std::log(1 - f)) / inside;
      r.grad[at(0)] = counts > 0 ? (t - f) / inside : 0;
      for (int64_t k = 1; k < s.channels; ++k) {
        r.grad[at(k)] = counts > 0 ? (f - t) / inside * std::exp(p.logits[at(k)]) / sum : 0;
      }
    }
  }
  return r;
}

template <class Real>
Result<Real> on_cpu(const Problem<Real>& p, bool backwards) {
  Result<Real> r(p.s);
  wsss::AamrLossCpu<Real> work(
      p.s, p.salient, p.active, p.overlap, {p.logits.data(), p.saliency.data(), p.response.data()},
      {r.region.data(), r.grad.data()});
  if (!backwards) work.mark_regions(0, p.s.images);
  for (int64_t b = p.s.images; backwards && b-- > 0;) work.mark_regions(b, b + 1);
  work.reduce_counts();
  if (!backwards) work.compute_losses(0, work.tasks());
  for (int64_t task = work.tasks(); backwards && task-- > 0;) work.compute_losses(task, task + 1);
  r.loss = work.loss();
  return r;
}

template <class Real>
Result<Real> on_device(const Problem<Real>& p) {
  Result<Real> r(p.s);
  Real loss = -9;
  wsss::testing::TestContext context;
  const auto type =
      sizeof(Real) == 8 ? wsss::cuda::ElementType::kFloat64 : wsss::cuda::ElementType::kFloat32;
  wsss::cuda::aamr_loss(
      context, {type, p.s, p.salient, p.active, p.overlap, p.logits.data(), p.saliency.data(),
                p.response.data(), r.region.data(), r.grad.data(), &loss});
  r.loss = loss;
  return r;
}

template <class Real>
bool is_close(const Result<Real>& a, const Result<double>& b, double tolerance) {
  bool passed = a.region == b.region && std::fabs(a.loss - b.loss) <= tolerance;
  for (size_t i = 0; i < a.grad.size(); ++i) {
    passed = passed && std::fabs(a.grad[i] - b.grad[i]) <= tolerance;
  }
  return passed;
}

// `density`: the fraction of pixels that are salient, and active. Near 0.4, 8-connected regions of
// noise wind through the image.
template <class Real>
bool is_correct(const wsss::AamrShape& s, double density, double overlap, double tolerance) {
  Problem<Real> p{s, 1 - density, 1 - density, overlap, {}, {}, {}};
  for (int64_t i = 0; i < s.images * s.channels * s.pixels(); ++i) {
    p.logits.push_back(static_cast<Real>(8 * uniform() - 4));
  }
  for (int64_t i = 0; i < s.images * s.saliency_height * s.saliency_width; ++i) {
    p.saliency.push_back(static_cast<Real>(uniform()));
  }
  for (int64_t i = 0; i < s.images * s.response_height * s.response_width; ++i) {
    p.response.push_back(static_cast<Real>(uniform()));
  }
  const auto exact = by_definition(p);
  const auto one = on_cpu(p, false), device = on_device(p);
  bool passed = one == on_cpu(p, true) && is_close(one, exact, tolerance) &&
                is_close(device, exact, tolerance);
  if (!wsss::testing::kCompareResults) return passed;
  cuda_on_cpu::reversed = true;
  passed = passed && on_device(p) == device;
  cuda_on_cpu::reversed = false;
  auto out_of_range = p, not_a_number = p;
  out_of_range.saliency[0] = Real(1.5);
  not_a_number.response[0] = NAN;
  for (const auto& invalid : {out_of_range, not_a_number}) {
    if (s.pixels() > 100) break;  // large images are slow in the emulator
    passed = passed && std::isnan(on_cpu(invalid, false).loss);
    passed = passed && std::isnan(on_device(invalid).loss);
  }
  if (!passed) {
    std::printf(
        "failed: %d channels, %dx%d, density %g, overlap %g\n", static_cast<int>(s.channels),
        static_cast<int>(s.height), static_cast<int>(s.width), density, overlap);
  }
  return passed;
}

}  // namespace

int main() {
  bool passed = true;
  for (int64_t channels : {2, 21}) {
    for (double density : {0.0, 0.4, 0.7, 1.0}) {
      for (const wsss::AamrShape& s :
           {wsss::AamrShape{2, channels, 5, 7, 13, 20, 4, 9},
            {1, channels, 1, 1, 4, 4, 3, 3},
            {3, channels, 33, 35, 33, 35, 33, 35},
            {1, channels, 8, 8, 4, 4, 16, 16}}) {
        passed &= is_correct<float>(s, density, 0.4, 4e-6);
        passed &= is_correct<double>(s, density, 0.25, 1e-13);
      }
      // Too large for one block to find the regions.
      if (channels == 2)
        passed &= is_correct<float>({2, 2, 65, 64, 33, 70, 65, 64}, density, 0.4, 4e-6);
    }
  }
  return wsss::testing::report(passed);
}
