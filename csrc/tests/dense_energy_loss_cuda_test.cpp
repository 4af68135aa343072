// The dense energy loss and its gradients on CUDA, compared with the definition in double on naive
// lattices.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <vector>

#include "cuda_on_cpu.h"
#include "cuda_workspace.h"
#include "testing.h"

#include "../cuda/dense_energy_loss.cuh"
#include "../cuda/pixel_lattice.cu"

#include "naive_lattice.h"

namespace {

using namespace wsss;
using namespace wsss::cuda;
using testing::arenas;
using testing::uniform_float;

struct Problem {
  PixelGrid grid;
  int64_t channels, height, width;
  double step[2];  // y, x
  bool has_labels = true;
  std::vector<float> image, probabilities, roi;
  std::vector<uint8_t> labels;

  // step 0: reduced pixels cover the whole image.
  Problem(int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t reduced_height,
          int64_t reduced_width, double step = 0)
      : grid{batch, reduced_height, reduced_width, 3, nullptr, 8, 8, {15, 15, 15}, 0, 255},
        channels(channels),
        height(height),
        width(width),
        step{step > 0 ? step : static_cast<double>(height) / static_cast<double>(reduced_height),
             step > 0 ? step : static_cast<double>(width) / static_cast<double>(reduced_width)},
        image(batch * 3 * grid.pixels()),
        probabilities(batch * channels * height * width),
        roi(batch * grid.pixels()),
        labels(batch * grid.pixels()) {
    for (size_t i = 0; i < image.size(); ++i) {
      image[i] = std::floor(uniform_float() * 40.0f) + static_cast<float>(i % 5) * 30.0f;
    }
    for (float& x : probabilities) x = uniform_float();
    for (float& x : roi) x = uniform_float() < 0.3f ? 0.0f : 0.5f + 0.5f * uniform_float();
    for (uint8_t& x : labels) x = uniform_float() < 0.5f ? 255 : 3;
    grid.image = image.data();
  }
};

struct Result {
  float loss = -7.0f;
  std::vector<float> gradient;
  bool operator==(const Result&) const = default;
};

Result on_device(const Problem& p, bool exact, void* lattice, bool separate, int64_t workspace,
                 bool needs_gradient = true) {
  Result r;
  r.gradient.assign(needs_gradient ? p.probabilities.size() : 0, -7.0f);
  DenseEnergyCall call{
      p.grid,       lattice,
      p.channels,   p.height,
      p.width,      p.step[0],
      p.step[1],    p.probabilities.data(),
      p.roi.data(), p.has_labels ? p.labels.data() : nullptr,
      0.25,         exact,
      &r.loss,      needs_gradient ? r.gradient.data() : nullptr};
  dense_energy_loss({}, call, arenas(separate), workspace);
  return r;
}

// Calls use(reduced pixel, source pixel, weight) for one axis.
void each_weight(int64_t reduced, int64_t source, double step,
                 const std::function<void(int64_t, int64_t, double)>& use) {
  for (int64_t i = 0; i < reduced; ++i) {
    if (reduced == source) {
      use(i, i, 1.0);
      continue;
    }
    const double at = std::max(0.0, (static_cast<double>(i) + 0.5) * step - 0.5);
    const int64_t low = std::min(static_cast<int64_t>(at), source - 1);
    use(i, low, 1.0 - (at - static_cast<double>(low)));
    use(i, std::min(low + 1, source - 1), at - static_cast<double>(low));
  }
}

struct Expected {
  double loss = 0.0;
  std::vector<double> gradient;
};

Expected by_definition(const Problem& p, bool exact) {
  const int64_t n = p.grid.pixels(), w = p.grid.width, plane = p.height * p.width;
  Expected result{0.0, std::vector<double>(p.probabilities.size())};
  for (int64_t b = 0; b < p.grid.batch; ++b) {
    std::vector<float> features;
    for (int64_t i = 0; i < n; ++i) {
      features.push_back(static_cast<float>(i % w) / static_cast<float>(p.grid.sx));
      features.push_back(static_cast<float>(i / w) / static_cast<float>(p.grid.sy));
      for (int c = 0; c < 3; ++c) features.push_back(p.image[(b * 3 + c) * n + i] / 15.0f);
    }
    const testing::NaiveLattice lattice(features, 5);
    std::vector<std::vector<double>> share(p.channels, std::vector<double>(n));
    // Calls use(reduced pixel, source pixel, weight).
    const auto each = [&](const std::function<void(int64_t, int64_t, double)>& use) {
      each_weight(p.grid.height, p.height, p.step[0], [&](int64_t y, int64_t from_y, double a) {
        each_weight(w, p.width, p.step[1], [&](int64_t x, int64_t from_x, double c) {
          use(y * w + x, from_y * p.width + from_x, a * c);
        });
      });
    };
    std::vector<double> gate(n), top(n);
    for (int64_t k = 0; k < p.channels; ++k) {
      const float* from = p.probabilities.data() + (b * p.channels + k) * plane;
      each([&](int64_t to, int64_t at, double weight) { share[k][to] += weight * from[at]; });
      for (int64_t i = 0; i < n; ++i) top[i] = std::max(top[i], share[k][i]);
    }
    for (int64_t i = 0; i < n; ++i) {
      const bool open = !p.has_labels || p.labels[b * n + i] == 255;
      gate[i] = open ? 1.0 : std::max(0.0, p.roi[b * n + i] - top[i]);
    }
    for (int64_t k = 0; k < p.channels; ++k) {
      std::vector<double> s(n), gated(n), slope(n);
      for (int64_t i = 0; i < n; ++i) {
        s[i] = p.roi[b * n + i] * share[k][i];
        gated[i] = gate[i] * s[i];
      }
      const auto forward = lattice.filter(s), backward = lattice.filter(gated, true);
      const double factor = -0.25 / static_cast<double>(p.grid.batch) * lattice_gain(5);
      for (int64_t i = 0; i < n; ++i) {
        const double t = gate[i] * forward[i];
        result.loss += factor * s[i] * t;
        slope[i] = factor * p.roi[b * n + i] * (t + (exact ? backward[i] : t));
      }
      double* to = result.gradient.data() + (b * p.channels + k) * plane;
      each([&](int64_t i, int64_t at, double weight) { to[at] += weight * slope[i]; });
    }
  }
  return result;
}

bool is_correct(const Problem& p, const char* name) {
  bool passed = true;
  const PixelLattice pixels("test", "the", p.grid);
  std::vector<uint64_t> lattice(StoredLattices(pixels).bytes() / 8);
  StoredLattices(pixels, lattice.data()).build({}, arenas(true));
  for (const bool exact : {false, true}) {
    const Result r = on_device(p, exact, nullptr, true, kWorkspaceBytes);
    passed = passed && r == on_device(p, exact, lattice.data(), false, 1) &&
             r.loss == on_device(p, exact, nullptr, true, 1, false).loss;
    if (!testing::kCompareResults) continue;
    cuda_on_cpu::reversed = true;
    passed = passed && r == on_device(p, exact, nullptr, false, 1);
    cuda_on_cpu::reversed = false;
    const Expected expected = by_definition(p, exact);
    double largest = 0.0, worst = std::fabs(r.loss / expected.loss - 1.0);
    for (const double g : expected.gradient) largest = std::max(largest, std::fabs(g));
    for (size_t i = 0; i < r.gradient.size(); ++i) {
      const double error = std::fabs(r.gradient[i] - expected.gradient[i]) / largest;
      worst = error <= worst ? worst : error;  // keeps NaN
    }
    passed = passed && worst <= 4e-6;
    if (!passed) std::printf("failed: %s, exact %d, error %g\n", name, exact, worst);
  }
  return passed;
}

// One NaN makes the loss NaN.
bool nan_is_seen() {
  Problem p(1, 2, 6, 6, 3, 3);
  std::fill(p.roi.begin(), p.roi.end(), 1.0f);
  p.probabilities[7] = NAN;
  if (std::isnan(on_device(p, false, nullptr, true, kWorkspaceBytes).loss)) return true;
  std::puts("failed: a NaN is lost");
  return false;
}

}  // namespace

int main() {
  bool passed = nan_is_seen();
  for (const int64_t channels : {1, 2, 3, 21, 34}) {
    passed &= is_correct(Problem(3, channels, 10, 14, 5, 7), "channels");
  }
  passed &= is_correct(Problem(2, 3, 11, 15, 5, 7), "odd sizes");
  passed &= is_correct(Problem(2, 3, 11, 15, 5, 7, 2.0), "odd sizes, a step of 2");
  passed &= is_correct(Problem(2, 3, 11, 15, 7, 10, 1 / 0.7), "a step of 1 / 0.7");
  passed &= is_correct(Problem(2, 4, 5, 9, 5, 9), "the same size");
  passed &= is_correct(Problem(2, 3, 5, 9, 5, 4), "the same height");
  passed &= is_correct(Problem(1, 2, 33, 40, 3, 4), "far fewer pixels");
  passed &= is_correct(Problem(2, 2, 64, 70, 32, 35), "several blocks");
  Problem plain(2, 5, 8, 6, 4, 3);
  plain.has_labels = false;
  passed &= is_correct(plain, "no labels");
  return testing::report(passed);
}
