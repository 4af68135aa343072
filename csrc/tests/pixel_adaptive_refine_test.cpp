// PAR and PAMR on the CPU: compared with the definition in double on small images, the gradient
// with the transposed one, and independence of the number of threads.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "testing.h"

#include "../cpu/pixel_adaptive_refine.cpp"

namespace {

using wsss::RefineShape;
using wsss::testing::uniform;
using Matrix = std::vector<double>;  // [pixels, pixels]

// exp of each, divided by the sum.
std::vector<double> softmax(const std::vector<double>& exponents) {
  double highest = exponents[0], sum = 0;
  for (const double e : exponents) highest = std::fmax(highest, e);
  std::vector<double> result;
  for (const double e : exponents) sum += result.emplace_back(std::exp(e - highest));
  for (double& r : result) r /= sum;
  return result;
}

double deviation(const std::vector<double>& values) {
  double mean = 0, squares = 0;
  for (const double v : values) mean += v / static_cast<double>(values.size());
  for (const double v : values) squares += (v - mean) * (v - mean);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

// The weights of one iteration, from the pixel of the row to those of the columns.
Matrix by_definition(const RefineShape& s, const float* image) {
  const int64_t n = s.pixels();
  Matrix matrix(n * n, 0.0);
  for (int64_t i = 0; i < n; ++i) {
    std::vector<int64_t> places;
    std::vector<double> distances;
    for (const int64_t d : s.dilations) {
      for (int64_t y = -1; y <= 1; ++y) {
        for (int64_t x = -1; x <= 1; ++x) {
          if (y == 0 && x == 0) continue;
          const int64_t row = std::clamp<int64_t>(i / s.width + d * y, 0, s.height - 1);
          const int64_t column = std::clamp<int64_t>(i % s.width + d * x, 0, s.width - 1);
          places.push_back(row * s.width + column);
          distances.push_back(static_cast<double>(d) * std::hypot(y, x));
        }
      }
    }
    std::vector<double> exponents(places.size(), 0.0);
    for (int64_t c = 0; c < s.channels; ++c) {
      std::vector<double> values;
      for (const int64_t place : places) values.push_back(image[c * n + place]);
      const auto around = values;
      if (s.pamr) values.insert(values.end(), s.dilations.size(), image[c * n + i]);
      const double by = s.pamr ? 0.1 * deviation(values) + 1e-8 : 0.3 * (deviation(values) + 1e-8);
      for (size_t k = 0; k < around.size(); ++k) {
        const double difference = std::fabs(around[k] - image[c * n + i]) / by;
        exponents[k] -= (s.pamr ? difference : difference * difference) / s.channels;
      }
    }
    const auto by_colour = softmax(exponents);
    const double by = 0.3 * (deviation(distances) + 1e-8);
    for (double& d : distances) d = -(d / by) * (d / by);
    const auto by_position = softmax(distances);
    for (size_t k = 0; k < places.size(); ++k) {
      matrix[i * n + places[k]] += by_colour[k] + (s.pamr ? 0.0 : 0.01 * by_position[k]);
    }
  }
  return matrix;
}

bool is_close(const std::vector<float>& found, const std::vector<double>& exact) {
  double highest = 0, error = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    highest = std::fmax(highest, std::fabs(exact[i]));
    error = std::fmax(error, std::fabs(found[i] - exact[i]));
  }
  return error <= 3e-6 * highest;
}

bool is_correct(const RefineShape& s, int64_t iterations) {
  const int64_t n = s.pixels(), planes = s.images * s.masks;
  std::vector<float> image(s.images * s.channels * n), masks(planes * n);
  for (float& x : image) x = static_cast<float>(uniform());
  for (float& x : masks) x = static_cast<float>(uniform());
  bool passed = true;
  std::vector<float> results[2];
  for (const bool backward : {false, true}) {
    const auto run =
        backward ? wsss::cpu::pixel_adaptive_refine_backward : wsss::cpu::pixel_adaptive_refine;
    auto& one = results[backward];
    one.assign(masks.size(), -1.0f);
    run(masks.data(), image.data(), s, iterations, 1, one.data());
    for (const int threads : {2, 3}) {
      std::vector<float> many(masks.size(), -1.0f);
      run(masks.data(), image.data(), s, iterations, threads, many.data());
      passed = passed && many == one;
    }
  }
  for (int64_t b = 0; wsss::testing::kCompareResults && b < s.images; ++b) {
    const Matrix matrix = by_definition(s, image.data() + b * s.channels * n);
    for (int64_t k = b * s.masks; k < (b + 1) * s.masks; ++k) {
      for (const bool backward : {false, true}) {
        std::vector<double> field(masks.begin() + k * n, masks.begin() + (k + 1) * n);
        for (int64_t step = 0; step < iterations; ++step) {
          std::vector<double> next(n, 0.0);
          for (int64_t i = 0; i < n * n; ++i) {
            const int64_t row = i / n, column = i % n;
            next[backward ? column : row] += matrix[i] * field[backward ? row : column];
          }
          field = next;
        }
        const auto& all = results[backward];
        passed = passed && is_close({all.begin() + k * n, all.begin() + (k + 1) * n}, field);
      }
    }
  }
  if (!passed) {
    std::printf("failed: %dx%d, %d masks, pamr %d\n", static_cast<int>(s.height),
                static_cast<int>(s.width), static_cast<int>(s.masks), s.pamr);
  }
  return passed;
}

}  // namespace

int main() {
  bool passed = true;
  for (const bool pamr : {false, true}) {
    passed &= is_correct({1, 2, 3, 9, 11, {1, 2, 4, 8, 12, 24}, pamr}, 3);
    passed &= is_correct({2, 1, 1, 1, 37, {1, 2}, pamr}, 2);
    passed &= is_correct({1, 3, 2, 35, 1, {1, 40}, pamr}, 2);
    passed &= is_correct({2, 1, 3, 1, 1, {1}, pamr}, 2);
    passed &= is_correct({1, 25, 3, 4, 17, {1000000, 1}, pamr}, 1);  // groups of 8 and 9 masks
    passed &= is_correct({1, 1, 14, 5, 6, {2}, pamr}, 0);  // more channels than masks of a group
    passed &= is_correct({1, 1, 14, 5, 6, {2}, pamr}, 1);
  }
  // Threads share an image.
  const RefineShape large{1, 2, 3, 70, 61, {1, 5}, false};
  std::vector<float> image(3 * large.pixels()), masks(2 * large.pixels());
  for (float& x : image) x = static_cast<float>(uniform());
  for (float& x : masks) x = static_cast<float>(uniform());
  for (const auto run :
       {wsss::cpu::pixel_adaptive_refine, wsss::cpu::pixel_adaptive_refine_backward}) {
    std::vector<float> one(masks.size()), two(masks.size());
    run(masks.data(), image.data(), large, 3, 1, one.data());
    run(masks.data(), image.data(), large, 3, 2, two.data());
    passed &= one == two;
  }
  return wsss::testing::report(passed);
}
