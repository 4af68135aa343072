// TF32 products, in the emulator: exact where every sum is, otherwise compared with float64
// products of rounded factors; any order, alignment and size, and numbers that are not finite.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"
#include "testing.h"

#include "../cuda/tf32_product.cu"

namespace {

using wsss::cuda::Matrices;

class TestContext : public wsss::cuda::Context {
 public:
  TestContext() : Context("tf32_product", nullptr) {}
  void* allocate(int64_t) override { return nullptr; }
  size_t mark() const override { return 0; }
  void release(size_t) override {}
  void multiply(wsss::cuda::ElementType, const Matrices&, const Matrices&,
                const Matrices&) override {}
};

// `batch` matrices with unused numbers between rows, which are NaN.
struct Storage {
  Storage(int64_t batch, int64_t rows, int64_t columns, bool transposed, int64_t gap)
      : values(batch * (transposed ? columns : rows) * ((transposed ? rows : columns) + gap), NAN),
        of{values.data(),
           batch,
           transposed ? columns : rows,
           transposed ? rows : columns,
           static_cast<int64_t>(values.size()) / batch,
           (transposed ? rows : columns) + gap,
           transposed} {}
  float& at(int64_t i, int64_t row, int64_t column) {
    if (of.transposed) std::swap(row, column);
    return values[i * of.step + row * of.row_step + column];
  }

  std::vector<float> values;
  Matrices of;
};

struct Case {
  int64_t batch, rows, inner, columns, gap;
  bool turned_a, turned_b, turned_out, integers;
};

bool is_correct(const Case& c) {
  Storage a(c.batch, c.rows, c.inner, c.turned_a, c.gap),
      b(c.batch, c.inner, c.columns, c.turned_b, c.gap),
      out(c.batch, c.rows, c.columns, c.turned_out, c.gap);
  auto fill = [&](Storage& s) {
    for (float& x : s.values) {
      if (s.of.row_step == s.of.columns || (&x - s.values.data()) % s.of.row_step < s.of.columns) {
        x = c.integers ? wsss::testing::small_integer() : wsss::testing::uniform_float() - 0.5f;
      }
    }
  };
  fill(a);
  fill(b);
  wsss::cuda::multiply_tf32(TestContext(), a.of, b.of, out.of);
  bool passed = true;
  double worst = 0;
  for (int64_t i = 0; i < c.batch; ++i) {
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t column = 0; column < c.columns; ++column) {
        double sum = 0;
        for (int64_t k = 0; k < c.inner; ++k) {
          sum += static_cast<double>(wsss::cuda::rounded_to_tf32(a.at(i, row, k))) *
                 wsss::cuda::rounded_to_tf32(b.at(i, k, column));
        }
        worst = std::max(worst, std::fabs(out.at(i, row, column) - sum));
        out.at(i, row, column) = NAN;
      }
    }
  }
  passed = worst <= (c.integers ? 0.0 : 1e-6 * static_cast<double>(c.inner));
  // Nothing else is written.
  for (float x : out.values) passed = passed && std::isnan(x);
  if (!passed) {
    std::printf("failed: %dx%dx%d, transposed %d %d %d, gap %d: error %g\n",
                static_cast<int>(c.rows), static_cast<int>(c.inner), static_cast<int>(c.columns),
                c.turned_a, c.turned_b, c.turned_out, static_cast<int>(c.gap), worst);
  }
  return passed;
}

bool rounds(float from, float to) {
  const float found = wsss::cuda::rounded_to_tf32(from);
  const bool passed = std::isnan(to) ? std::isnan(found) : found == to;
  if (!passed) std::printf("failed: %a is rounded to %a, not %a\n", from, found, to);
  return passed;
}

// Infinite and NaN factors reach the sums that they belong to, and no other ones.
bool keeps_non_finite() {
  Storage a(1, 130, 20, false, 0), b(1, 20, 70, false, 0), out(1, 130, 70, false, 0);
  std::fill(a.values.begin(), a.values.end(), 1.0f);
  std::fill(b.values.begin(), b.values.end(), 1.0f);
  a.at(0, 129, 3) = INFINITY;
  uint32_t bits = 0x7fffffff;  // the NaN that GPUs compute
  std::memcpy(&b.at(0, 19, 69), &bits, 4);
  wsss::cuda::multiply_tf32(TestContext(), a.of, b.of, out.of);
  bool passed = true;
  for (int64_t row = 0; row < 130; ++row) {
    for (int64_t column = 0; column < 70; ++column) {
      const float x = out.at(0, row, column);
      passed = passed && (column == 69 ? std::isnan(x) : x == (row == 129 ? INFINITY : 20.0f));
    }
  }
  if (!passed) std::puts("failed: numbers that are not finite");
  return passed;
}

}  // namespace

int main() {
  bool passed = keeps_non_finite();
  for (const int order : {0, 1, 2, 3, 4, 5, 6, 7}) {
    const bool a = order & 1, b = order & 2, out = order & 4;
    passed &= is_correct({2, 65, 64, 130, 4, a, b, out, true});
    passed &= is_correct({1, 129, 79, 67, 0, a, b, out, false});  // not aligned
    passed &= is_correct({1, 1, 1, 3, 1, a, b, out, true});
  }
  const float one = 1.0f, step = 0x1p-10f;
  passed &= rounds(one + step / 2, one + step) & rounds(-one - step / 2, -one - step);
  passed &= rounds(one + step / 2 - 0x1p-23f, one) & rounds(one + step, one + step);
  passed &= rounds(0x1.fffffep127f, INFINITY) & rounds(-INFINITY, -INFINITY) & rounds(NAN, NAN);
  passed &= rounds(0x1p-138f, 0.0f) & rounds(0x1p-137f, 0x1p-136f);
  return wsss::testing::report(passed);
}
