// The saliency loss: the CPU and CUDA kernels compared with the definition in double, for odd
// sizes, and independence of the order of tasks.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"
#include "cuda_workspace.h"
#include "testing.h"

#include "../cpu/saliency_loss_kernel.h"
#include "../cuda/saliency_loss.cu"

namespace {

using wsss::testing::uniform;

template <class Real>
struct Problem {
  wsss::SaliencyShape s;
  double tau, lam;
  bool adaptive;
  std::vector<int64_t> always;
  std::vector<Real> logits, saliency;
  std::vector<uint8_t> present;
};

template <class Real>
struct Result {
  std::vector<Real> maps[3], grad;
  double loss = 0;

  explicit Result(const wsss::SaliencyShape& s)
      : grad(s.images * s.channels * s.pixels(), Real(-9)) {
    for (auto& map : maps) map.assign(s.images * s.pixels(), Real(-9));
  }
  bool operator==(const Result&) const = default;
};

template <class Real>
Result<double> by_definition(const Problem<Real>& p) {
  const auto& s = p.s;
  Result<double> r(s);
  const int64_t n = s.pixels();
  for (int64_t b = 0; b < s.images; ++b) {
    std::vector<double> q(s.channels * n), target(n);
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t k = 0; k < s.channels; ++k) {
        sum += q[k * n + i] = std::exp(p.logits[(b * s.channels + k) * n + i]);
      }
      for (int64_t k = 0; k < s.channels; ++k) q[k * n + i] /= sum;
      const int64_t y = i / s.width * s.saliency_height / s.height,
                    x = i % s.width * s.saliency_width / s.width;
      target[i] = p.saliency[(b * s.saliency_height + y) * s.saliency_width + x];
    }
    std::vector<double> slope(s.channels, 0.0);
    for (int64_t k = 0; k < s.channels; ++k) {
      bool fore = k > 0 && p.present[b * (s.channels - 1) + k - 1], there = fore || k == 0;
      double area = 0, both = 0;
      for (int64_t i = 0; i < n; ++i) {
        area += (q[k * n + i] > 0.5) + 1e-4;
        both += q[k * n + i] > 0.5 && target[i] > 0.5;
      }
      if (p.adaptive) fore = fore && both / area > p.tau;
      for (int64_t other : p.always) fore = fore && other != k;
      slope[k] = fore ? p.lam : there ? p.lam - 1 : 0;
      for (int64_t i = 0; i < n; ++i) {
        if (k == 0) r.maps[0][b * n + i] = r.maps[1][b * n + i] = 0;
        if (there) r.maps[!fore][b * n + i] += q[k * n + i];
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      double level = 0;
      for (int64_t k = 0; k < s.channels; ++k) level += slope[k] * q[k * n + i];
      const double estimate = r.maps[2][b * n + i] = level + 1 - p.lam,
                   error = estimate - target[i];
      r.loss += error * error / static_cast<double>(s.images * n);
      for (int64_t k = 0; k < s.channels; ++k) {
        r.grad[(b * s.channels + k) * n + i] =
            2 * error / static_cast<double>(s.images * n) * q[k * n + i] * (slope[k] - level);
      }
    }
  }
  return r;
}

template <class Real>
Result<Real> on_cpu(const Problem<Real>& p, int order) {
  Result<Real> r(p.s);
  wsss::SaliencyLossCpu<Real> work(
      p.s, p.tau, p.lam, p.adaptive, p.always,
      {p.logits.data(), p.saliency.data(), p.present.data()},
      {r.maps[0].data(), r.maps[1].data(), r.maps[2].data(), r.grad.data()});
  if (order == 0) {
    work.run_images(0, p.s.images);
  } else {
    for (int64_t task = work.tasks(); task-- > 0;) work.count_overlap(task, task + 1);
    for (int64_t b = 0; b < p.s.images; ++b) work.assign_roles(b);
    for (int64_t task = work.tasks(); task-- > 0;) work.compute_losses(task, task + 1);
  }
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
  wsss::cuda::saliency_loss(
      context, {type, p.s, p.tau, p.lam, p.adaptive, p.always, p.logits.data(), p.saliency.data(),
                p.present.data(), r.maps[0].data(), r.maps[1].data(), r.maps[2].data(),
                r.grad.data(), &loss});
  r.loss = loss;
  return r;
}

template <class Real>
bool is_close(const Result<Real>& a, const Result<double>& b, double tolerance) {
  bool passed = std::fabs(a.loss - b.loss) <= tolerance;
  for (int m = 0; m < 3; ++m) {
    for (size_t i = 0; i < a.maps[m].size(); ++i) {
      passed = passed && std::fabs(a.maps[m][i] - b.maps[m][i]) <= tolerance;
    }
  }
  for (size_t i = 0; i < a.grad.size(); ++i) {
    passed = passed && std::fabs(a.grad[i] - b.grad[i]) <= tolerance;
  }
  return passed;
}

template <class Real>
bool is_correct(const wsss::SaliencyShape& s, bool adaptive, std::vector<int64_t> always,
                double tolerance) {
  Problem<Real> p{s, 0.4, 0.3, adaptive, std::move(always), {}, {}, {}};
  for (int64_t i = 0; i < s.images * s.channels * s.pixels(); ++i) {
    p.logits.push_back(static_cast<Real>(8 * uniform() - 4));
  }
  for (int64_t i = 0; i < s.images * s.saliency_height * s.saliency_width; ++i) {
    p.saliency.push_back(static_cast<Real>(uniform()));
  }
  for (int64_t i = 0; i < s.images * (s.channels - 1); ++i) p.present.push_back(uniform() < 0.5);
  const auto exact = by_definition(p);
  const auto one = on_cpu(p, 0), device = on_device(p);
  bool passed =
      one == on_cpu(p, 1) && is_close(one, exact, tolerance) && is_close(device, exact, tolerance);
  if (!wsss::testing::kCompareResults) return passed;
  cuda_on_cpu::reversed = true;
  passed = passed && on_device(p) == device;
  cuda_on_cpu::reversed = false;
  p.saliency[0] = Real(1.5);  // out of range
  passed = passed && std::isnan(on_cpu(p, 0).loss) && std::isnan(on_device(p).loss);
  if (!passed) {
    std::printf("failed: %d channels, %dx%d, adaptive %d\n", static_cast<int>(s.channels),
                static_cast<int>(s.height), static_cast<int>(s.width), adaptive);
  }
  return passed;
}

}  // namespace

int main() {
  bool passed = true;
  for (int64_t channels : {1, 2, 21}) {
    for (bool adaptive : {true, false}) {
      const std::vector<int64_t> always =
          !adaptive && channels > 1 ? std::vector<int64_t>{1} : std::vector<int64_t>{};
      for (const wsss::SaliencyShape& s :
           {wsss::SaliencyShape{2, channels, 5, 7, 13, 20},
            {1, channels, 1, 1, 4, 4},
            {3, channels, 33, 35, 33, 35},
            {1, channels, 8, 8, 4, 4}}) {
        passed &= is_correct<float>(s, adaptive, always, 2e-6);
        passed &= is_correct<double>(s, adaptive, always, 1e-13);
      }
    }
  }
  // The roles of later classes do not fit into a block's memory.
  passed &= is_correct<float>({2, 2051, 2, 3, 2, 3}, true, {2, 2049}, 2e-6);
  passed &= is_correct<double>({1, 2051, 2, 3, 2, 3}, false, {2, 2049}, 1e-13);
  return wsss::testing::report(passed);
}
