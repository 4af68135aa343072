// Resizing with activation: the CPU and CUDA kernels compared with the definition in double, for
// odd sizes, and independence of where a task starts.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"
#include "testing.h"

#include "../cpu/resized_activation_kernel.h"
#include "../cuda/resized_activation.cuh"

namespace {

using wsss::testing::uniform;

std::vector<double> by_definition(const wsss::ResizeShape& s, const std::vector<double>& logits,
                                  bool softmax) {
  const int64_t n = s.out_height * s.out_width;
  std::vector<double> z(s.labels * n);
  for (int64_t y = 0; y < s.out_height; ++y) {
    for (int64_t x = 0; x < s.out_width; ++x) {
      auto place = [](int64_t i, int64_t from, int64_t to) {
        return std::clamp(
            (i + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5, 0.0, from - 1.0);
      };
      const double v = place(y, s.height, s.out_height), u = place(x, s.width, s.out_width);
      double sum = 0;
      for (int64_t k = 0; k < s.labels; ++k) {
        double mixed = 0;
        for (int64_t j = 0; j < s.height; ++j) {
          for (int64_t i = 0; i < s.width; ++i) {
            const double tent =
                std::max(0.0, 1 - std::fabs(v - j)) * std::max(0.0, 1 - std::fabs(u - i));
            mixed += tent * logits[(k * s.height + j) * s.width + i];
          }
        }
        z[k * n + y * s.out_width + x] = softmax ? std::exp(mixed) : 1 / (1 + std::exp(-mixed));
        sum += std::exp(mixed);
      }
      for (int64_t k = 0; softmax && k < s.labels; ++k) z[k * n + y * s.out_width + x] /= sum;
    }
  }
  return z;
}

template <class Real>
bool is_correct(const wsss::ResizeShape& s, bool softmax, double tolerance) {
  std::vector<double> logits(s.labels * s.height * s.width);
  for (double& x : logits) x = 8 * uniform() - 4;
  const std::vector<Real> rounded(logits.begin(), logits.end());
  const int64_t size = s.labels * s.out_height * s.out_width;
  std::vector<Real> whole(size, Real(-1)), parts(size, Real(-1));
  wsss::ResizedRows<Real> rows(s, softmax);
  rows.run(rounded.data(), 0, s.out_height, whole.data());
  for (int64_t y = s.out_height; y-- > 0;) rows.run(rounded.data(), y, y + 1, parts.data());
  std::vector<Real> on_device(size, Real(-1));
  const auto blocks = static_cast<unsigned>((s.out_height * s.out_width + 63) / 64);
  wsss::launch({blocks}, {64}, [&] {
    wsss::cuda::resize_and_activate(s, 1, softmax, rounded.data(), on_device.data());
  });
  bool passed = whole == parts;
  // The gradient is the transpose: <grad, J d> = <J^T grad, d>, with J d by central
  // differences of the definition.
  std::vector<Real> grad(size), inner(s.out_height * s.out_width, Real(-9)),
      by_thread(logits.size(), Real(-9)), by_block(by_thread);
  for (Real& x : grad) x = static_cast<Real>(uniform() - 0.5);
  const auto count = static_cast<int64_t>(logits.size());
  wsss::launch({blocks}, {64}, [&] {
    wsss::cuda::sum_products(
        1, s.labels, s.out_height * s.out_width, grad.data(), on_device.data(), inner.data());
  });
  const Real* products = softmax ? inner.data() : nullptr;
  wsss::launch({static_cast<unsigned>((count + 63) / 64)}, {64}, [&] {
    wsss::cuda::gather_cells(s, count, grad.data(), on_device.data(), products, by_thread.data());
  });
  const int64_t some = std::min<int64_t>(count, 7);  // a block per cell is slow in the emulator
  wsss::launch_with_barriers(
      {static_cast<unsigned>((some + 2) / 3)}, {wsss::cuda::kSumThreads}, [&] {
        wsss::cuda::gather_cells_by_block(
            s, some, grad.data(), on_device.data(), products, by_block.data());
      });
  if (!wsss::testing::kCompareResults) return passed;
  std::vector<double> more(logits), less(logits);
  double by_kernel = 0, expected = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double d = uniform() - 0.5;
    more[i] += 1e-4 * d, less[i] -= 1e-4 * d;
    by_kernel += d * by_thread[i];
    passed =
        passed &&
        (i >= some || std::fabs(by_thread[i] - by_block[i]) < 1e-5 * (1 + std::fabs(by_thread[i])));
  }
  const auto after = by_definition(s, more, softmax), before = by_definition(s, less, softmax);
  for (int64_t i = 0; i < size; ++i) expected += grad[i] * (after[i] - before[i]) / 2e-4;
  passed = passed && std::fabs(by_kernel - expected) <
                         (sizeof(Real) == 8 ? 1e-6 : 1e-4) * (1 + std::fabs(expected));
  const auto exact = by_definition(s, logits, softmax);
  for (int64_t i = 0; i < size; ++i) {
    passed = passed && std::fabs(whole[i] - exact[i]) < tolerance &&
             std::fabs(on_device[i] - exact[i]) < tolerance;
  }
  if (!passed) {
    std::printf("failed: %d labels, %dx%d\n", static_cast<int>(s.labels),
                static_cast<int>(s.out_height), static_cast<int>(s.out_width));
  }
  return passed;
}

}  // namespace

int main() {
  bool passed = true;
  for (int64_t labels : {1, 2, 21}) {
    for (bool softmax : {true, false}) {
      for (int64_t side : {1, 3, 64, 65}) {
        const wsss::ResizeShape up{labels, 4, 5, side, side + 2}, thin{labels, 1, 7, 3, side};
        passed &= is_correct<float>(up, softmax, 5e-6) && is_correct<double>(up, softmax, 1e-12);
        passed &=
            is_correct<float>(thin, softmax, 5e-6) && is_correct<double>(thin, softmax, 1e-12);
      }
    }
  }
  return wsss::testing::report(passed);
}
