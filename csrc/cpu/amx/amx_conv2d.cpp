#include "amx_conv2d.h"

#include "conv2d.h"

namespace wsss::cpu {
namespace {

// The batch is processed in passes. A pass has as many images as keep the split map in the L2
// cache, but at least the pixels of a piece, which reads the filters once.
constexpr int64_t kPassBytes = int64_t{1} << 20, kPassPixels = 1024;

int64_t passes_of(const ConvShape& s, int64_t threads) {
  const int64_t pixels = s.out_height() * s.out_width(),
                bytes = s.height * s.width * s.planes() * kMapPixel * 2;
  const int64_t most =
      std::max({kPassBytes / bytes, (kPassPixels + pixels - 1) / pixels, int64_t{1}});
  const int64_t rounds = ((s.batch + most - 1) / most + threads - 1) / threads;
  return std::min(rounds * threads, s.batch);
}

// Parallel over passes if there are at least as many as threads, else inside each pass.
template <int Parts>
void run(const ConvShape& all, const MapArrays& maps, const ConvArrays& arrays, const Host& host) {
  const int64_t threads = std::max<int64_t>(host.threads(), 1), passes = passes_of(all, threads);
  const auto pass = [&](int64_t i, auto share) {
    const int64_t first_image = all.batch * i / passes;
    ConvShape shape = all;
    shape.batch = all.batch * (i + 1) / passes - first_image;
    MapArrays m = maps;
    m.maps += first_image * all.height * all.width * all.channels;
    if (m.inside) m.inside += 2 * first_image;
    ConvArrays a = arrays;
    const int64_t results = first_image * all.out_height() * all.out_width() * all.filters;
    a.out += results;
    if (a.residual) a.residual += results;
    AmxConv<Parts> conv(shape);
    share(
        conv.map().lines(), [&](int64_t first, int64_t last) { conv.map().split(m, first, last); });
    share(conv.pieces(), [&](int64_t first, int64_t last) { conv.run(a, first, last); });
  };
  if (passes >= threads) {
    host.parallel_for(passes, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        pass(i, [](int64_t count, auto work) { work(0, count); });
      }
    });
    return;
  }
  for (int64_t i = 0; i < passes; ++i) {
    pass(i, [&](int64_t count, auto work) { host.parallel_for(count, 1, work); });
  }
}

}  // namespace

void amx_conv2d(const ConvShape& shape, int64_t parts, const MapArrays& maps,
                const ConvArrays& arrays, const Host& host) {
  parts == 3 ? run<3>(shape, maps, arrays, host) : run<2>(shape, maps, arrays, host);
}

}  // namespace wsss::cpu
