// C++-only checks of resizing with activation, for sanitizers: odd sizes against the definition in
// double, rows that do not depend on where a task starts, and the CUDA kernel.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"

#include "../cpu/resized_activation_kernel.h"
#include "../cuda/resized_activation.cuh"

namespace {

uint32_t state = 1;
double uniform() {
  return static_cast<double>((state = state * 1664525u + 1013904223u) >> 8) / 16777216.0;
}

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
bool good(const wsss::ResizeShape& s, bool softmax, double tolerance) {
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
  bool fine = whole == parts;
  // The gradient is the transpose: <grad, J d> = <J^T grad, d>, with J d by central differences of
  // the definition.
  std::vector<Real> grad(size), inner(s.out_height * s.out_width, Real(-9)),
      alone(logits.size(), Real(-9)), together(alone);
  for (Real& x : grad) x = static_cast<Real>(uniform() - 0.5);
  const auto count = static_cast<int64_t>(logits.size());
  wsss::launch({blocks}, {64}, [&] {
    wsss::cuda::sum_products(
        1, s.labels, s.out_height * s.out_width, grad.data(), on_device.data(), inner.data());
  });
  const Real* products = softmax ? inner.data() : nullptr;
  wsss::launch({static_cast<unsigned>((count + 63) / 64)}, {64}, [&] {
    wsss::cuda::gather_cells(s, count, grad.data(), on_device.data(), products, alone.data());
  });
  const int64_t some = std::min<int64_t>(count, 20);  // a block for each cell takes its time here
  wsss::launch_with_barriers(
      {static_cast<unsigned>((some + 2) / 3)}, {wsss::cuda::kSumThreads}, [&] {
        wsss::cuda::gather_cells_by_block(
            s, some, grad.data(), on_device.data(), products, together.data());
      });
  std::vector<double> more(logits), less(logits);
  double by_kernel = 0, by_definition_ = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double d = uniform() - 0.5;
    more[i] += 1e-4 * d, less[i] -= 1e-4 * d;
    by_kernel += d * alone[i];
    fine =
        fine && (i >= some || std::fabs(alone[i] - together[i]) < 1e-5 * (1 + std::fabs(alone[i])));
  }
  const auto after = by_definition(s, more, softmax), before = by_definition(s, less, softmax);
  for (int64_t i = 0; i < size; ++i) by_definition_ += grad[i] * (after[i] - before[i]) / 2e-4;
  fine = fine && std::fabs(by_kernel - by_definition_) <
                     (sizeof(Real) == 8 ? 1e-6 : 1e-4) * (1 + std::fabs(by_definition_));
  const auto exact = by_definition(s, logits, softmax);
  for (int64_t i = 0; i < size; ++i) {
    fine = fine && std::fabs(whole[i] - exact[i]) < tolerance &&
           std::fabs(on_device[i] - exact[i]) < tolerance;
  }
  if (!fine) {
    std::printf("failed: %d labels, %dx%d\n", static_cast<int>(s.labels),
                static_cast<int>(s.out_height), static_cast<int>(s.out_width));
  }
  return fine;
}

}  // namespace

int main() {
  bool fine = true;
  for (int64_t labels : {1, 2, 21}) {
    for (bool softmax : {true, false}) {
      for (int64_t side : {1, 3, 64, 65}) {
        const wsss::ResizeShape up{labels, 4, 5, side, side + 2}, thin{labels, 1, 7, 3, side};
        fine &= good<float>(up, softmax, 5e-6) && good<double>(up, softmax, 1e-12);
        fine &= good<float>(thin, softmax, 5e-6) && good<double>(thin, softmax, 1e-12);
      }
    }
  }
  std::puts(fine ? "ok" : "FAILED");
  return fine ? 0 : 1;
}
