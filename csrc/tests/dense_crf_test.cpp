// The dense CRF: on the CPU, thread counts and row widths; on both backends, comparisons with a
// mean field on naive lattices.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "cuda_on_cpu.h"
#include "cuda_workspace.h"
#include "testing.h"

#include "../cpu/dense_crf.cpp"
#include "../cuda/dense_crf.cuh"
#include "../cuda/pixel_lattice.cu"

#include "naive_mean_field.h"  // after cpu/simd.h, see math/scalar.h

namespace {

using namespace wsss;
using testing::arenas;
using testing::by_definition;
using testing::Problem;
using testing::raises;
using testing::uniform_float;

// ---- CPU

std::vector<float> on_cpu(const std::vector<float>& image, const std::vector<float>& unary,
                          int64_t batch, const CrfShape& shape, const CrfParameters& parameters,
                          int threads) {
  std::vector<float> q(unary.size(), -1.0f);
  if (batch > 1 || threads == 1) {
    cpu::dense_crf(image.data(), unary.data(), q.data(), batch, shape, parameters, threads);
  } else {  // a team inside one image, however small
    MeanField field(shape, parameters, threads);
    Team::run(threads, [&](Team& team, int rank) {
      field.run(team, rank, image.data(), unary.data(), q.data());
    });
  }
  return q;
}

// Q sums to 1; repeated runs and any number of threads give exactly the same.
bool cpu_is_consistent(int64_t batch, const CrfShape& shape, const CrfParameters& parameters) {
  std::vector<float> image(batch * shape.image_channels * shape.pixels()),
      unary(batch * shape.sets * shape.labels * shape.pixels());
  for (float& x : image) x = std::floor(uniform_float() * 256.0f);
  for (float& x : unary) x = uniform_float() * 4.0f;
  if (shape.labels > 3) {  // two labels with the same energies
    for (int64_t i = 0; i < shape.pixels(); ++i) unary[2 * shape.pixels() + i] = unary[i];
  }
  const auto one = on_cpu(image, unary, batch, shape, parameters, 1);
  bool passed = one == on_cpu(image, unary, batch, shape, parameters, 1);
  for (int threads : {2, 3}) {
    const auto many = on_cpu(image, unary, batch, shape, parameters, threads);
    passed = passed && many == one;
  }
  const int64_t n = shape.pixels();
  for (int64_t plane = 0; plane < batch * shape.sets; ++plane) {
    for (int64_t p = 0; p < n; ++p) {
      float sum = 0.0f;
      for (int k = 0; k < shape.labels; ++k) sum += one[(plane * shape.labels + k) * n + p];
      passed = passed && std::fabs(sum - 1.0f) < 1e-5f;
    }
  }
  if (!passed) {
    std::printf(
        "failed: batch %d, %dx%d, %d sets, %d labels\n", static_cast<int>(batch),
        static_cast<int>(shape.height), static_cast<int>(shape.width), shape.sets, shape.labels);
  }
  return passed;
}

CrfParameters parameters_of(float sxy, float weight, float bxy, float level, float bilateral,
                            int channels) {
  return {
      weight, sxy, sxy + 1, bilateral, bxy, bxy, std::vector<float>(channels, level), 0, 255, 3};
}

bool all_cpu() {
  bool passed = true;
  for (int labels : {1, 2, 3, 4, 5, 6, 9, 10, 17, 25, 34, 82}) {
    passed &= cpu_is_consistent(1, {13, 21, 3, 1, labels}, parameters_of(3, 3, 50, 5, 10, 3));
    passed &= cpu_is_consistent(3, {9, 7, 3, 2, labels}, parameters_of(1, 0, 20, 0.5f, 4, 3));
  }
  for (int channels : {1, 2, 4, 6}) {
    passed &=
        cpu_is_consistent(2, {11, 17, channels, 1, 3}, parameters_of(3, 3, 20, 20, 4, channels));
  }
  for (int64_t side : {1, 2, 3, 5, 16, 17}) {
    passed &= cpu_is_consistent(1, {side, 1, 3, 1, 3}, parameters_of(3, 3, 50, 5, 10, 3));
    passed &= cpu_is_consistent(2, {1, side, 0, 3, 2}, parameters_of(1, 3, 1, 1, 0, 0));
  }
  passed &=
      cpu_is_consistent(1, {260, 257, 3, 1, 3}, parameters_of(3, 3, 50, 5, 10, 3));  // two bands
  return passed;
}

// ---- both backends

// The CPU kernel raises for values outside of the levels, so they are clamped here.
std::vector<float> on_cpu(const Problem& p) {
  std::vector<float> image = p.image;
  for (float& x : image) {
    x = std::clamp(x, static_cast<float>(p.lowest), static_cast<float>(p.highest));
  }
  const auto as_float = [](double x) { return static_cast<float>(x); };
  const CrfParameters parameters{
      as_float(p.gaussian[2]),
      as_float(p.gaussian[0]),
      as_float(p.gaussian[1]),
      as_float(p.bilateral[2]),
      as_float(p.bilateral[0]),
      as_float(p.bilateral[1]),
      std::vector<float>(p.image_channels, as_float(p.sigma)),
      p.lowest,
      p.highest,
      p.iterations};
  const CrfShape shape{p.height, p.width, p.image_channels, p.sets, p.labels};
  return on_cpu(image, p.unary, p.batch, shape, parameters, 1);
}

std::vector<float> on_device(const Problem& p, int64_t first, int64_t batch, bool separate,
                             int64_t workspace, bool half_precision = false, bool stored = false) {
  const int64_t n = p.pixels(), plane = static_cast<int64_t>(p.sets) * p.labels * n;
  // Exactly as large as needed, so that the sanitizer detects reads past the end.
  const std::vector<float> image(p.image.begin() + first * p.image_channels * n,
                                 p.image.begin() + (first + batch) * p.image_channels * n);
  const std::vector<float> unary(
      p.unary.begin() + first * plane, p.unary.begin() + (first + batch) * plane);
  std::vector<float> q(batch * plane, -1.0f);
  cuda::CrfCall call{batch,          p.height,       p.width,        p.image_channels,
                     p.sets,         p.labels,       image.data(),   unary.data(),
                     q.data(),       p.gaussian[0],  p.gaussian[1],  p.gaussian[2],
                     p.bilateral[0], p.bilateral[1], p.bilateral[2], {},
                     p.lowest,       p.highest,      p.iterations,   half_precision};
  std::fill_n(call.levels, p.image_channels, p.sigma);
  std::vector<uint64_t> lattice;
  if (stored && q.size() > 0 && p.bilateral[2] > 0) {
    const cuda::PixelLattice pixels("test", "bilateral", call.bilateral_grid());
    lattice.resize(cuda::StoredLattices(pixels).bytes() / 8);
    cuda::StoredLattices(pixels, lattice.data()).build({}, arenas(separate));
    call.lattice = lattice.data();
  }
  const std::vector<uint64_t> before = lattice;
  cuda::dense_crf({}, call, arenas(separate), {}, workspace);
  if (lattice != before) std::fill(q.begin(), q.end(), -2.0f);  // others use it as well
  return q;
}

bool is_correct(Problem p, const char* name) {
  const int64_t n = p.pixels();
  p.image.resize(p.batch * p.image_channels * n);
  p.unary.resize(p.batch * p.sets * p.labels * n);
  // Images of very different content: smooth with noise, constant, noise.
  for (size_t i = 0; i < p.image.size(); ++i) {
    const int64_t b = static_cast<int64_t>(i) / (p.image_channels * n);
    p.image[i] = b % 3 == 0   ? std::floor(uniform_float() * 60.0f) +
                                    static_cast<float>(i % n) / static_cast<float>(n) * 150.0f
                 : b % 3 == 1 ? 255.0f
                              : std::floor(uniform_float() * 256.0f);
  }
  for (float& x : p.unary) x = uniform_float() * 3.0f;
  if (p.edit) p.edit(p);
  const int64_t large = cuda::kWorkspaceBytes;
  const auto q = on_device(p, 0, p.batch, true, large);
  const auto half_q = on_device(p, 0, p.batch, true, large, true);
  const bool same_in_chunks = q == on_device(p, 0, p.batch, false, 1) &&
                              half_q == on_device(p, 0, p.batch, false, 1, true, true);
  const auto cpu_q = on_cpu(p);
  if (!testing::kCompareResults) return same_in_chunks;
  // Also with shared memory, and threads in another order.
  cuda_on_cpu::reversed = true;
  const bool repeats = q == on_device(p, 0, p.batch, false, large);
  cuda_on_cpu::reversed = false;
  std::vector<float> loop;
  for (int64_t b = 0; b < p.batch; ++b) {
    const auto one = on_device(p, b, 1, true, large);
    loop.insert(loop.end(), one.begin(), one.end());
  }
  const bool same_as_loop = q == loop;
  float worst = 0.0f, worst_in_half = 0.0f, worst_on_cpu = 0.0f;
  const auto compare = [](float& worst, float result, float expected) {
    const float d = std::fabs(result - expected);
    worst = d <= worst ? worst : d;  // keeps NaN
  };
  const int64_t plane = static_cast<int64_t>(p.labels) * n;
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t s = 0; s < p.sets; ++s) {
      const auto expected = by_definition(p, b, s);
      for (int64_t i = 0; i < plane; ++i) {
        compare(worst, q[(b * p.sets + s) * plane + i], expected[i]);
        compare(worst_in_half, half_q[(b * p.sets + s) * plane + i], expected[i]);
        compare(worst_on_cpu, cpu_q[(b * p.sets + s) * plane + i], expected[i]);
      }
    }
  }
  const bool correct = worst <= 2e-5f && worst_in_half <= 5e-3f && worst_on_cpu <= 2e-5f;
  if (!(correct && repeats && same_as_loop && same_in_chunks)) {
    std::printf(
        "failed: %s: error %g, in half precision %g, on the CPU %g, repeats %d, batch is loop %d, "
        "chunks %d\n",
        name, worst, worst_in_half, worst_on_cpu, repeats, same_as_loop, same_in_chunks);
    return false;
  }
  return true;
}

Problem problem(int64_t batch, int64_t height, int64_t width, int channels, int sets, int labels,
                int64_t iterations = 3) {
  return {batch, height, width, channels,   sets, labels, {3, 3, 3}, {20, 20, 5},
          13,    0,      255,   iterations, {},   {},     {}};
}

// Gives labels of each unary the energies of another label: label l those of source(unary, l).
std::function<void(Problem&)> copy_labels(const std::function<int(int64_t, int)>& source) {
  return [source](Problem& p) {
    const int64_t n = p.pixels();
    for (int64_t unary = 0; unary < p.batch * p.sets; ++unary) {
      float* energy = p.unary.data() + unary * p.labels * n;
      for (int l = 0; l < p.labels; ++l) {
        std::copy_n(energy + source(unary, l) * n, n, energy + l * n);
      }
    }
  };
}

// Labels with equal energies, which share a channel.
bool merging_is_correct() {
  bool passed = true;
  const auto check =
      [&](const char* name, int sets, int labels, const std::function<void(Problem&)>& edit) {
        for (int64_t width : {7, 8}) {  // so many pixels that whole packs can be compared, or not
          Problem p = problem(3, 6, width, 3, sets, labels, 2);
          p.edit = edit;
          passed &= is_correct(p, name);
        }
      };
  check("all labels equal", 2, 9, copy_labels([](int64_t, int) { return 0; }));
  check("four present of 21", 1, 21, copy_labels([](int64_t, int l) { return l % 6 ? 1 : l; }));
  check("pairs of labels", 1, 20, copy_labels([](int64_t, int l) { return l / 2 * 2; }));
  check("each unary its own groups", 2, 19, copy_labels([](int64_t unary, int l) {
          const int groups[] = {19, 1, 3, 6, 12, 2};
          return l % groups[unary % 6];
        }));
  check("one of many", 1, 256, copy_labels([](int64_t, int l) { return l == 200 ? 200 : 0; }));
  check("one pixel differs", 1, 9, [](Problem& p) {
    copy_labels([](int64_t, int) { return 0; })(p);
    const int64_t n = p.pixels();
    for (int64_t b = 0; b < p.batch; ++b) {
      p.unary[(b * p.labels + 3) * n + n - 1] += 1.0f;  // the last, which is a sample
      p.unary[(b * p.labels + 7) * n + n - 3] += 1.0f;
    }
  });
  check("zeros of both signs", 1, 9, [](Problem& p) {
    const int64_t n = p.pixels();
    for (int64_t i = 0; i < static_cast<int64_t>(p.unary.size()); ++i) {
      const int64_t label = i / n % p.labels;
      if (label > 2) p.unary[i] = label % 2 ? 0.0f : -0.0f;
    }
  });
  return passed;
}

// A thousand small images, of which some are compared with calls of their own.
bool many_images_are_correct() {
  Problem p = problem(1000, 1, 2, 3, 1, 7, 1);
  const int64_t each = 7 * p.pixels();
  for (int64_t i = 0; i < p.batch * 3 * p.pixels(); ++i) p.image.push_back(uniform_float() * 255);
  for (int64_t i = 0; i < p.batch * each; ++i) p.unary.push_back(uniform_float());
  const auto q = on_device(p, 0, p.batch, true, cuda::kWorkspaceBytes);
  for (int64_t b = 0; b < p.batch; b += 111) {
    const auto one = on_device(p, b, 1, true, cuda::kWorkspaceBytes);
    if (std::equal(one.begin(), one.end(), q.begin() + b * each)) continue;
    std::puts("failed: many small images");
    return false;
  }
  return true;
}

// Extreme weights neither overflow nor vanish in half precision.
bool half_is_safe() {
  bool passed = true;
  for (double weight : {1e-6, 1e6}) {
    Problem p = problem(1, 48, 40, 3, 1, 6);
    p.gaussian[2] = p.bilateral[2] = weight;
    p.image.assign(3 * p.pixels(), 9.0f);
    for (int64_t i = 0; i < 6 * p.pixels(); ++i) p.unary.push_back(uniform_float());
    const auto q = on_device(p, 0, 1, true, cuda::kWorkspaceBytes, true);
    for (int64_t i = 0; i < p.pixels(); ++i) {
      float sum = 0.0f;
      for (int l = 0; l < 6; ++l) sum += q[l * p.pixels() + i];
      passed = passed && std::fabs(sum - 1.0f) < 1e-4f;
    }
  }
  if (!passed) std::puts("failed: extreme weights in half precision");
  return passed;
}

bool all_correct() {
  bool passed = true;
  for (int labels : {1, 2, 3, 4, 5, 6, 9, 17, 21, 25, 33, 49, 65, 97, 129, 256}) {
    passed &=
        is_correct(problem(2, 5, 7, 3, 1, labels, 2), ("labels " + std::to_string(labels)).c_str());
  }
  for (int sets : {2, 3}) {
    for (int labels : {1, 2, 3, 4, 7}) {
      passed &= is_correct(problem(2, 6, 5, 3, sets, labels, 2),
                           ("sets of labels " + std::to_string(labels)).c_str());
    }
  }
  passed &= is_correct(problem(1, 3, 3, 3, 2, 256, 1), "rows longer than a block's x");
  for (int channels = 0; channels <= 6; ++channels) {
    passed &= is_correct(
        problem(3, 7, 9, channels, 1, 3), ("image channels " + std::to_string(channels)).c_str());
  }
  for (int64_t side : {1, 2, 3, 4, 5, 8, 17}) {
    passed &= is_correct(problem(2, side, 1, 3, 1, 3), "one column");
    passed &= is_correct(problem(2, 1, side, 1, 2, 2), "one row");
  }
  passed &= is_correct(problem(3, 31, 33, 3, 2, 3, 2), "three images, long lists");
  passed &= is_correct(problem(2, 20, 21, 3, 1, 70, 1), "long lists, wide rows");
  Problem spatial = problem(3, 12, 11, 9, 1, 4);
  spatial.bilateral[2] = 0;  // then any number of channels is valid
  passed &= is_correct(spatial, "spatial only");
  Problem bilateral = problem(3, 12, 11, 3, 2, 3);
  bilateral.gaussian[2] = 0;
  passed &= is_correct(bilateral, "bilateral only");
  Problem none = problem(2, 6, 7, 3, 2, 3);
  none.gaussian[2] = none.bilateral[2] = 0;
  passed &= is_correct(none, "no terms");
  passed &= is_correct(problem(2, 6, 7, 3, 1, 3, 0), "no iterations");
  passed &= is_correct(problem(0, 6, 7, 3, 1, 3), "no images");
  passed &= is_correct(problem(2, 0, 7, 3, 1, 3), "no pixels");
  Problem anisotropic = problem(2, 14, 9, 3, 1, 3);
  anisotropic.gaussian[1] = 1, anisotropic.bilateral[0] = 5, anisotropic.sigma = 2;
  passed &= is_correct(anisotropic, "anisotropic, many vertices");
  Problem clamped = problem(2, 9, 8, 3, 1, 3);
  clamped.lowest = 20, clamped.highest = 90;
  passed &= is_correct(clamped, "levels outside their range");
  Problem wide = problem(2, 9, 8, 1, 1, 2);
  wide.lowest = -3000, wide.highest = 70000;
  passed &= is_correct(wide, "wide levels");
  return passed;
}

bool crf_raises(Problem p, const char* message) {
  p.image.resize(p.image_channels * p.pixels());
  p.unary.resize(p.sets * p.labels * p.pixels());
  return raises([&] { on_device(p, 0, 1, true, 1); }, message);
}

}  // namespace

int main() {
  bool passed = all_cpu();
  passed &= all_correct();
  passed &= merging_is_correct();
  passed &= half_is_safe();
  if (testing::kCompareResults) passed &= many_images_are_correct();
  passed &= crf_raises(problem(1, 4, 4, 7, 1, 2), "at most 8 dimensions, not 9");
  Problem tiny = problem(1, 50, 50, 3, 1, 2);
  tiny.sigma = 1e-3;
  passed &= crf_raises(tiny, "bilateral sigmas are too small");
  return testing::report(passed);
}
