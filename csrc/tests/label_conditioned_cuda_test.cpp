// The label-conditioned logits and their gradients on CUDA, in the emulator, compared with the
// definition on small integers, so that every sum is exact: both orders of the features, scaled or
// not, groups of images, shares of labels, each set of wanted gradients, and products in TF32, in
// which these integers are exact.
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <vector>

#include "cuda_on_cpu.h"
#include "cuda_workspace.h"
#include "testing.h"

#include "../cuda/label_conditioned.cu"
#include "../cuda/tf32_product.cu"

namespace {

using wsss::HeadShape;
using wsss::cuda::Matrices;

using Values = std::vector<float>;

Values small_integers(int64_t count) {
  Values all(count);
  for (float& x : all) x = wsss::testing::small_integer();
  return all;
}

class TestContext : public wsss::cuda::Context {
 public:
  TestContext() : Context("label_conditioned_logits", nullptr) {}
  void* allocate(int64_t bytes) override {
    if (left-- == 0) throw std::runtime_error("out of memory");
    return pieces_.allocate(bytes);
  }
  using Context::allocate;
  size_t mark() const override { return pieces_.held.size(); }
  void release(size_t mark) override { pieces_.held.resize(mark); }

  void multiply(wsss::cuda::ElementType, const Matrices& a, const Matrices& b,
                const Matrices& out) override {
    ++products;
    for (int64_t i = 0; i < out.batch; ++i) {
      for (int64_t row = 0; row < out.height(); ++row) {
        for (int64_t column = 0; column < out.width(); ++column) {
          float sum = 0;
          for (int64_t k = 0; k < a.width(); ++k) sum += *at(a, i, row, k) * *at(b, i, k, column);
          *at(out, i, row, column) = sum;
        }
      }
    }
  }
  int products = 0;
  int left = 1000;  // allocations

 private:
  static float* at(const Matrices& m, int64_t i, int64_t row, int64_t column) {
    if (m.transposed) std::swap(row, column);
    return static_cast<float*>(const_cast<void*>(m.data)) + i * m.step + row * m.row_step + column;
  }

  wsss::testing::Pieces pieces_;
};

struct Case {
  HeadShape shape;
  int64_t images;
  std::vector<int64_t> dilations;
  bool channels_last, scaled, tf32 = false;
};

struct Inputs {
  explicit Inputs(const Case& c)
      : features(small_integers(c.images * c.shape.channels * c.shape.pixels())),
        scale(c.scaled ? small_integers(c.images * c.shape.channels) : Values()),
        weight(
            small_integers(c.shape.branches * c.shape.labels * c.shape.channels * c.shape.cells)),
        bias(small_integers(c.shape.branches * c.shape.labels)) {}
  Values features, scale, weight, bias;
};

int64_t feature_at(const Case& c, int64_t image, int64_t channel, int64_t pixel) {
  const int64_t n = c.shape.pixels(), channels = c.shape.channels;
  return c.channels_last ? (image * n + pixel) * channels + channel
                         : (image * channels + channel) * n + pixel;
}

// Calls use(logit, feature, scale, weight): the positions in the arrays of each term's factors.
template <class Use>
void for_each_term(const Case& c, const Use& use) {
  const HeadShape& s = c.shape;
  const int64_t side = s.cells == 1 ? 1 : 3;
  for (int64_t r = 0; r < s.branches; ++r) {
    for (int64_t i = 0; i < s.cells; ++i) {
      const int64_t dy = (i / side - side / 2) * c.dilations[r],
                    dx = (i % side - side / 2) * c.dilations[r];
      for (int64_t p = 0; p < s.pixels(); ++p) {
        const int64_t y = p / s.width + dy, x = p % s.width + dx;
        if (y < 0 || y >= s.height || x < 0 || x >= s.width) continue;
        for (int64_t b = 0; b < c.images; ++b) {
          for (int64_t k = 0; k < s.labels; ++k) {
            for (int64_t d = 0; d < s.channels; ++d) {
              use((b * s.labels + k) * s.pixels() + p, feature_at(c, b, d, y * s.width + x),
                  b * s.channels + d, ((r * s.labels + k) * s.channels + d) * s.cells + i);
            }
          }
        }
      }
    }
  }
}

struct Results {
  Values logits, features, scale, weight, bias;
};

Results by_definition(const Case& c, const Inputs& in, const Values& grad) {
  const HeadShape& s = c.shape;
  Results out{Values(grad.size()), Values(in.features.size()), Values(in.scale.size()),
              Values(in.weight.size()), Values(in.bias.size())};
  for (size_t i = 0; i < grad.size(); ++i) {
    const size_t k = i / s.pixels() % s.labels;
    for (int64_t r = 0; r < s.branches; ++r) {
      out.logits[i] += in.bias[r * s.labels + k];
      out.bias[r * s.labels + k] += grad[i];
    }
  }
  for_each_term(c, [&](int64_t logit, int64_t feature, int64_t scale, int64_t weight) {
    const float factor = c.scaled ? in.scale[scale] : 1, x = in.features[feature],
                w = in.weight[weight], g = grad[logit];
    out.logits[logit] += factor * x * w;
    out.features[feature] += factor * g * w;
    out.weight[weight] += factor * g * x;
    if (c.scaled) out.scale[scale] += g * x * w;
  });
  return out;
}

const void* data(const Values& values) { return values.empty() ? nullptr : values.data(); }
void* data(Values& values) { return values.empty() ? nullptr : values.data(); }

wsss::cuda::HeadCall call_of(const Case& c, const Inputs& in) {
  return {wsss::cuda::ElementType::kFloat32,
          c.shape,
          c.images,
          c.dilations,
          data(in.features),
          data(in.scale),
          data(in.weight),
          c.channels_last,
          c.tf32};
}

bool is_correct(const Case& c) {
  const Inputs in(c);
  const Values grad = small_integers(c.images * c.shape.labels * c.shape.pixels());
  const Results expected = by_definition(c, in, grad);
  const wsss::cuda::HeadCall call = call_of(c, in);
  constexpr float kUnset = -1e9f;
  Values logits(grad.size(), kUnset);
  TestContext context;
  wsss::cuda::label_conditioned_logits(context, call, in.bias.data(), logits.data());
  bool passed = logits == expected.logits && c.tf32 == (context.products == 0);
  for (const bool features : {true, false}) {
    for (const bool sums : {true, false}) {
      Results found{{},
                    Values(features ? in.features.size() : 0, kUnset),
                    Values(sums ? in.scale.size() : 0, kUnset),
                    Values(sums ? in.weight.size() : 0, kUnset),
                    Values(in.bias.size(), kUnset)};
      TestContext own;
      wsss::cuda::label_conditioned_logits_backward(
          own, call, grad.data(), data(found.features), data(found.scale), data(found.weight),
          data(found.bias));
      passed = passed && (!c.tf32 || own.products == 0);
      passed = passed && found.bias == expected.bias;
      if (features) passed = passed && found.features == expected.features;
      if (sums) passed = passed && found.weight == expected.weight && found.scale == expected.scale;
    }
  }
  if (!passed) {
    std::printf("failed: %dx%d, %d labels, %d channels, %d images, channels last %d, scaled %d\n",
                static_cast<int>(c.shape.height), static_cast<int>(c.shape.width),
                static_cast<int>(c.shape.labels), static_cast<int>(c.shape.channels),
                static_cast<int>(c.images), c.channels_last, c.scaled);
  }
  return passed;
}

// Each allocation may be the one that fails.
bool reports_missing_memory() {
  const Case c{{4, 3, 9, 5, 2, 9}, 2, {1, 2}, false, true};
  const Inputs in(c);
  const wsss::cuda::HeadCall call = call_of(c, in);
  Values logits(c.images * c.shape.labels * c.shape.pixels()), weight(in.weight.size()),
      bias(in.bias.size()), scale(in.scale.size());
  bool passed = true;
  for (int count = 0; count < 4; ++count) {
    passed &= wsss::testing::raises(
        [&] {
          TestContext context;
          context.left = count;
          wsss::cuda::label_conditioned_logits_backward(
              context, call, logits.data(), nullptr, scale.data(), weight.data(), bias.data());
        },
        "out of memory");
  }
  return passed;
}

}  // namespace

int main() {
  bool passed = true;
  const std::vector<int64_t> amn{6, 12, 18, 24}, mixed{1, 2, 2, 5};
  for (const bool channels_last : {false, true}) {
    for (const bool scaled : {false, true}) {
      auto check = [&](const HeadShape& shape, int64_t images,
                       const std::vector<int64_t>& dilations) {
        passed &= is_correct({shape, images, dilations, channels_last, scaled});
      };
      for (const auto& [height, width] : {std::pair<int64_t, int64_t>{1, 1}, {1, 8}, {7, 3}}) {
        check({3, 35, height, width, 4, 9}, 2, mixed);
        check({2, 3, height, width, 4, 9}, 2, amn);
        check({2, 8, height, width, 1, 1}, 3, {1});
        check({1, 130, height, width, 2, 1}, 1, {1, 2});
      }
      check({2, 4, 8, 8, 1, 9}, 8, {INT64_MAX / 2});               // only the centre is on the map
      check({3, 2, 3, 3, 30, 9}, 2, std::vector<int64_t>(30, 1));  // more taps than arguments hold
      // Images in groups, labels in shares.
      check({12, 2, 13, 13, 4, 9}, 20, {1, 3, 5, 7});
      passed &= is_correct({{4, 70, 8, 9, 2, 9}, 2, {1, 3}, channels_last, scaled, true});
    }
  }
  passed &= reports_missing_memory();
  passed &= is_correct({{64, 64, 8, 8, 2, 1}, 1, {1, 2}, false, false, true});
  return wsss::testing::report(passed);
}
