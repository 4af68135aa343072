// PAR and PAMR on CUDA, in the emulator: values compared with the definition in double, gradients
// as the transpose of the values; workspace with unset memory, blocks in either order, images
// together and one by one.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"
#include "cuda_workspace.h"
#include "testing.h"

#include "../cuda/pixel_adaptive_refine.cu"

namespace {

using wsss::cuda::RefineCall;
using wsss::testing::uniform, wsss::testing::uniform_float;

int64_t clamped(int64_t i, int64_t size) { return std::clamp<int64_t>(i, 0, size - 1); }

// Calls visit(place in the plane, distance) for the neighbours of a pixel.
template <class Visit>
void for_each_neighbour(const RefineCall& c, int64_t y, int64_t x, const Visit& visit) {
  for (const int64_t d : c.dilations) {
    for (int64_t v : {-d, int64_t{0}, d}) {
      for (int64_t u : {-d, int64_t{0}, d}) {
        if (v == 0 && u == 0) continue;
        visit(clamped(y + v, c.height) * c.width + clamped(x + u, c.width),
              std::hypot(static_cast<double>(v), static_cast<double>(u)));
      }
    }
  }
}

double unbiased_deviation(const std::vector<double>& values) {
  double mean = 0, squares = 0;
  for (const double v : values) mean += v / static_cast<double>(values.size());
  for (const double v : values) squares += (v - mean) * (v - mean);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

// Replaces values by factor * softmax(values).
void softmax(std::vector<double>& values, double factor) {
  const double highest = *std::max_element(values.begin(), values.end());
  double sum = 0;
  for (double& v : values) sum += v = std::exp(v - highest);
  for (double& v : values) v *= factor / sum;
}

std::vector<double> weights_by_definition(const RefineCall& c, const float* image, int64_t y,
                                          int64_t x) {
  const int64_t area = c.height * c.width;
  std::vector<double> colour, position;
  for_each_neighbour(c, y, x, [&](int64_t, double distance) { position.push_back(distance); });
  colour.assign(position.size(), 0.0);
  for (int64_t channel = 0; channel < c.channels; ++channel) {
    const float* plane = image + channel * area;
    const double own = plane[y * c.width + x];
    std::vector<double> around;
    for_each_neighbour(c, y, x, [&](int64_t at, double) { around.push_back(plane[at]); });
    auto counted = around;
    if (c.pamr) counted.insert(counted.end(), c.dilations.size(), own);
    const double s = unbiased_deviation(counted);
    for (size_t n = 0; n < around.size(); ++n) {
      const double difference = std::fabs(around[n] - own);
      const double scaled = difference / (c.pamr ? 0.1 * s + 1e-8 : 0.3 * (s + 1e-8));
      colour[n] -= (c.pamr ? scaled : scaled * scaled) / static_cast<double>(c.channels);
    }
  }
  softmax(colour, 1.0);
  if (c.pamr) return colour;
  const double s = unbiased_deviation(position);
  for (double& p : position) p = -std::pow(p / (s + 1e-8) / 0.3, 2);
  softmax(position, 0.01);
  for (size_t n = 0; n < colour.size(); ++n) colour[n] += position[n];
  return colour;
}

std::vector<double> by_definition(const RefineCall& c) {
  const int64_t area = c.height * c.width;
  std::vector<double> field(c.values, c.values + c.batch * c.masks * area);
  for (int64_t b = 0; b < c.batch; ++b) {
    std::vector<std::vector<double>> weights;
    for (int64_t i = 0; i < area; ++i) {
      weights.push_back(
          weights_by_definition(c, c.image + b * c.channels * area, i / c.width, i % c.width));
    }
    for (int64_t k = b * c.masks; k < (b + 1) * c.masks; ++k) {
      for (int64_t step = 0; step < c.iterations; ++step) {
        const std::vector<double> before(field.begin() + k * area, field.begin() + (k + 1) * area);
        for (int64_t i = 0; i < area; ++i) {
          double sum = 0;
          size_t n = 0;
          for_each_neighbour(c, i / c.width, i % c.width, [&](int64_t at, double) {
            sum += weights[static_cast<size_t>(i)][n++] * before[static_cast<size_t>(at)];
          });
          field[static_cast<size_t>(k * area + i)] = sum;
        }
      }
    }
  }
  return field;
}

std::vector<float> on_device(RefineCall c, const std::vector<float>& values, bool backward) {
  std::vector<float> out(values.size(), NAN);
  c.values = values.data();
  c.out = out.data();
  wsss::testing::TestContext context;
  (backward ? wsss::cuda::pixel_adaptive_refine_backward : wsss::cuda::pixel_adaptive_refine)(
      context, c);
  return out;
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

bool is_correct(int64_t batch, int64_t channels, int64_t masks, int64_t height, int64_t width,
                const std::vector<int64_t>& dilations, int64_t iterations, bool pamr) {
  std::vector<float> image(static_cast<size_t>(batch * channels * height * width)),
      mask(static_cast<size_t>(batch * masks * height * width)), grad(mask.size());
  for (float& v : image) v = std::floor(256 * uniform_float());
  for (float& v : mask) v = uniform_float();
  for (float& v : grad) v = uniform_float() - 0.5f;
  RefineCall c{batch,      channels, masks,        height,      width,  dilations,
               iterations, pamr,     image.data(), mask.data(), nullptr};
  const auto exact = by_definition(c);
  const auto out = on_device(c, mask, false), of_masks = on_device(c, grad, true);
  bool passed = true;
  for (size_t i = 0; i < out.size(); ++i) passed = passed && std::fabs(out[i] - exact[i]) < 1e-5;
  // <grad, A mask> = <A^T grad, mask>, for a mask of random values and one of a single pixel.
  auto single = mask;
  std::fill(single.begin(), single.end(), 0.0f);
  single[single.size() / 3] = 1;
  const auto spread = on_device(c, single, false);
  const double size = std::sqrt(dot(grad, grad) * dot(mask, mask)) + 1;
  passed = passed && std::fabs(dot(grad, out) - dot(of_masks, mask)) < 1e-6 * size &&
           std::fabs(dot(grad, spread) - dot(of_masks, single)) < 1e-5;
  if (wsss::testing::kCompareResults) {
    cuda_on_cpu::reversed = true;
    c.chunk_bytes = 1;
    passed = passed && on_device(c, mask, false) == out && on_device(c, grad, true) == of_masks;
    cuda_on_cpu::reversed = false;
  }
  if (!passed) {
    std::printf("failed: %d masks, %dx%d, %d dilations, %s\n", static_cast<int>(masks),
                static_cast<int>(height), static_cast<int>(width),
                static_cast<int>(dilations.size()), pamr ? "PAMR" : "PAR");
  }
  return passed;
}

}  // namespace

int main() {
  bool passed = true;
  std::vector<int64_t> many;
  for (int64_t d = 1; d <= 34; ++d) many.push_back(d);
  for (const bool pamr : {false, true}) {
    passed &= is_correct(2, 3, 3, 17, 33, {1, 2, 4, 8, 12, 24}, 3, pamr);
    passed &= is_correct(1, 1, 1, 1, 1, {1}, 2, pamr);
    passed &= is_correct(1, 2, 9, 1, 37, {3, 50}, 2, pamr);
    passed &= is_correct(2, 1, 4, 35, 1, {1, 2, 5}, 4, pamr);
    passed &= is_correct(1, 3, 2, 6, 5, {1, 2, 3, 4, 5, 6, 7, 100}, 2, pamr);
  }
  passed &= is_correct(1, 1, 2, 7, 9, many, 1, false);
  passed &= is_correct(1, 2, 1, 9, 8, {2, 1, 4, 3}, 1, true);
  passed &= is_correct(1, 2, 1, 9, 8, {1, 1, 3, 2, 5}, 1, false);
  return wsss::testing::report(passed);
}
