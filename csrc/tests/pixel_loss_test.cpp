// The per-pixel losses: the CPU and CUDA kernels compared with the definition in double, for odd
// sizes, and independence of the order of tasks.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"
#include "testing.h"

#include "../cpu/pixel_loss_kernel.h"
#include "../cuda/pixel_loss.cuh"

namespace {

using wsss::PixelLossKind;

constexpr unsigned kCountBlocks = 3;

using wsss::testing::uniform;

template <class Real>
struct Problem {
  PixelLossKind kind;
  wsss::PixelLossShape s;
  wsss::PixelLossOptions options;
  std::vector<Real> logits;
  std::vector<uint8_t> labels, present;
  const uint8_t* presence() const { return present.empty() ? nullptr : present.data(); }
};

template <class Real>
struct Result {
  double loss = 0;
  std::vector<Real> grad;
  bool operator==(const Result&) const = default;
};

// As Pillow: the centre of pixel i is reached step by step.
int64_t under_centre(int64_t i, int64_t source_size, int64_t size) {
  const double step = static_cast<double>(source_size) / static_cast<double>(size);
  double centre = step * 0.5;
  while (i-- > 0) centre += step;
  return static_cast<int64_t>(centre);
}

// Computes every pixel's logits as weighted sums over all cells, and the gradient by the transpose.
template <class Real>
Result<double> by_definition(const Problem<Real>& p) {
  const auto& s = p.s;
  const int64_t cells = s.height * s.width;
  Result<double> r{0, std::vector<double>(s.images * s.classes * cells)};
  struct Pixel {
    int64_t image, label;
    std::vector<double> of_cell;
  };
  std::vector<Pixel> pixels;
  const auto along = [&](int64_t i, int64_t from, int64_t to) {
    std::vector<double> weight(from);
    if (!s.upsample) {
      weight[i] = 1;
      return weight;
    }
    const double at = std::max(0.0, (i + 0.5) * from / to - 0.5);
    const auto low = static_cast<int64_t>(at);
    weight[low] += 1 - (at - low);
    weight[std::min(low + 1, from - 1)] += at - low;
    return weight;
  };
  double groups[2] = {};
  for (int64_t b = 0; b < s.images; ++b) {
    for (int64_t y = 0; y < s.rows(); ++y) {
      for (int64_t x = 0; x < s.columns(); ++x) {
        const int64_t row = s.upsample ? y : under_centre(y, s.label_height, s.height);
        const int64_t column = s.upsample ? x : under_centre(x, s.label_width, s.width);
        const int64_t label = p.labels[(b * s.label_height + row) * s.label_width + column];
        if (label == p.options.ignore) continue;
        Pixel pixel{b, label, std::vector<double>(cells)};
        const auto down = along(y, s.height, s.rows()), across = along(x, s.width, s.columns());
        for (int64_t c = 0; c < cells; ++c) {
          pixel.of_cell[c] = down[c / s.width] * across[c % s.width];
        }
        pixels.push_back(pixel);
        groups[label != 0] += 1;
      }
    }
  }
  for (const Pixel& pixel : pixels) {
    const double all = groups[0] + groups[1];
    double weight = p.options.balance ? 0.5 / groups[pixel.label != 0] : 1 / all;
    std::vector<double> z(s.classes), slope(s.classes);
    double total = 0, counted = 0;
    for (int64_t k = 0; k < s.classes; ++k) {
      for (int64_t c = 0; c < cells; ++c) {
        z[k] += pixel.of_cell[c] * p.logits[(pixel.image * s.classes + k) * cells + c];
      }
      total += std::exp(z[k]);
      counted += p.present.empty() || p.present[pixel.image * s.classes + k];
    }
    if (p.kind == PixelLossKind::kBinary) weight /= std::max(counted, 1.0);
    for (int64_t k = 0; k < s.classes; ++k) {
      double t =
          k == pixel.label ? 1 - p.options.smoothing : p.options.smoothing / (s.classes - 1.0);
      if (s.classes == 1) t = 1;
      if (p.kind == PixelLossKind::kCrossEntropy) {
        r.loss -= weight * t * (z[k] - std::log(total));
        slope[k] = std::exp(z[k]) / total - t;
      } else if (p.present.empty() || p.present[pixel.image * s.classes + k]) {
        r.loss += weight * (std::log1p(std::exp(z[k])) - t * z[k]);
        slope[k] = 1 / (1 + std::exp(-z[k])) - t;
      }
      for (int64_t c = 0; c < cells; ++c) {
        r.grad[(pixel.image * s.classes + k) * cells + c] += weight * slope[k] * pixel.of_cell[c];
      }
    }
  }
  return r;
}

template <class Real>
Result<Real> on_cpu(const Problem<Real>& p, bool backwards, bool with_grad = true) {
  Result<Real> r{0, std::vector<Real>(p.logits.size(), Real(-9))};
  wsss::PixelLossCpu<Real, uint8_t> work(p.kind, p.s, p.options, p.logits.data(), p.labels.data(),
                                         p.presence(), with_grad ? r.grad.data() : nullptr);
  const auto all = [&](int64_t count, const auto& run) {
    if (!backwards) return run(0, count);
    for (int64_t task = count; task-- > 0;) run(task, task + 1);
  };
  all(work.tasks(), [&](int64_t first, int64_t last) { work.count_labels(first, last); });
  if (work.invalid_label()) return {NAN, {}};
  work.compute_weights();
  all(work.tasks(), [&](int64_t first, int64_t last) { work.compute_losses(first, last); });
  if (p.s.upsample && with_grad) {
    all(p.s.images, [&](int64_t first, int64_t last) { work.reduce_gradients(first, last); });
  }
  r.loss = work.loss();
  return r;
}

template <class Real>
Result<Real> on_device(const Problem<Real>& p) {
  const int64_t pixels = p.s.images * p.s.pixels();
  const unsigned blocks =
      static_cast<unsigned>((pixels + wsss::cuda::kSumThreads - 1) / wsss::cuda::kSumThreads);
  Result<Real> r{0, std::vector<Real>(p.logits.size(), Real(-9))};
  std::vector<int> label_rows(p.s.height), label_columns(p.s.width);
  wsss::cuda::PixelLossInput<Real, uint8_t> in{
      p.kind, p.s, p.options, p.logits.data(), p.labels.data(), p.presence(), nullptr, nullptr};
  if (p.s.downsample()) {
    in.label_rows = label_rows.data();
    in.label_columns = label_columns.data();
    wsss::launch(
        {1}, {2}, [&] { wsss::cuda::find_labels(p.s, label_rows.data(), label_columns.data()); });
  }
  std::vector<double> counts(3 * kCountBlocks), parts(blocks);
  std::vector<wsss::cuda::LogSum<Real>> log_sums(pixels);
  wsss::cuda::PixelTotals totals{};
  const dim3 block{wsss::cuda::kSumThreads};
  wsss::launch_with_barriers(
      {kCountBlocks}, block, [&] { wsss::cuda::count_labels(in, counts.data()); });
  wsss::launch_with_barriers({1}, block, [&] {
    wsss::cuda::total_labels(counts.data(), kCountBlocks, p.options.balance, &totals);
  });
  wsss::launch_with_barriers({blocks}, block, [&] {
    wsss::cuda::compute_pixel_losses(in, &totals, p.s.upsample ? nullptr : r.grad.data(),
                                     p.s.upsample ? log_sums.data() : nullptr, parts.data());
  });
  if (p.s.upsample) {
    // Fewer blocks than logits: each takes several.
    const auto logits = static_cast<int64_t>(r.grad.size());
    wsss::launch_with_barriers({static_cast<unsigned>((logits + 1) / 2)}, block, [&] {
      wsss::cuda::gather_gradient(in, &totals, log_sums.data(), logits, r.grad.data());
    });
  }
  Real loss = 0;
  wsss::launch_with_barriers(
      {1}, block, [&] { wsss::cuda::sum_losses(parts.data(), blocks, &totals, &loss); });
  r.loss = loss;
  return r;
}

template <class Real>
bool is_close(const Result<Real>& a, const Result<double>& b, double tolerance) {
  bool passed = std::fabs(a.loss - b.loss) <= tolerance * std::max(1.0, b.loss);
  for (size_t i = 0; i < a.grad.size(); ++i) {
    passed = passed && std::fabs(a.grad[i] - b.grad[i]) <= tolerance;
  }
  return passed;
}

template <class Real>
bool is_correct(PixelLossKind kind, const wsss::PixelLossShape& s, double smoothing, bool balance,
                bool some_present, double tolerance) {
  Problem<Real> p{kind, s, {smoothing, balance, 255}, {}, {}, {}};
  for (int64_t i = 0; i < s.images * s.classes * s.height * s.width; ++i) {
    p.logits.push_back(static_cast<Real>(8 * uniform() - 4));
  }
  for (int64_t i = 0; i < s.images * s.label_height * s.label_width; ++i) {
    p.labels.push_back(
        uniform() < 0.2 ? 255 : static_cast<uint8_t>(uniform() * static_cast<double>(s.classes)));
  }
  for (int64_t i = 0; some_present && i < s.images * s.classes; ++i) {
    p.present.push_back(uniform() < 0.6);
  }
  const auto exact = by_definition(p);
  const auto one = on_cpu(p, false), device = on_device(p);
  bool passed = one == on_cpu(p, true) && one.loss == on_cpu(p, false, false).loss;
  passed = passed && is_close(one, exact, tolerance) && is_close(device, exact, tolerance);
  if (!wsss::testing::kCompareResults) return passed;
  cuda_on_cpu::reversed = true;
  passed = passed && on_device(p) == device;
  cuda_on_cpu::reversed = false;
  std::fill(p.labels.begin(), p.labels.end(), uint8_t{254});
  passed = passed && std::isnan(on_cpu(p, false).loss);
  passed = passed && (s.upsample || std::isnan(on_device(p).loss));
  if (!passed) {
    std::printf(
        "failed: kind %d, %d classes, %dx%d, labels %dx%d, upsample %d\n", static_cast<int>(kind),
        static_cast<int>(s.classes), static_cast<int>(s.height), static_cast<int>(s.width),
        static_cast<int>(s.label_height), static_cast<int>(s.label_width), s.upsample);
  }
  return passed;
}

}  // namespace

int main() {
  bool passed = true;
  for (const auto kind : {PixelLossKind::kCrossEntropy, PixelLossKind::kBinary}) {
    for (int64_t classes : {1, 4}) {
      for (const wsss::PixelLossShape& s :
           {wsss::PixelLossShape{2, classes, 5, 7, 5, 7, false},
            {1, classes, 3, 4, 9, 13, false},
            {1, classes, 6, 6, 2, 8, false},  // centres on the boundaries of pixels
            {2, classes, 2, 3, 11, 70, true},
            {1, classes, 3, 4, 2, 3, true},
            {1, classes, 1, 3, 6, 1, true}}) {
        passed &= is_correct<float>(kind, s, 0.4, true, false, 3e-6);
        passed &= is_correct<double>(kind, s, 0.0, false, kind == PixelLossKind::kBinary, 1e-12);
      }
    }
  }
  return wsss::testing::report(passed);
}
