// The AMX convolution compared with the definition in double, for odd shapes and any order of
// pieces; and the AMX unit compared with the plain loops that replace it on other processors.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "testing.h"

#include "../cpu/amx/conv2d.h"

namespace {

// In [-1, 1).
float uniform() { return 2 * wsss::testing::uniform_float() - 1; }

std::vector<float> random(int64_t count) {
  std::vector<float> values(count);
  for (float& v : values) v = uniform();
  return values;
}

// Weight [K, taps, C] -> its parts, in the order in which the kernel reads them.
template <int Parts>
std::vector<uint16_t> packed(const wsss::ConvShape& s, const std::vector<float>& weight) {
  const int64_t taps = s.taps();
  std::vector<uint16_t> out(s.blocks() * s.planes() * taps * Parts * 2 * wsss::kTileElements);
  for (int64_t k = 0; k < s.filters; ++k) {
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t c = 0; c < s.channels; ++c) {
        float rest = weight[(k * taps + t) * s.channels + c];
        for (int p = 0; p < Parts; ++p) {
          const uint16_t part = wsss::to_bf16(rest);
          rest -= wsss::bf16_value(part);
          const int64_t tile =
              (((k / 32 * s.planes() + c / 32) * taps + t) * Parts + p) * 2 + k / 16 % 2;
          out[tile * wsss::kTileElements + c % 32 / 2 * 32 + k % 16 * 2 + c % 2] = part;
        }
      }
    }
  }
  return out;
}

template <int Parts>
bool is_correct(const wsss::ConvShape& s, bool normed, bool summed, double tolerance) {
  const int64_t taps = s.taps(), results = s.out_height() * s.out_width(),
                size = s.batch * results * s.filters;
  const auto maps = random(s.batch * s.height * s.width * s.channels),
             weight = random(s.filters * taps * s.channels);
  const auto scale = random(s.channels), shift = random(s.channels), bias = random(s.filters),
             residual = random(size);
  const auto filters = packed<Parts>(s, weight);
  std::vector<int64_t> inside;
  for (int64_t b = 0; b < s.batch; ++b) {
    inside.insert(inside.end(), {s.height - b, s.width - 2 * b});
  }
  std::vector<float> out(size, NAN);
  const wsss::MapArrays given{maps.data(), normed ? scale.data() : nullptr,
                              normed ? shift.data() : nullptr, normed ? inside.data() : nullptr};
  const wsss::ConvArrays arrays{filters.data(), summed ? bias.data() : nullptr,
                                summed ? residual.data() : nullptr, summed, out.data()};
  wsss::AmxConv<Parts> conv(s);
  for (int64_t y = conv.map().lines(); y-- > 0;) conv.map().split(given, y, y + 1);
  for (int64_t piece = conv.pieces(); piece-- > 0;) conv.run(arrays, piece, piece + 1);
  if (!wsss::testing::kCompareResults) return true;
  std::vector<float> convolved = maps;
  for (size_t i = 0; normed && i < maps.size(); ++i) {
    const size_t c = i % s.channels;
    convolved[i] = std::fmax(maps[i] * scale[c] + shift[c], 0.0f);
  }
  for (int64_t pixel = 0; pixel < s.batch * results; ++pixel) {
    const int64_t b = pixel / results, y = pixel % results / s.out_width(),
                  x = pixel % s.out_width();
    const int64_t height = normed ? inside[2 * b] : s.height,
                  width = normed ? inside[2 * b + 1] : s.width;
    for (int64_t k = 0; k < s.filters; ++k) {
      double sum = 0, most = 1;
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t v = y * s.stride + t / s.kernel * s.dilation - s.padding();
        const int64_t u = x * s.stride + t % s.kernel * s.dilation - s.padding();
        if (v < 0 || v >= height || u < 0 || u >= width) continue;
        for (int64_t c = 0; c < s.channels; ++c) {
          const double in = convolved[((b * s.height + v) * s.width + u) * s.channels + c];
          const double term = in * weight[(k * taps + t) * s.channels + c];
          sum += term;
          most += std::fabs(term);
        }
      }
      const int64_t at = pixel * s.filters + k;
      if (summed) sum = std::fmax(sum + bias[k] + residual[at], 0.0);
      if (!(std::fabs(out[at] - sum) <= tolerance * most)) {
        std::printf(
            "%ldx%ldx%ldx%ld, kernel %ld, stride %ld, dilation %ld: %g instead of %g\n", s.batch,
            s.height, s.width, s.channels, s.kernel, s.stride, s.dilation, out[at], sum);
        return false;
      }
    }
  }
  return true;
}

template <int Parts, int Lefts>
bool unit_equals_loops() {
  const int64_t steps = 3, step = 2 * wsss::kTileDepth, stride = steps * step,
                offsets[] = {step, 0, 2 * step};
  std::vector<uint16_t> left(4 * wsss::kTileRows * stride),
      right(steps * Parts * 2 * wsss::kTileElements);
  for (uint16_t& v : left) v = wsss::to_bf16(uniform());
  for (uint16_t& v : right) v = wsss::to_bf16(uniform());
  wsss::TileOperands at{{}, stride, offsets, steps, right.data(), right.data(), 1};
  for (int i = 0; i < 4; ++i) at.left[i] = left.data() + i * wsss::kTileRows * stride;
  std::vector<float> loops = random(4 * wsss::kTileSums), unit = loops;
  for (bool first : {false, true, false}) {
    wsss::tile_products_plain<Parts, Lefts>(at, first, loops.data());
    {
#if defined(WSSS_AMX)
      std::optional<wsss::TileConfiguration> configured;
      if (wsss::has_amx()) configured.emplace();
#endif
      wsss::tile_products<Parts, Lefts>(at, first, unit.data());
    }
    for (size_t i = 0; i < loops.size(); ++i) {
      // Sums of 96 * (Parts + 1) products of at most 1.
      if (!(std::fabs(loops[i] - unit[i]) <= 1e-4)) {
        std::printf("%d parts, %d tiles on the left, sum %zu: %g by the unit, %g by loops\n", Parts,
                    Lefts, i, unit[i], loops[i]);
        return false;
      }
    }
  }
  return true;
}

}  // namespace

int main() {
  bool passed = unit_equals_loops<2, 2>() && unit_equals_loops<3, 2>() &&
                unit_equals_loops<2, 4>() && unit_equals_loops<3, 4>();
  for (const wsss::ConvShape& s :
       {wsss::ConvShape{1, 1, 1, 32, 32, 1, 1, 1}, wsss::ConvShape{3, 5, 7, 32, 64, 3, 1, 1},
        wsss::ConvShape{1, 9, 17, 64, 32, 3, 2, 1}, wsss::ConvShape{2, 6, 33, 48, 33, 3, 1, 4},
        wsss::ConvShape{2, 3, 40, 160, 288, 1, 2, 1}, wsss::ConvShape{1, 4, 30, 160, 5, 3, 1, 1},
        wsss::ConvShape{1, 13, 90, 3, 16, 3, 1, 1}, wsss::ConvShape{1, 2, 31, 300, 48, 3, 1, 1},
        wsss::ConvShape{2, 10, 35, 150, 170, 1, 3, 1}}) {
    for (bool normed : {false, true}) {
      passed = passed && is_correct<2>(s, normed, normed, 3e-5) &&
               is_correct<3>(s, normed, !normed, 3e-5);
    }
  }
  return wsss::testing::report(passed);
}
