// The parts of the label-conditioned logits: taps, packing, shifted addition and
// their transposes, on the CPU and on CUDA, compared with the definition on small
// integers, so that every sum is exact.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"
#include "testing.h"

#include "../cpu/label_conditioned_kernel.h"
#include "../cuda/label_conditioned.cuh"

namespace {

using wsss::HeadShape;
using wsss::LabelShare;

using wsss::testing::small_integer;

std::vector<float> small_integers(int64_t count) {
  std::vector<float> all(count);
  for (float& x : all) x = small_integer();
  return all;
}

// logits [K, h, w] of one image, by the definition.
std::vector<float> by_definition(const HeadShape& s, const std::vector<int64_t>& dilations,
                                 int64_t k, const std::vector<float>& features,
                                 const std::vector<float>& weight) {
  std::vector<float> logits(s.labels * s.pixels());
  for (int64_t r = 0; r < s.branches; ++r) {
    for (int64_t label = 0; label < s.labels; ++label) {
      for (int64_t c = 0; c < s.channels; ++c) {
        for (int64_t i = 0; i < s.cells; ++i) {
          const float w = weight[((r * s.labels + label) * s.channels + c) * s.cells + i];
          for (int64_t y = 0; y < s.height; ++y) {
            for (int64_t x = 0; x < s.width; ++x) {
              const int64_t sy = y + (i / k - k / 2) * dilations[r],
                            sx = x + (i % k - k / 2) * dilations[r];
              if (sy < 0 || sy >= s.height || sx < 0 || sx >= s.width) continue;
              logits[(label * s.height + y) * s.width + x] +=
                  w * features[(c * s.height + sy) * s.width + sx];
            }
          }
        }
      }
    }
  }
  return logits;
}

struct Result {
  std::vector<float> logits, grad_features, grad_weight;
};

// Forward of `features` and backward of `grad`, calling the kernels as cpu/label_conditioned.cpp
// does, with loops for matrix products and labels in shares of `share_size`.
Result by_kernels(const HeadShape& s, const std::vector<int64_t>& dilations, int64_t k,
                  int64_t band_rows, int64_t share_size, const std::vector<float>& features,
                  const std::vector<float>& weight, const std::vector<float>& grad) {
  const wsss::Taps taps = wsss::plan_taps(dilations, k, s.height, s.width);
  Result result{std::vector<float>(s.labels * s.pixels()), std::vector<float>(features.size()),
                std::vector<float>(weight.size())};
  for (int64_t first = 0; first < s.labels; first += share_size) {
    const LabelShare share{first, std::min(first + share_size, s.labels)};
    const int64_t rows = taps.count() * share.count();
    std::vector<float> packed(rows * s.channels, -1e9f), sum(rows * s.channels);
    for (int64_t j = 0; j < share.count(); ++j) {
      wsss::pack_weight(s, taps, share, j, weight.data(), packed.data());
    }
    for (const wsss::Band& band : wsss::plan_bands(taps, s.height, band_rows)) {
      const int64_t n = (band.y1 - band.y0) * s.width, start = band.t0 * share.count();
      const int64_t used = (band.t1 - band.t0) * share.count();
      std::vector<float> responses(used * n), gradients(used * n, -1e9f);
      auto feature = [&](int64_t c, int64_t p) { return c * s.pixels() + band.y0 * s.width + p; };
      for (int64_t j = 0; j < share.count(); ++j) {
        wsss::gather_shifted(s, taps, band, share, j, grad.data() + (share.first + j) * s.pixels(),
                             gradients.data());
      }
      for (int64_t row = 0; row < used; ++row) {
        for (int64_t c = 0; c < s.channels; ++c) {
          const int64_t at = (start + row) * s.channels + c;
          for (int64_t p = 0; p < n; ++p) {
            responses[row * n + p] += packed[at] * features[feature(c, p)];
            result.grad_features[feature(c, p)] += packed[at] * gradients[row * n + p];
            sum[at] += gradients[row * n + p] * features[feature(c, p)];
          }
        }
      }
      for (int64_t j = 0; j < share.count(); ++j) {
        wsss::add_shifted(s, taps, band, share, j, responses.data(),
                          result.logits.data() + (share.first + j) * s.pixels());
      }
    }
    for (int64_t j = 0; j < share.count(); ++j) {
      wsss::unpack_weight(s, taps, share, j, sum.data(), result.grad_weight.data());
    }
  }
  return result;
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// Compares logits with the definition, and gradients with its transpose: <grad, logits(f + d, w)>
// is linear in d, and the same for the weights.
bool is_correct(const HeadShape& s, const std::vector<int64_t>& dilations, int64_t k) {
  const auto features = small_integers(s.channels * s.pixels()),
             weight = small_integers(s.branches * s.labels * s.channels * s.cells);
  const auto grad = small_integers(s.labels * s.pixels());
  const auto direction = small_integers(static_cast<int64_t>(features.size()));
  const auto turn = small_integers(static_cast<int64_t>(weight.size()));
  const auto logits = by_definition(s, dilations, k, features, weight);
  bool passed = true;
  for (int64_t rows : {int64_t{1}, int64_t{3}, s.height}) {
    for (int64_t share : {int64_t{1}, int64_t{2}, s.labels}) {
      const Result result = by_kernels(s, dilations, k, rows, share, features, weight, grad);
      passed = passed && result.logits == logits;
      passed = passed && dot(result.grad_features, direction) ==
                             dot(grad, by_definition(s, dilations, k, direction, weight));
      passed = passed && dot(result.grad_weight, turn) ==
                             dot(grad, by_definition(s, dilations, k, features, turn));
    }
  }
  if (!passed)
    std::printf("failed: %dx%d\n", static_cast<int>(s.height), static_cast<int>(s.width));
  return passed;
}

// Rows of a times columns of b: [rows, inner] x [inner, columns], both row-major.
std::vector<float> times(const float* a, const float* b, int64_t rows, int64_t inner,
                         int64_t columns) {
  std::vector<float> out(rows * columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < inner; ++j) {
      for (int64_t c = 0; c < columns; ++c) {
        out[i * columns + c] += a[i * inner + j] * b[j * columns + c];
      }
    }
  }
  return out;
}
std::vector<float> turned(const float* a, int64_t rows, int64_t columns) {
  std::vector<float> out(rows * columns);
  for (int64_t i = 0; i < rows * columns; ++i) out[i % columns * rows + i / columns] = a[i];
  return out;
}

// The CUDA kernels, called as in cuda/label_conditioned.cu: two images of different
// scale, labels in two shares.
bool is_correct_on_device(const HeadShape& s, const std::vector<int64_t>& dilations, int64_t k) {
  constexpr int64_t images = 2;
  const wsss::Taps taps = wsss::plan_taps(dilations, k, s.height, s.width);
  std::vector<int32_t> table;
  for (const auto* part : {&taps.dy, &taps.dx, &taps.first, &taps.source}) {
    for (int64_t n : *part) table.push_back(static_cast<int32_t>(n));
  }
  wsss::cuda::Numbers numbers{};
  std::copy(table.begin(), table.end(), numbers.value);
  std::vector<int32_t> stored(table.size(), -99);
  const auto count = static_cast<int32_t>(table.size());
  wsss::launch({1}, {wsss::cuda::Numbers::kMax},
               [&] { wsss::cuda::store_numbers(numbers, count, stored.data()); });
  const int64_t t = taps.count(), n = s.pixels(), c = s.channels, block = 64;
  const wsss::cuda::DeviceTaps on_device{static_cast<int32_t>(t), stored.data(), stored.data() + t,
                                         stored.data() + 2 * t, stored.data() + 3 * t + 1};
  auto blocks = [&](int64_t threads) {
    return dim3{static_cast<unsigned>((threads + block - 1) / block)};
  };

  const auto features = small_integers(images * c * n),
             weight = small_integers(s.branches * s.labels * c * s.cells);
  const auto bias = small_integers(s.branches * s.labels), scale = small_integers(images * c),
             grad = small_integers(images * s.labels * n);
  std::vector<float> logits(images * s.labels * n, -1e9f);
  for (const LabelShare& share :
       {LabelShare{0, s.labels / 2}, LabelShare{s.labels / 2, s.labels}}) {
    const int64_t rows = t * share.count();
    std::vector<float> packed(rows * c), scaled(images * rows * c), responses;
    wsss::launch(blocks(rows * c), {block}, [&] {
      wsss::cuda::pack_weight(s, on_device, share, weight.data(), packed.data());
    });
    wsss::launch(blocks(images * rows * c), {block}, [&] {
      wsss::cuda::scale_weight(images, rows, c, packed.data(), scale.data(), scaled.data());
    });
    for (int64_t b = 0; b < images; ++b) {
      const auto one = times(scaled.data() + b * rows * c, features.data() + b * c * n, rows, c, n);
      responses.insert(responses.end(), one.begin(), one.end());
    }
    wsss::launch(blocks(images * share.count() * n), {block}, [&] {
      wsss::cuda::add_shifted(
          s, on_device, share, images, responses.data(), bias.data(), logits.data());
    });
  }

  const int64_t rows = t * s.labels;
  std::vector<float> packed(rows * c), gradients(images * rows * n, -1e9f), products, grad_features;
  wsss::launch(blocks(rows * c), {block}, [&] {
    wsss::cuda::pack_weight(s, on_device, {0, s.labels}, weight.data(), packed.data());
  });
  wsss::launch(blocks(images * rows * n), {block}, [&] {
    wsss::cuda::gather_shifted(s, on_device, images, grad.data(), gradients.data());
  });
  const auto packed_turned = turned(packed.data(), rows, c);
  for (int64_t b = 0; b < images; ++b) {
    const float *gradient = gradients.data() + b * rows * n, *feature = features.data() + b * c * n;
    auto of_scaled = times(packed_turned.data(), gradient, c, rows, n);
    for (int64_t i = 0; i < c * n; ++i) of_scaled[i] *= scale[b * c + i / n];
    grad_features.insert(grad_features.end(), of_scaled.begin(), of_scaled.end());
    const auto product = times(gradient, turned(feature, c, n).data(), rows, n, c);
    products.insert(products.end(), product.begin(), product.end());
  }
  // One image after another, so that the sum is started and continued.
  std::vector<float> sum(rows * c, -1e9f), grad_scale(images * c), grad_weight(weight.size()),
      grad_bias(bias.size());
  for (int64_t b = 0; b < images; ++b) {
    wsss::launch(blocks(rows * c), {block}, [&] {
      wsss::cuda::add_products<float>(
          1, rows, c, products.data() + b * rows * c, scale.data() + b * c, b == 0, sum.data());
    });
  }
  const dim3 grid{
      static_cast<unsigned>((c + wsss::cuda::kScaleChannels - 1) / wsss::cuda::kScaleChannels),
      images};
  wsss::launch_with_barriers(grid, {wsss::cuda::kScaleChannels, wsss::cuda::kScaleParts}, [&] {
    wsss::cuda::scale_gradient(rows, c, packed.data(), products.data(), grad_scale.data());
  });
  wsss::launch(blocks(rows * c), {block}, [&] {
    wsss::cuda::unpack_weight<float>(s, on_device, sum.data(), grad_weight.data());
  });
  wsss::launch_with_barriers({static_cast<unsigned>(s.labels)}, {wsss::cuda::kBiasThreads}, [&] {
    wsss::cuda::bias_gradient(s, images, grad.data(), grad_bias.data());
  });

  // Against the definition: logits, and the gradients along a direction of each argument.
  bool passed = true;
  auto of = [&](const std::vector<float>& f, const std::vector<float>& w,
                const std::vector<float>& z) {
    std::vector<float> all;
    for (int64_t b = 0; b < images; ++b) {
      std::vector<float> scaled(f.begin() + b * c * n, f.begin() + (b + 1) * c * n);
      for (int64_t i = 0; i < c * n; ++i) scaled[i] *= z[b * c + i / n];
      const auto one = by_definition(s, dilations, k, scaled, w);
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  };
  const auto exact = of(features, weight, scale);
  for (int64_t i = 0; i < images * s.labels * n; ++i) {
    float constant = 0;
    for (int64_t r = 0; r < s.branches; ++r) constant += bias[r * s.labels + i / n % s.labels];
    passed = passed && logits[i] == exact[i] + constant;
  }
  const auto df = small_integers(static_cast<int64_t>(features.size())),
             dw = small_integers(static_cast<int64_t>(weight.size()));
  const auto dz = small_integers(static_cast<int64_t>(scale.size()));
  passed = passed && dot(grad_features, df) == dot(grad, of(df, weight, scale));
  passed = passed && dot(grad_weight, dw) == dot(grad, of(features, dw, scale));
  passed = passed && dot(grad_scale, dz) == dot(grad, of(features, weight, dz));
  for (int64_t i = 0; i < s.branches * s.labels; ++i) {
    double total = 0;
    for (int64_t j = 0; j < images * n; ++j) {
      total += grad[(j / n * s.labels + i % s.labels) * n + j % n];
    }
    passed = passed && grad_bias[i] == total;
  }
  if (!passed) {
    std::printf("failed on device: %dx%d\n", static_cast<int>(s.height), static_cast<int>(s.width));
  }
  return passed;
}

// add_products with the channels split in two; sums of integers are exact.
bool add_products_is_correct(int64_t rows, int64_t channels) {
  const auto packed = small_integers(rows * channels), product = small_integers(rows * channels),
             scale = small_integers(channels);
  std::vector<float> sum(rows * channels, 1.0f), grad_scale(channels, 2.0f);
  const int64_t middle = channels / 3;
  for (auto [c0, c1] : {std::pair{int64_t{0}, middle}, std::pair{middle, channels}}) {
    wsss::add_products(rows, channels, c0, c1, packed.data(), product.data(), scale.data(),
                       sum.data(), grad_scale.data());
  }
  bool passed = true;
  for (int64_t c = 0; c < channels; ++c) {
    float expected = 2.0f;
    for (int64_t row = 0; row < rows; ++row) {
      expected += packed[row * channels + c] * product[row * channels + c];
      passed = passed && sum[row * channels + c] == 1.0f + product[row * channels + c] * scale[c];
    }
    passed = passed && grad_scale[c] == expected;
  }
  if (!passed) std::printf("failed: products of %d rows\n", static_cast<int>(rows));
  return passed;
}

}  // namespace

int main() {
  bool passed = true;
  const std::vector<int64_t> amn{6, 12, 18, 24}, mixed{1, 2, 2, 5};
  for (int64_t height : {1, 2, 7, 13}) {
    for (int64_t width : {1, 3, 8}) {
      passed &= is_correct({3, 2, height, width, 4, 9}, mixed, 3);
      passed &= is_correct({3, 2, height, width, 4, 9}, amn, 3);
      passed &= is_correct({2, 3, height, width, 1, 1}, {1}, 1);
      passed &= is_correct_on_device({3, 35, height, width, 4, 9}, mixed, 3);
      passed &= is_correct_on_device({2, 3, height, width, 4, 9}, amn, 3);
      passed &= is_correct_on_device({2, 3, height, width, 1, 1}, {1}, 1);
      // More than one block of channels.
      passed &= is_correct({2, 300, height, width, 1, 9}, {INT64_MAX / 2}, 3);
    }
  }
  for (int64_t rows : {1, 31, 32, 33, 100}) passed &= add_products_is_correct(rows, 150);
  return wsss::testing::report(passed);
}
