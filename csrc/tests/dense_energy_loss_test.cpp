// The dense energy loss on the CPU: against its definition on a naive lattice, thread counts,
// invalid values.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "testing.h"

#include "../cpu/dense_energy_loss.cpp"

#include "naive_lattice.h"  // after cpu/simd.h, see math/scalar.h

namespace {

using namespace wsss;
using testing::raises;
using testing::uniform_float;

struct Result {
  double loss = NAN;
  std::vector<float> gradient;
  bool operator==(const Result&) const = default;
};

struct Problem {
  EnergyShape shape;
  EnergyParameters parameters;
  std::vector<float> probabilities, image, roi;
  std::vector<uint8_t> labels;

  // step 0: the reduced pixels cover the image.
  Problem(const EnergyShape& s, float step, bool exact)
      : shape(s),
        parameters{{9.0f, 12.0f, std::vector<float>(3, 20.0f), 0.0, 255.0},
                   step > 0 ? step : static_cast<float>(s.full_height) / s.height,
                   step > 0 ? step : static_cast<float>(s.full_width) / s.width,
                   2.0,
                   exact},
        probabilities(s.images * s.classes * s.full_pixels()),
        image(s.images * 3 * s.pixels()),
        roi(s.images * s.pixels()),
        labels(s.images * s.pixels()) {
    for (float& x : probabilities) x = uniform_float();
    for (size_t i = 0; i < image.size(); ++i) {
      image[i] = std::floor(static_cast<float>(i / 7 % 31) * 8.0f + uniform_float() * 5.0f);
    }
    for (float& x : roi) x = uniform_float() < 0.2f ? 0.0f : 1.5f * uniform_float();
    for (uint8_t& x : labels) x = uniform_float() < 0.5f ? 255 : 1;
  }

  Result compute(int threads, bool needs_gradient = true) const {
    Result r;
    r.gradient.assign(needs_gradient ? probabilities.size() : 0, NAN);
    const EnergyArrays arrays{
        probabilities.data(), image.data(), roi.data(), labels.empty() ? nullptr : labels.data(),
        needs_gradient ? r.gradient.data() : nullptr};
    r.loss = cpu::dense_energy_loss(shape, parameters, arrays, {}, threads);
    return r;
  }

  // Calls use(pixel of the loss, full pixel, weight) for all pairs with a weight.
  template <class Use>
  void each_tap(const Use& use) const {
    const auto tap = [](int64_t i, int64_t source, int64_t size, double step, int side) {
      if (source == size) return std::pair<int64_t, double>{i, side == 0 ? 1.0 : 0.0};
      const double at = (static_cast<double>(i) + 0.5) * step - 0.5;
      const auto low = static_cast<int64_t>(at);
      const double fraction = at - static_cast<double>(low);
      return std::pair<int64_t, double>{
          std::min(low + side, source - 1), side == 0 ? 1 - fraction : fraction};
    };
    for (int64_t i = 0; i < shape.pixels(); ++i) {
      for (int corner = 0; corner < 4; ++corner) {
        const auto [y, u] =
            tap(i / shape.width, shape.full_height, shape.height, parameters.row_step, corner / 2);
        const auto [x, v] =
            tap(i % shape.width, shape.full_width, shape.width, parameters.column_step, corner % 2);
        use(i, y * shape.full_width + x, u * v);
      }
    }
  }

  Result by_definition() const {
    const int64_t n = shape.pixels(), full = shape.full_pixels();
    const BilateralParameters& by = parameters.bilateral;
    std::vector<double> gradient(probabilities.size(), 0.0);
    double loss = 0.0;
    for (int64_t b = 0; b < shape.images; ++b) {
      std::vector<float> features;
      for (int64_t i = 0; i < n; ++i) {
        features.push_back(static_cast<float>(i % shape.width) / by.sx);
        features.push_back(static_cast<float>(i / shape.width) / by.sy);
        for (int c = 0; c < 3; ++c) features.push_back(image[(b * 3 + c) * n + i] / by.levels[c]);
      }
      const testing::NaiveLattice lattice(features, 5);
      std::vector<std::vector<double>> p(shape.classes, std::vector<double>(n, 0.0));
      std::vector<double> gate(n, 0.0);
      for (int64_t k = 0; k < shape.classes; ++k) {
        const float* plane = probabilities.data() + (b * shape.classes + k) * full;
        each_tap([&](int64_t i, int64_t at, double w) { p[k][i] += w * plane[at]; });
        for (int64_t i = 0; i < n; ++i) gate[i] = std::max(gate[i], p[k][i]);
      }
      const double share = -parameters.weight / shape.images, gain = lattice_gain(5);
      for (int64_t i = 0; i < n; ++i) {
        const bool known = !labels.empty() && labels[b * n + i] != 255;
        gate[i] = known ? std::max(0.0, roi[b * n + i] - gate[i]) : 1.0;
      }
      for (int64_t k = 0; k < shape.classes; ++k) {
        std::vector<double> s(n), gated(n);
        for (int64_t i = 0; i < n; ++i) {
          s[i] = roi[b * n + i] * p[k][i];
          gated[i] = gate[i] * s[i];
        }
        const auto filtered = lattice.filter(s), transposed = lattice.filter(gated, true);
        for (int64_t i = 0; i < n; ++i) loss += share * s[i] * gate[i] * gain * filtered[i];
        double* plane = gradient.data() + (b * shape.classes + k) * full;
        each_tap([&](int64_t i, int64_t at, double w) {
          const double t = gate[i] * filtered[i];
          plane[at] +=
              w * share * gain * roi[b * n + i] * (t + (parameters.exact ? transposed[i] : t));
        });
      }
    }
    return {loss, {gradient.begin(), gradient.end()}};
  }
};

bool is_close(const Result& a, const Result& b) {
  double largest = 0, difference = 0;
  for (size_t i = 0; i < b.gradient.size(); ++i) {
    const double d = std::fabs(a.gradient[i] - b.gradient[i]);
    largest = std::fmax(largest, std::fabs(b.gradient[i]));
    if (!(d <= difference)) difference = d;
  }
  return std::fabs(a.loss - b.loss) <= 3e-6 * std::fabs(b.loss) && difference <= 3e-6 * largest;
}

// Equal to the definition; the same for any number of threads, and without a gradient.
bool is_right(const Problem& problem) {
  const EnergyShape& s = problem.shape;
  const Result expected = problem.compute(1);
  const bool passed =
      is_close(expected, problem.by_definition()) && problem.compute(2) == expected &&
      problem.compute(3) == expected && problem.compute(2, false).loss == expected.loss;
  if (!passed) {
    std::printf("failed: %dx%d, %d classes\n", static_cast<int>(s.full_height),
                static_cast<int>(s.full_width), static_cast<int>(s.classes));
  }
  return passed;
}

bool wrong_values_raise() {
  bool passed = true;
  for (const float value : {-0.5f, static_cast<float>(NAN), static_cast<float>(INFINITY)}) {
    Problem problem({2, 3, 5, 6, 5, 6}, 0, false);
    problem.probabilities[40] = value;
    passed = raises([&] { problem.compute(2); }, "are NaN, infinite or below 0") && passed;
  }
  Problem problem({2, 3, 5, 6, 5, 6}, 0, false);
  problem.image[20] = 256.0f;
  return raises([&] { problem.compute(2); }, "image has NaN or values outside") && passed;
}

}  // namespace

int main() {
  bool passed = wrong_values_raise();
  for (const bool exact : {false, true}) {
    passed = is_right(Problem({2, 3, 10, 36, 5, 18}, 2, exact)) && passed;
    passed = is_right(Problem({1, 18, 11, 9, 5, 4}, 0, exact)) && passed;
    passed = is_right(Problem({1, 2, 11, 9, 5, 4}, 2, exact)) && passed;
    passed = is_right(Problem({1, 5, 7, 6, 7, 6}, 0, exact)) && passed;
    passed = is_right(Problem({1, 1, 9, 13, 7, 10}, 1.25f, exact)) && passed;
    Problem ungated({2, 4, 8, 9, 4, 4}, 0, exact);
    ungated.labels.clear();
    passed = is_right(ungated) && passed;
  }
  return wsss::testing::report(passed);
}
