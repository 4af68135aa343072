// The bilateral filter on the CPU: against its definition on a naive lattice, thread counts, stored
// lattices.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "testing.h"

#include "../cpu/bilateral_filter.cpp"

#include "naive_lattice.h"  // after cpu/simd.h, see math/scalar.h

namespace {

using namespace wsss;
using cpu::FilterShape;
using testing::raises;
using testing::uniform_float;

struct Problem {
  FilterShape shape;
  BilateralParameters parameters;
  std::vector<float> image, values;

  Problem(FilterShape s, int colours, float sxy, float srgb)
      : shape(s),
        parameters{sxy, sxy + 1.0f, std::vector<float>(colours, srgb), 0.0, 255.0},
        image(s.batch * colours * pixels()),
        values(s.batch * s.channels * pixels()) {
    // Colours that change from tile to tile, so that points share vertices.
    for (size_t i = 0; i < image.size(); ++i) {
      image[i] = std::floor(static_cast<float>(i / 7 % 31) * 8.0f + uniform_float() * 5.0f);
    }
    for (float& x : values) x = uniform_float() - 0.25f;
  }

  int64_t pixels() const { return shape.height * shape.width; }

  std::vector<int32_t> lattice(int threads) const {
    std::vector<int32_t> array;
    cpu::bilateral_lattice(image.data(), shape.batch, shape.height, shape.width, parameters,
                           threads, [&](int64_t count) {
                             array.assign(count, -threads);
                             return array.data();
                           });
    return array;
  }

  std::vector<float> filter(int threads, bool transpose, const LatticeArray& lattice = {}) const {
    std::vector<float> out(values.size(), NAN);
    cpu::bilateral_filter(
        values.data(), image.data(), lattice, out.data(), shape, parameters, transpose, threads);
    return out;
  }

  std::vector<float> by_definition(bool transpose) const {
    const int colours = parameters.channels(), d = parameters.dimensions();
    const int64_t n = pixels();
    std::vector<float> out;
    for (int64_t b = 0; b < shape.batch; ++b) {
      std::vector<float> features;
      for (int64_t i = 0; i < n; ++i) {
        features.push_back(static_cast<float>(i % shape.width) / parameters.sx);
        features.push_back(static_cast<float>(i / shape.width) / parameters.sy);
        for (int c = 0; c < colours; ++c) {
          features.push_back(image[(b * colours + c) * n + i] / parameters.levels[c]);
        }
      }
      const testing::NaiveLattice lattice(features, d);
      for (int64_t k = 0; k < shape.channels; ++k) {
        const float* plane = values.data() + (b * shape.channels + k) * n;
        for (const double x : lattice.filter({plane, plane + n}, transpose)) {
          out.push_back(static_cast<float>(x * lattice_gain(d)));
        }
      }
    }
    return out;
  }
};

bool are_close(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0, difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::fmax(largest, std::fabs(b[i]));
    if (!(std::fabs(a[i] - b[i]) <= difference)) difference = std::fabs(a[i] - b[i]);
  }
  return a.size() == b.size() && difference <= 3e-6 * largest;
}

bool equals_definition(const Problem& problem) {
  bool passed = true;
  for (const bool transpose : {false, true}) {
    passed = passed && are_close(problem.filter(1, transpose), problem.by_definition(transpose));
  }
  if (!passed) {
    std::printf("failed: definition, %dx%d, %d channels\n", static_cast<int>(problem.shape.height),
                static_cast<int>(problem.shape.width), static_cast<int>(problem.shape.channels));
  }
  return passed;
}

// Any number of threads and a stored lattice give exactly the same.
bool is_repeatable(const Problem& problem) {
  const auto expected = problem.filter(1, true);
  const auto array = problem.lattice(1);
  const LatticeArray lattice{array.data(), static_cast<int64_t>(array.size())};
  bool passed = problem.filter(1, true, lattice) == expected;
  for (const int threads : {2, 3}) {
    passed = passed && problem.filter(threads, true) == expected;
    passed = passed && problem.filter(threads, true, lattice) == expected;
    passed = passed && problem.lattice(threads) == array;
  }
  if (!passed) std::puts("failed: threads");
  return passed;
}

bool wrong_arguments_raise() {
  const Problem problem({2, 2, 5, 6}, 3, 4.0f, 9.0f);
  auto array = problem.lattice(1);
  const auto filtered = [&](const Problem& by, int64_t size) {
    return [&array, &by, size] { by.filter(2, false, {array.data(), size}); };
  };
  const int64_t size = static_cast<int64_t>(array.size());
  const char* message = "the lattice is not one of these images";
  const Problem turned({2, 2, 6, 5}, 3, 4.0f, 9.0f), single({1, 2, 5, 6}, 3, 4.0f, 9.0f);
  const Problem softer({2, 2, 5, 6}, 3, 4.0f, 8.0f), gray({2, 2, 5, 6}, 1, 4.0f, 9.0f);
  bool passed = raises(filtered(problem, size - 1), message);
  for (const int64_t less : {int64_t{1}, int64_t{3}, int64_t{40}}) {
    passed = raises(filtered(problem, less), message) && passed;
  }
  for (const Problem* other : {&turned, &single, &softer, &gray}) {
    passed = raises(filtered(*other, size), message) && passed;
  }
  array[0] += 1;
  passed = raises(filtered(problem, size), message) && passed;
  for (const float level : {256.0f, -1.0f, NAN}) {
    Problem wrong = problem;
    wrong.image[37] = level;
    const char* outside = "image has NaN or values outside its levels";
    passed = raises([&] { wrong.lattice(2); }, outside) && passed;
    passed = raises([&] { wrong.filter(2, false); }, outside) && passed;
  }
  return passed;
}

}  // namespace

int main() {
  bool passed = wrong_arguments_raise();
  for (const int64_t channels : {1, 3, 21}) {
    passed = equals_definition(Problem({2, channels, 9, 13}, 3, 5.0f, 20.0f)) && passed;
  }
  for (const int colours : {1, 2, 5}) {
    passed = equals_definition(Problem({1, 2, 17, 8}, colours, 9.0f, 30.0f)) && passed;
  }
  passed = equals_definition(Problem({1, 2, 1, 50}, 3, 9.0f, 30.0f)) && passed;
  passed = is_repeatable(Problem({3, 5, 11, 10}, 3, 5.0f, 20.0f)) && passed;
  const Problem large({1, 2, 256, 260}, 3, 40.0f, 60.0f);  // in two bands, which share vertices
  passed = is_repeatable(large) && passed;
  if (testing::kCompareResults) passed = equals_definition(large) && passed;
  return testing::report(passed);
}
