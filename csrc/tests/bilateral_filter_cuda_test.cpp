// The bilateral filter on CUDA, compared with naive lattices: in chunks, with stored lattices and
// parts of them, and with threads in another order.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"
#include "cuda_workspace.h"
#include "testing.h"

#include "../cuda/bilateral_filter.cuh"
#include "../cuda/pixel_lattice.cu"

#include "naive_lattice.h"

namespace {

using namespace wsss;
using namespace wsss::cuda;
using testing::arenas;
using testing::uniform_float;

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

// The memory of a batch's lattices, exactly as large as needed.
std::vector<uint64_t> stored(const Problem& p) {
  const PixelLattice pixels("test", "the", p.grid);
  std::vector<uint64_t> memory(StoredLattices(pixels).bytes() / 8, 0xcdcdcdcdcdcdcdcdu);
  StoredLattices(pixels, memory.data()).build({}, arenas(true));
  return memory;
}

bool is_correct(const Problem& p, const char* name) {
  const int64_t n = p.grid.pixels(), large = kWorkspaceBytes;
  std::vector<uint64_t> lattice = stored(p);
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
  const auto once = stored(p);
  cuda_on_cpu::reversed = true;
  const auto again = stored(p);
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

}  // namespace

int main() {
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
  passed &= testing::raises([&] { stored(many); }, "at most 8 dimensions, not 9");
  return testing::report(passed);
}
