// The per-pixel losses: the CPU and CUDA kernels compared with the definition in double, for odd
// sizes, and independence of the order of tasks.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <vector>

#include "cuda_on_cpu.h"
#include "cuda_workspace.h"
#include "testing.h"

#include "../cpu/pixel_loss_kernel.h"
#include "../cuda/pixel_loss.cu"

namespace {

using wsss::PixelBalance;
using wsss::PixelLossKind;

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
  std::vector<double> background(s.images), foreground(s.images);
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
        (label == 0 ? background : foreground)[b] += 1;
      }
    }
  }
  const auto total = [](const std::vector<double>& counts) {
    return std::accumulate(counts.begin(), counts.end(), 0.0);
  };
  for (const Pixel& pixel : pixels) {
    const auto& group = pixel.label == 0 ? background : foreground;
    double weight = 1 / (total(background) + total(foreground));
    if (p.options.balance == PixelBalance::kBatch) weight = 0.5 / total(group);
    if (p.options.balance == PixelBalance::kImage) {
      weight = 1 / (group[pixel.image] * static_cast<double>(s.images));
    }
    std::vector<double> z(s.classes), slope(s.classes);
    double exponentials = 0, counted = 0;
    for (int64_t k = 0; k < s.classes; ++k) {
      for (int64_t c = 0; c < cells; ++c) {
        z[k] += pixel.of_cell[c] * p.logits[(pixel.image * s.classes + k) * cells + c];
      }
      exponentials += std::exp(z[k]);
      counted += p.present.empty() || p.present[pixel.image * s.classes + k];
    }
    if (p.kind == PixelLossKind::kBinary) weight /= std::max(counted, 1.0);
    for (int64_t k = 0; k < s.classes; ++k) {
      double t =
          k == pixel.label ? 1 - p.options.smoothing : p.options.smoothing / (s.classes - 1.0);
      if (s.classes == 1) t = 1;
      if (p.kind == PixelLossKind::kCrossEntropy) {
        r.loss -= weight * t * (z[k] - std::log(exponentials));
        slope[k] = std::exp(z[k]) / exponentials - t;
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
Result<Real> on_device(const Problem<Real>& p, bool with_grad = true) {
  Result<Real> r{0, std::vector<Real>(p.logits.size(), Real(-9))};
  Real loss = -9;
  wsss::testing::TestContext context;
  const auto type =
      sizeof(Real) == 8 ? wsss::cuda::ElementType::kFloat64 : wsss::cuda::ElementType::kFloat32;
  wsss::cuda::pixel_loss(
      context, {p.kind, type, true, p.s, p.options, p.logits.data(), p.labels.data(), p.presence(),
                with_grad ? r.grad.data() : nullptr, &loss});
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
bool is_correct(PixelLossKind kind, const wsss::PixelLossShape& s, double smoothing,
                PixelBalance balance, bool some_present, double tolerance) {
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
  passed = passed && on_device(p) == device && on_device(p, false).loss == device.loss;
  cuda_on_cpu::reversed = false;
  std::fill(p.labels.begin(), p.labels.end(), uint8_t{254});
  passed = passed && std::isnan(on_cpu(p, false).loss);
  passed = passed && std::isnan(on_device(p).loss);
  if (!passed) {
    std::printf("failed: kind %d, balance %d, %d classes, %dx%d, labels %dx%d, upsample %d\n",
                static_cast<int>(kind), static_cast<int>(balance), static_cast<int>(s.classes),
                static_cast<int>(s.height), static_cast<int>(s.width),
                static_cast<int>(s.label_height), static_cast<int>(s.label_width), s.upsample);
  }
  return passed;
}

// Of a batch whose gradients do not fit into the workspace at once: those of each image alone,
// divided by the number of images.
bool images_do_not_matter() {
  constexpr int64_t kImages = 8, kClasses = 256, kSize = 34;
  Problem<float> all{
      PixelLossKind::kCrossEntropy,
      {kImages, kClasses, kSize, kSize, kSize + 1, kSize + 1, true},
      {0.0, PixelBalance::kNone, 255},
      {},
      {},
      {}};
  const int64_t logits = kClasses * kSize * kSize, labels = (kSize + 1) * (kSize + 1);
  for (int64_t i = 0; i < kImages * logits; ++i) {
    all.logits.push_back(static_cast<float>(8 * uniform() - 4));
  }
  for (int64_t i = 0; i < kImages * labels; ++i) {
    all.labels.push_back(static_cast<uint8_t>(255 * uniform()));
  }
  const auto together = on_device(all);
  double loss = 0;
  for (int64_t b = 0; b < kImages; ++b) {
    auto one = all;
    one.s.images = 1;
    one.logits.assign(all.logits.begin() + b * logits, all.logits.begin() + (b + 1) * logits);
    one.labels.assign(all.labels.begin() + b * labels, all.labels.begin() + (b + 1) * labels);
    const auto alone = on_device(one);
    loss += alone.loss / kImages;
    for (int64_t i = 0; i < logits; ++i) {
      if (together.grad[b * logits + i] == alone.grad[i] / kImages) continue;
      std::puts("failed: the gradient of an image depends on the others");
      return false;
    }
  }
  return std::fabs(loss - together.loss) < 1e-6;
}

// So many labels that their counts are added up by a kernel of its own.
bool many_labels_are_counted(int64_t images, PixelBalance balance) {
  Problem<double> p{
      PixelLossKind::kCrossEntropy,
      {images, 2, 400, 330, 400, 330, false},
      {0.0, balance, 255},
      {},
      {},
      {}};
  for (int64_t i = 0; i < images * 2 * p.s.pixels(); ++i) p.logits.push_back(2 * uniform());
  for (int64_t i = 0; i < images * p.s.pixels(); ++i) {
    p.labels.push_back(uniform() < 0.1 ? 255 : static_cast<uint8_t>(uniform() < 0.3));
  }
  return is_close(on_device(p), on_cpu(p, false), 1e-12);
}

// A device without memory.
class FullContext : public wsss::testing::TestContext {
 public:
  void* allocate(int64_t) override { throw std::runtime_error("out of memory"); }
};

bool raises_without_memory() {
  const std::vector<float> logits(8, 1.0f);
  const std::vector<uint8_t> labels(24, 1);
  std::vector<float> grad(8, -9.0f);
  float loss = -9;
  for (const bool upsample : {false, true}) {
    const bool raised = wsss::testing::raises(
        [&] {
          FullContext context;
          wsss::cuda::pixel_loss(
              context,
              {PixelLossKind::kBinary,
               wsss::cuda::ElementType::kFloat32,
               true,
               {1, 2, 2, 2, 4, 6, upsample},
               {0.0, PixelBalance::kNone, 255},
               logits.data(),
               labels.data(),
               nullptr,
               grad.data(),
               &loss});
        },
        "out of memory");
    if (!raised || loss != -9 || grad[0] != -9) return false;
  }
  return true;
}

bool nearest_centres_agree() {
  std::vector<int32_t> centres;
  const auto agree = [&](int64_t source_size, int64_t size) {
    centres.resize(size);
    wsss::nearest_centres(source_size, size, centres.data());
    // Of long rows only the end, where sums have the largest errors.
    for (int64_t i = std::max<int64_t>(0, size - 500); i < size; ++i) {
      if (wsss::nearest_centre(i, source_size, size) == centres[i]) continue;
      std::printf("failed: centre %d of %d in %d\n", static_cast<int>(i), static_cast<int>(size),
                  static_cast<int>(source_size));
      return false;
    }
    return true;
  };
  bool passed = agree(999'424, 1'000'003) && agree(3'000'000, 700'000) && agree(1'000'000, 96'000);
  for (int64_t size = 1; size <= 300; size += size < 100 ? 1 : 37) {
    for (int64_t source_size = 1; source_size <= 600; source_size += source_size < 50 ? 1 : 7) {
      passed = passed && agree(source_size, size);
    }
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
            {3, classes, 2, 3, 11, 70, true},
            {1, classes, 3, 4, 2, 3, true},
            {1, classes, 1, 3, 6, 1, true},
            {1, classes, 4, 5, 29, 37, true},     // several cells of a row in a block
            {1, classes, 1, 1, 70, 90, true},     // a cell in several blocks
            {1, classes, 2, 2, 80, 70, true},     // pixels do not fit into a block's memory
            {1, classes, 19, 3, 7, 23, true},     // fewer rows, more columns
            {1, classes, 3, 20, 23, 9, true},     // more rows, fewer columns
            {1, classes, 5, 5, 5, 23, true},      // one axis keeps its size
            {1, classes, 13, 6, 14, 6, true}}) {  // cells without a pixel
        const bool binary = kind == PixelLossKind::kBinary;
        passed &= is_correct<float>(kind, s, 0.4, PixelBalance::kBatch, false, 3e-6);
        if (classes == 1) continue;
        passed &= is_correct<double>(kind, s, 0.0, PixelBalance::kNone, binary, 1e-12);
        if (s.images == 1) continue;
        passed &= is_correct<float>(kind, s, 0.4, PixelBalance::kImage, binary, 3e-6);
        passed &= is_correct<double>(kind, s, 0.0, PixelBalance::kImage, false, 1e-12);
      }
    }
  }
  for (const auto kind : {PixelLossKind::kCrossEntropy, PixelLossKind::kBinary}) {
    const bool binary = kind == PixelLossKind::kBinary;
    // More classes than a block's memory holds.
    passed &= is_correct<float>(
        kind, {1, 61, 2, 2, 9, 11, true}, 0.4, PixelBalance::kBatch, binary, 3e-6);
    passed &= is_correct<double>(
        kind, {1, 61, 2, 2, 9, 11, true}, 0.4, PixelBalance::kBatch, binary, 1e-12);
  }
  passed &= nearest_centres_agree();
  passed &= raises_without_memory();
  if (wsss::testing::kCompareResults) {
    passed &= many_labels_are_counted(1, PixelBalance::kBatch);
    passed &= many_labels_are_counted(2, PixelBalance::kImage);
    passed &= images_do_not_matter();
  }
  return wsss::testing::report(passed);
}
