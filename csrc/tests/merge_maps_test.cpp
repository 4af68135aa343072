// Class maps of several views: the CUDA code, run by the emulator, and the CPU's softmax, compared
// with the definition in double, for odd sizes, strides and aligned sizes, and independence of the
// order of blocks and of the number of threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"
#include "cuda_workspace.h"
#include "testing.h"

#include "../cpu/merge_maps.cpp"
#include "../cuda/merge_maps.cu"

namespace {

using wsss::cuda::MapSize;
using wsss::cuda::MergeKind;
using wsss::testing::uniform;

class Workspace : public wsss::cuda::Context {
 public:
  Workspace() : Context("merge_maps", nullptr) {}
  void* allocate(int64_t bytes) override { return pieces_.allocate(bytes); }
  size_t mark() const override { return 0; }
  void release(size_t) override {}
  void multiply(wsss::cuda::ElementType, const wsss::cuda::Matrices&, const wsss::cuda::Matrices&,
                const wsss::cuda::Matrices&) override {}

 private:
  wsss::testing::Pieces pieces_;
};

struct Problem {
  int64_t images, channels;
  MergeKind kind;
  bool present_only, with_small, with_masks, channels_last;
  int64_t height, width, align;
  std::vector<std::pair<int64_t, int64_t>> sizes;  // of the views
  std::vector<int32_t> row_channel, row_image;
  std::vector<std::vector<float>> views;
  std::vector<uint8_t> masks[2];
  MapSize maps[2];  // small, full

  int64_t pixels(int size) const { return maps[size].height * maps[size].width; }
  int64_t rows() const { return static_cast<int64_t>(row_channel.size()); }
  // Where a value of a view is stored: image, channel, row, column.
  int64_t place(size_t view, int64_t b, int64_t k, int64_t y, int64_t x) const {
    const auto [h, w] = sizes[view];
    return channels_last ? ((b * h + y) * w + x) * channels + k
                         : ((b * channels + k) * h + y) * w + x;
  }
};

wsss::OutputView view_of(const Problem& p, size_t n) {
  return {p.views[n].data(),      p.sizes[n].first,       p.sizes[n].second,
          p.place(n, 1, 0, 0, 0), p.place(n, 0, 1, 0, 0), p.place(n, 0, 0, 1, 0),
          p.place(n, 0, 0, 0, 1)};
}

void fill(Problem& p) {
  auto aligned = [&](int64_t n) { return (n + p.align - 1) / p.align * p.align; };
  const int64_t h = (p.height - 1) / 4 + 1, w = (p.width - 1) / 4 + 1;
  if (p.with_small) p.maps[0] = {h, w, h, w};
  p.maps[1] = {p.height, p.width, aligned(p.height), aligned(p.width)};
  for (const auto& [height, width] : p.sizes) {
    std::vector<float> view(2 * p.images * p.channels * height * width);
    for (float& x : view) x = static_cast<float>(3 * uniform());
    p.views.push_back(std::move(view));
  }
  for (int size = 0; size < 2; ++size) {
    for (int64_t i = 0; i < p.images * p.pixels(size); ++i) {
      p.masks[size].push_back(static_cast<uint8_t>(2 * uniform()));
    }
  }
}

double mixed(const Problem& p, int64_t image, int64_t channel, const MapSize& size, int64_t y,
             int64_t x) {
  auto at = [](int64_t i, int64_t from, int64_t to) {
    const double step = static_cast<double>(from) / static_cast<double>(to);
    return std::clamp((static_cast<double>(i) + 0.5) * step - 0.5, 0.0, from - 1.0);
  };
  double sum = 0;
  for (size_t n = 0; n < p.sizes.size(); ++n) {
    const auto [h, w] = p.sizes[n];
    const double v = at(y, h, size.resized_height), u = at(x, w, size.resized_width);
    for (int64_t j = 0; j < h; ++j) {
      for (int64_t i = 0; i < w; ++i) {
        const double tent = std::max(0.0, 1 - std::fabs(v - static_cast<double>(j))) *
                            std::max(0.0, 1 - std::fabs(u - static_cast<double>(i)));
        sum += tent * (p.views[n][p.place(n, image, channel, j, i)] +
                       p.views[n][p.place(n, p.images + image, channel, j, w - 1 - i)]);
      }
    }
  }
  return sum;
}

std::vector<double> by_definition(const Problem& p, int which) {
  const MapSize& size = p.maps[which];
  const int64_t n = p.pixels(which);
  std::vector<double> out(p.rows() * n);
  for (int64_t r = 0; r < p.rows(); ++r) {
    const int64_t image = p.row_image[r];
    for (int64_t i = 0; i < n; ++i) {
      auto value = [&](int64_t k) {
        const double sum = mixed(p, image, k, size, i / size.width, i % size.width);
        const double mean = sum / 2 / static_cast<double>(p.sizes.size());
        return p.kind == MergeKind::kSoftmax ? std::exp(mean) : sum;
      };
      out[r * n + i] = value(p.row_channel[r]);
      if (p.kind != MergeKind::kSoftmax) continue;
      double sum = 0;
      for (int64_t k = 0; k < p.channels && !p.present_only; ++k) sum += value(k);
      for (int64_t o = 0; o < p.rows() && p.present_only; ++o) {
        if (p.row_image[o] == image) sum += value(p.row_channel[o]);
      }
      out[r * n + i] /= sum;
    }
    const auto [low, high] = std::minmax_element(&out[r * n], &out[r * n] + n);
    const double least = *low, range = *high - *low + 1e-5, most = *high + 1e-5;
    for (int64_t i = 0; i < n; ++i) {
      double& x = out[r * n + i];
      if (p.kind == MergeKind::kRelative) x /= most;
      if (p.with_masks && p.masks[which][image * n + i]) x = (x - least) / range;
    }
  }
  return out;
}

std::vector<float> on_device(const Problem& p, int which) {
  std::vector<float> maps[2];
  for (int size = 0; size < 2; ++size) maps[size].assign(p.rows() * p.pixels(size), -9.0f);
  wsss::cuda::MergeCall call{};
  call.type = call.out_type = wsss::cuda::ElementType::kFloat32;
  for (size_t n = 0; n < p.views.size(); ++n) call.views.push_back(view_of(p, n));
  call.images = p.images, call.channels = p.channels;
  call.row_channel = p.row_channel, call.row_image = p.row_image;
  call.kind = p.kind, call.present_only = p.present_only;
  call.small = p.maps[0], call.full = p.maps[1];
  if (p.with_masks) call.small_mask = p.masks[0].data(), call.full_mask = p.masks[1].data();
  call.small_maps = p.with_small ? maps[0].data() : nullptr;
  call.full_maps = maps[1].data();
  Workspace workspace;
  wsss::cuda::merge_maps(workspace, call);
  return maps[which];
}

std::vector<float> on_cpu(const Problem& p, int which, int threads) {
  std::vector<float> maps[2];
  wsss::cpu::SoftmaxCall<float> call{};
  for (size_t n = 0; n < p.views.size(); ++n) call.views.push_back(view_of(p, n));
  call.images = p.images, call.channels = p.channels;
  call.wanted.resize(p.images);
  for (int64_t r = 0; r < p.rows(); ++r) call.wanted[p.row_image[r]].push_back(p.row_channel[r]);
  call.present_only = p.present_only;
  for (int size = p.with_small ? 0 : 1; size < 2; ++size) {
    maps[size].assign(p.rows() * p.pixels(size), -9.0f);
    call.sizes.push_back({p.maps[size].height, p.maps[size].width,
                          p.with_masks ? p.masks[size].data() : nullptr, maps[size].data()});
  }
  wsss::cpu::merge_maps_softmax(call, threads);
  return maps[which];
}

bool is_close(const std::vector<float>& ours, const std::vector<double>& exact) {
  bool close = ours.size() == exact.size();
  for (size_t i = 0; close && i < exact.size(); ++i) {
    close = std::fabs(ours[i] - exact[i]) < 2e-6 * (1 + std::fabs(exact[i]));
  }
  return close;
}

// Large enough for several threads of the CPU kernel.
bool threads_do_not_matter() {
  Problem p{2,  40, MergeKind::kSoftmax, false,         true,         true, true, 61,
            66, 1,  {{3, 4}, {2, 2}},    {3, 39, 0, 0}, {0, 0, 1, 1}, {},   {},   {}};
  fill(p);
  return on_cpu(p, 1, 1) == on_cpu(p, 1, 3) && on_cpu(p, 0, 1) == on_cpu(p, 0, 3);
}

bool is_correct(Problem p) {
  fill(p);
  bool passed = true;
  for (int which = p.with_small ? 0 : 1; which < 2; ++which) {
    const auto device = on_device(p, which);
    const bool softmax = p.kind == MergeKind::kSoftmax;
    const auto host = softmax ? on_cpu(p, which, 2) : device;
    if (!wsss::testing::kCompareResults) continue;
    cuda_on_cpu::reversed = true;
    passed = passed && on_device(p, which) == device;
    cuda_on_cpu::reversed = false;
    const auto exact = by_definition(p, which);
    passed = passed && is_close(device, exact) && is_close(host, exact);
  }
  if (!passed) {
    std::printf("failed: kind %d, %dx%d\n", static_cast<int>(p.kind), static_cast<int>(p.height),
                static_cast<int>(p.width));
  }
  return passed;
}

}  // namespace

int main() {
  bool passed = threads_do_not_matter();
  for (const MergeKind kind : {MergeKind::kRelative, MergeKind::kSoftmax, MergeKind::kSum}) {
    const bool softmax = kind == MergeKind::kSoftmax;
    for (const bool last : {false, true}) {
      Problem p{
          2,
          4,
          kind,
          softmax && last,
          true,
          softmax,
          last,
          37,
          50,
          softmax ? 1 : 16,
          {{3, 4}, {2, 2}, {5, 7}},
          {3, 0, 2},
          {0, 0, 1},
          {},
          {},
          {}};
      passed &= is_correct(p);
      p.height = p.width = 1, p.with_small = false;
      passed &= is_correct(p);
    }
    // One image without maps, and larger views.
    passed &= is_correct(
        {3, 1, kind, false, true, false, false, 5, 9, 1, {{8, 3}}, {0, 0}, {0, 2}, {}, {}, {}});
  }
  // More rows than the arguments of one kernel carry.
  Problem many{
      1,
      2,
      MergeKind::kSum,
      false,
      true,
      false,
      false,
      2,
      3,
      1,
      {{2, 2}},
      std::vector<int32_t>(700, 1),
      std::vector<int32_t>(700, 0),
      {},
      {},
      {}};
  passed &= is_correct(many);
  return wsss::testing::report(passed);
}
