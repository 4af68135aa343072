// Views of images: the CPU kernels and the CUDA kernels, in the emulator, compared bit for bit with
// plain loops over the same weights, for both orders of the passes and any number of threads.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"
#include "cuda_workspace.h"
#include "testing.h"

#include "../cpu/image_views.cpp"
#include "../cpu/resize_window.cpp"
#include "../cuda/image_views.cu"

namespace {

using wsss::kChannels, wsss::kLevels, wsss::ResizedSide;
using Pixels = std::vector<uint8_t>;
using Values = std::vector<uint32_t>;

constexpr wsss::PassOrder kOrders[] = {
    wsss::PassOrder::kHorizontal, wsss::PassOrder::kTall, wsss::PassOrder::kShrinking};
constexpr double kMean[] = {0.485, 0.456, 0.406}, kStd[] = {0.229, 0.224, 0.225};

struct Size {
  int64_t height, width;
};

// One pass over [outer, source, inner] -> [outer, size, inner].
Pixels pass(const Pixels& from, const ResizedSide& side, int64_t inner) {
  if (!side.changes()) return from;
  const int64_t outer = static_cast<int64_t>(from.size()) / (side.source * inner);
  Pixels to;
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i = 0; i < side.size; ++i) {
      const wsss::PixelTaps taps(side, i);
      for (int64_t k = 0; k < inner; ++k) {
        int64_t sum = 1 << 21;
        for (int64_t j = taps.first; j < taps.last; ++j) {
          sum += int64_t{wsss::fixed_weight(taps.weight(j), taps.total())} *
                 from[(o * side.source + j) * inner + k];
        }
        to.push_back(static_cast<uint8_t>(std::clamp<int64_t>(sum >> 22, 0, 255)));
      }
    }
  }
  return to;
}

Pixels resized(const Pixels& image, Size from, Size to, int64_t channels, wsss::PassOrder order) {
  const ResizedSide rows{from.height, to.height}, columns{from.width, to.width};
  const int64_t less = from.height - to.height;
  const bool tall = order == wsss::PassOrder::kTall && from.height > 100 * from.width,
             shrinking = order == wsss::PassOrder::kShrinking && less > 2 * (from.width - to.width);
  if (less > 0 && (tall || shrinking)) {
    return pass(pass(image, rows, from.width * channels), columns, channels);
  }
  return pass(pass(image, columns, channels), rows, to.width * channels);
}

// [M * images, h, w, 3] float32 as integers.
Values expected_view(const Pixels& images, int64_t count, Size from, Size to,
                     wsss::PassOrder order) {
  const Pixels all = resized(images, from, to, kChannels, order);
  Values values(2 * all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    const int64_t c = i % 3, pixel = i / 3, x = pixel % to.width;
    const float value = static_cast<float>((all[i] / 255.0 - kMean[c]) / kStd[c]);
    std::memcpy(&values[i], &value, 4);
    values[all.size() + (pixel + to.width - 1 - 2 * x) * 3 + c] = values[i];
  }
  return values;
}

// Workspace of a CUDA call.
class TestContext : public wsss::cuda::Context {
 public:
  TestContext() : Context("image_views", nullptr) {}
  void* allocate(int64_t bytes) override { return pieces_.allocate(bytes); }
  using Context::allocate;
  size_t mark() const override { return pieces_.held.size(); }
  void release(size_t mark) override { pieces_.held.resize(mark); }
  void multiply(wsss::cuda::ElementType, const wsss::cuda::Matrices&, const wsss::cuda::Matrices&,
                const wsss::cuda::Matrices&) override {}

 private:
  wsss::testing::Pieces pieces_;
};

Pixels random_pixels(int64_t count) {
  Pixels pixels(count);
  const bool extreme = wsss::testing::uniform() < 0.3;
  for (uint8_t& p : pixels) {
    const uint32_t bits = wsss::testing::random_bits() >> 16;
    p = static_cast<uint8_t>(extreme ? (bits & 1) * 255 : bits);
  }
  return pixels;
}

bool views_are_correct(int64_t count, Size from, const std::vector<Size>& sizes,
                       wsss::PassOrder order) {
  const Pixels images = random_pixels(count * from.height * from.width * kChannels);
  std::vector<float> levels(kChannels * kLevels);
  for (int i = 0; i < kChannels * kLevels; ++i) {
    levels[i] = wsss::normalised_level(i % kLevels, kMean[i / kLevels], kStd[i / kLevels]);
  }
  std::vector<Values> expected;
  for (const Size& to : sizes) {
    expected.push_back(expected_view(images, count, from, to, order));
  }
  bool passed = true;
  const auto compare = [&](const char* what, const auto& run) {
    std::vector<Values> found;
    for (const Values& e : expected) found.emplace_back(e.size(), 0xcdcdcdcdu);
    run(found);
    if (found != expected) {
      std::printf(
          "failed: %s, %dx%d\n", what, static_cast<int>(from.height), static_cast<int>(from.width));
      passed = false;
    }
  };
  for (int threads : {1, 3}) {
    compare("CPU", [&](std::vector<Values>& found) {
      std::vector<wsss::cpu::ViewArray> views;
      for (size_t i = 0; i < sizes.size(); ++i) {
        views.push_back({sizes[i].height, sizes[i].width, found[i].data()});
      }
      wsss::cpu::image_views(
          {images.data(), count, from.height, from.width, true, order, levels.data(), 4}, views,
          threads);
    });
  }
  for (const bool reversed : {false, true}) {
    cuda_on_cpu::reversed = reversed;
    compare("CUDA", [&](std::vector<Values>& found) {
      std::vector<wsss::cuda::ViewArray> views;
      for (size_t i = 0; i < sizes.size(); ++i) {
        views.push_back({sizes[i].height, sizes[i].width, found[i].data()});
      }
      TestContext context;
      wsss::cuda::ViewsCall call{
          images.data(),
          count,
          from.height,
          from.width,
          true,
          order,
          wsss::cuda::ElementType::kFloat32,
          {},
          {}};
      std::copy(kMean, kMean + 3, call.mean);
      std::copy(kStd, kStd + 3, call.std);
      wsss::cuda::image_views(context, call, views);
    });
  }
  return passed;
}

bool windows_are_correct(Size from, Size to, int64_t channels, const wsss::Window& w) {
  const Pixels image = random_pixels(from.height * from.width * channels);
  bool passed = true;
  for (const auto order : kOrders) {
    const Pixels whole = resized(image, from, to, channels, order);
    Pixels expected;
    for (int64_t y = w.top; y < w.bottom; ++y) {
      const auto row = whole.begin() + (y * to.width + w.left) * channels;
      expected.insert(expected.end(), row, row + (w.right - w.left) * channels);
    }
    for (int threads : {1, 2}) {
      Pixels found(expected.size());
      wsss::cpu::resize_window(image.data(), {{from.height, to.height}, {from.width, to.width}},
                               channels, order, w, threads, found.data());
      passed = passed && found == expected;
    }
  }
  if (!passed) std::printf("failed: a window of %d rows\n", static_cast<int>(to.height));
  return passed;
}

}  // namespace

int main() {
  bool passed = true;
  for (const auto order : kOrders) {
    passed &= views_are_correct(1, {19, 23}, {{10, 12}, {19, 23}, {28, 34}, {38, 46}}, order);
    passed &= views_are_correct(2, {41, 9}, {{20, 4}, {37, 8}, {41, 12}, {50, 9}}, order);
    passed &= views_are_correct(1, {1, 1}, {{1, 1}, {4, 4}}, order);
    passed &= views_are_correct(3, {1, 37}, {{1, 1}, {1, 90}, {2, 37}}, order);
    passed &= views_are_correct(1, {700, 2}, {{1, 1}, {350, 1}}, order);
  }
  std::vector<Size> many;
  for (int64_t n = 1; n <= 11; ++n) many.push_back({n, 12 - n});
  passed &= views_are_correct(1, {6, 5}, many, wsss::PassOrder::kShrinking);
  for (int64_t channels : {1, 3}) {
    passed &= windows_are_correct({30, 21}, {47, 33}, channels, {3, 40, 5, 30});
    passed &= windows_are_correct({30, 21}, {11, 9}, channels, {2, 11, 0, 9});
    passed &= windows_are_correct({60, 8}, {17, 8}, channels, {16, 17, 7, 8});
    passed &= windows_are_correct({60, 8}, {17, 7}, channels, {0, 16, 2, 5});
    passed &= windows_are_correct({250, 300}, {500, 600}, channels, {0, 500, 0, 600});
  }
  return wsss::testing::report(passed);
}
