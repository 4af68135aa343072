// The parts of the label-conditioned logits on the CPU: taps, packing, shifted addition and their
// transposes, compared with the definition on small integers, so that every sum is exact.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "testing.h"

#include "../cpu/label_conditioned_kernel.h"

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
      // More than one block of channels.
      passed &= is_correct({2, 300, height, width, 1, 9}, {INT64_MAX / 2}, 3);
    }
  }
  for (int64_t rows : {1, 31, 32, 33, 100}) passed &= add_products_is_correct(rows, 150);
  return wsss::testing::report(passed);
}
