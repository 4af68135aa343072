// The bilateral filter and the dense energy loss on CUDA, compared with their definitions in double
// on naive lattices: in chunks, with stored lattices and parts of them, and with threads in another
// order.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <vector>

#include "cuda_on_cpu.h"
#include "cuda_workspace.h"
#include "testing.h"

#include "../cuda/bilateral_filter.cuh"
#include "../cuda/dense_energy_loss.cuh"
#include "../cuda/pixel_lattice.cu"

#include "naive_lattice.h"

namespace {

using namespace wsss;
using namespace wsss::cuda;
using testing::arenas;
using testing::uniform_float;

// The memory of a batch's lattices, exactly as large as needed.
std::vector<uint64_t> stored(const PixelGrid& grid) {
  const PixelLattice pixels("test", "the", grid);
  std::vector<uint64_t> memory(StoredLattices(pixels).bytes() / 8, 0xcdcdcdcdcdcdcdcdu);
  StoredLattices(pixels, memory.data()).build({}, arenas(true));
  return memory;
}

namespace filters {

struct Problem {
  PixelGrid grid;
  int64_t channels;
  std::vector<float> image, values;

  Problem(int64_t batch, int64_t height, int64_t width, int image_channels, int64_t channels,
          double sigma = 20.0)
      : grid{batch, height, width, image_channels, nullptr, 9.0, 7.0, {}, 0.0, 255.0},
        channels(channels),
        image(batch * image_channels * height * width),
        values(batch * channels * height * width) {
    std::fill_n(grid.levels, std::min(image_channels, kMaxDimensions), sigma);
    // Smooth, constant, and noisy images.
    const int64_t each = std::max<int64_t>(1, image_channels * height * width);
    for (int64_t i = 0; i < static_cast<int64_t>(image.size()); ++i) {
      const int64_t kind = i / each % 3;
      image[i] = kind == 0   ? static_cast<float>(i % each * 200 / each)
                 : kind == 1 ? 255.0f
                             : std::floor(uniform_float() * 256.0f);
    }
    for (float& x : values) x = uniform_float() - 0.5f;
    grid.image = image.data();
  }
};

std::vector<float> filtered(const Problem& p, bool transpose, void* lattice, bool separate,
                            int64_t workspace) {
  std::vector<float> out(p.values.size(), -7.0f);
  bilateral_filter({}, {p.grid, lattice, p.channels, p.values.data(), out.data(), transpose},
                   arenas(separate), workspace);
  return out;
}

bool is_correct(const Problem& p, const char* name) {
  const int64_t n = p.grid.pixels(), large = kWorkspaceBytes;
  std::vector<uint64_t> lattice = stored(p.grid);
  bool passed = true;
  double worst = 0.0;
  for (const bool transpose : {false, true}) {
    const auto out = filtered(p, transpose, nullptr, true, large);
    passed = passed && out == filtered(p, transpose, lattice.data(), true, 1) &&
             out == filtered(p, transpose, lattice.data(), false, large);
    if (!testing::kCompareResults) continue;
    cuda_on_cpu::reversed = true;
    passed = passed && out == filtered(p, transpose, nullptr, false, 1);
    cuda_on_cpu::reversed = false;
    const int d = p.grid.dimensions();
    for (int64_t b = 0; b < p.grid.batch; ++b) {
      std::vector<float> features;
      for (int64_t i = 0; i < n; ++i) {
        features.push_back(static_cast<float>(i % p.grid.width) / static_cast<float>(p.grid.sx));
        features.push_back(static_cast<float>(i / p.grid.width) / static_cast<float>(p.grid.sy));
        for (int c = 0; c < p.grid.channels; ++c) {
          const float level = p.image[(b * p.grid.channels + c) * n + i];
          features.push_back(level / static_cast<float>(p.grid.levels[c]));
        }
      }
      const testing::NaiveLattice naive(features, d);
      for (int64_t k = 0; k < p.channels; ++k) {
        const float* plane = p.values.data() + (b * p.channels + k) * n;
        const auto expected = naive.filter(std::vector<double>(plane, plane + n), transpose);
        for (int64_t i = 0; i < n; ++i) {
          const double error =
              std::fabs(out[(b * p.channels + k) * n + i] - expected[i] * lattice_gain(d));
          worst = error <= worst ? worst : error;  // keeps NaN
        }
      }
    }
  }
  passed = passed && worst <= 2e-6 * (1.0 + std::sqrt(static_cast<double>(n)));
  if (!passed) std::printf("failed: %s, error %g\n", name, worst);
  return passed;
}

// The same batch twice gives the same bytes, the unused ones included.
bool lattices_repeat() {
  const Problem p(3, 9, 8, 3, 1);
  const auto once = stored(p.grid);
  cuda_on_cpu::reversed = true;
  const auto again = stored(p.grid);
  cuda_on_cpu::reversed = false;
  if (once == again) return true;
  std::puts("failed: a stored lattice changes");
  return false;
}

// So many names that few images can share a lattice.
bool several_lattices_are_stored() {
  const Problem p(5, 6, 7, 3, 3, 1.5);
  const int64_t images = StoredLattices(PixelLattice("test", "the", p.grid)).images();
  if (images > 1 && images < p.grid.batch) return is_correct(p, "several lattices");
  std::printf("failed: %d images share a lattice\n", static_cast<int>(images));
  return false;
}

bool points_are_pixels() {
  bool passed = true;
  for (const Bands bands : {Bands{1, 1}, Bands{4, 3}, Bands{9, 5}, Bands{3, 8}, Bands{8, 2}}) {
    for (uint32_t p = 0; p < bands.height * bands.width; ++p) {
      const uint32_t at = bands.pixel(p);
      passed = passed && at < bands.height * bands.width &&
               bands.point(at / bands.width, at % bands.width) == p;
    }
  }
  if (!passed) std::puts("failed: the points of pixels");
  return passed;
}

bool all_correct() {
  bool passed = points_are_pixels() && lattices_repeat() && several_lattices_are_stored();
  for (const int channels : {1, 2, 3, 4, 6, 17, 81}) {
    passed &= is_correct(Problem(2, 5, 7, 3, channels), "channels");
  }
  for (int channels = 0; channels <= 6; ++channels) {
    passed &= is_correct(Problem(3, 6, 9, channels, 3), "image channels");
  }
  passed &= is_correct(Problem(2, 1, 1, 3, 2), "one pixel");
  passed &= is_correct(Problem(2, 1, 17, 3, 2), "one line");
  passed &= is_correct(Problem(4, 31, 33, 1, 5), "several blocks, long lists");
  const Problem tiny(1, 50, 50, 3, 1, 1e-3);
  passed &= testing::raises([&] { filtered(tiny, false, nullptr, true, 1); }, "too small for the");
  const Problem many(1, 2, 2, 7, 1);
  passed &= testing::raises([&] { stored(many.grid); }, "at most 8 dimensions, not 9");
  return passed;
}

}  // namespace filters

namespace energies {

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
  std::vector<uint64_t> lattice = stored(p.grid);
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

bool all_correct() {
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
  return passed;
}

}  // namespace energies

}  // namespace

int main() { return testing::report(filters::all_correct() && energies::all_correct()); }
