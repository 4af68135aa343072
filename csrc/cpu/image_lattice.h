// The bilateral lattice of an image, and how the images of a batch are shared among threads.
#pragma once

#include "bilateral_filter.h"
#include "pixel_tiles.h"

namespace wsss {

// Builds the lattice of image [C, H, W] with the pixels in the order of `tiles`. Every thread of
// the team calls. Returns whether the values that this thread has read are within the bounds.
inline bool build_image_lattice(Team& team, int rank, BuildState& state, Lattice& lattice,
                                const BilateralParameters& parameters, const PixelTiles& tiles,
                                const float* image) {
  const int channels = parameters.channels();
  const auto last = [](int64_t size) { return static_cast<double>(size - 1); };
  double from[kMaxDimensions] = {},
         to[kMaxDimensions] = {
             last(tiles.width()) / parameters.sx, last(tiles.height()) / parameters.sy};
  const float lowest = static_cast<float>(parameters.lowest);
  const float highest = static_cast<float>(parameters.highest);
  for (int i = 0; i < channels; ++i) {
    from[2 + i] = lowest / parameters.levels[i];
    to[2 + i] = highest / parameters.levels[i];
  }
  bool good = true;
  const auto features = [&](int64_t t, Lanes* f) {
    const int64_t p = tiles.first_pixel(t);
    const int count = tiles.position(p, parameters.sx, parameters.sy, f);
    IntLanes valid = IntLanes{} - 1;
    for (int i = 0; i < channels; ++i) {
      Lanes v = load_some(image + i * tiles.pixels() + p, count);
      for (int lane = count; lane < kLanes; ++lane) v[lane] = lowest;
      // The key of a value outside would wrap around.
      const IntLanes inside = (v >= lowest) & (v <= highest);
      valid &= inside;
      f[2 + i] = (inside ? v : Lanes{} + lowest) / parameters.levels[i];
    }
    good = good && all(valid);
    return count;
  };
  build_lattice(
      team, rank, state, lattice, parameters.dimensions(), tiles.pixels(), from, to, features);
  return good;
}

// Calls run(state, team, rank, image number) on the threads of a team for every image of a batch,
// in parallel over images when there are enough of them, else inside each image. Each team has its
// own state, make(its number of threads).
template <class Make, class Run>
void for_each_image(int64_t batch, int64_t pixels, int threads, const Make& make, const Run& run) {
  const int inside = std::min(threads, band_count(pixels));
  if (inside > 1 && batch < threads) {
    auto state = make(inside);
    Team::run(inside, [&](Team& team, int rank) {
      for (int64_t b = 0; b < batch; ++b) {
        run(state, team, rank, b);
        team.barrier();
      }
    });
    return;
  }
  threads = static_cast<int>(std::min<int64_t>(threads, batch));
  Team::run(threads, [&](Team&, int rank) {
    Team alone(1);
    auto state = make(1);
    for (int64_t b = rank; b < batch; b += threads) run(state, alone, 0, b);
  });
}

}  // namespace wsss
