#include "bilateral_filter.h"

#include <optional>

#include "plane_filter.h"

namespace wsss::cpu {

void bilateral_lattice(const float* image, int64_t batch, int64_t height, int64_t width,
                       const BilateralParameters& parameters, int threads,
                       const std::function<int32_t*(int64_t)>& allocate) {
  struct State {
    PixelTiles tiles;
    ImageLattices lattices;
    State(int64_t height, int64_t width, int threads, const BilateralParameters& parameters)
        : tiles(height, width, threads),
          lattices("bilateral_lattice", parameters, tiles, nullptr) {}
  };
  const int64_t pixels = height * width, levels = pixels * parameters.channels();
  if (batch == 0 || pixels == 0) return;
  std::vector<Lattice> built(batch);
  for_each_image(
      batch, pixels, threads, [&](int team) { return State(height, width, team, parameters); },
      [&](State& state, Team& team, int rank, int64_t b) {
        state.lattices.get(team, rank, image + b * levels, b);
        team.barrier();
        if (rank == 0) built[b] = state.lattices.release();
      });
  const int64_t count = StoredLattices::size(built, height, width, parameters);
  int32_t* to = allocate(count);
  StoredLattices::write_head(built, height, width, parameters, to);
  const StoredLattices stored({to, count}, batch, height, width, parameters);
  for_each_image(
      batch, pixels, threads, [](int) { return 0; },
      [&](int, Team& team, int rank, int64_t b) { stored.write(team, rank, b, built[b], to); });
}

void bilateral_filter(const float* values, const float* image, const LatticeArray& lattice,
                      float* out, const FilterShape& shape, const BilateralParameters& parameters,
                      bool transpose, int threads) {
  struct State {
    PixelTiles tiles;
    ImageLattices lattices;
    PlaneFilter filter;
    State(const FilterShape& shape, int threads, const BilateralParameters& parameters,
          const StoredLattices* stored)
        : tiles(shape.height, shape.width, threads),
          lattices("bilateral_filter", parameters, tiles, stored),
          filter(tiles) {}
  };
  const int64_t pixels = shape.height * shape.width, count = pixels * shape.channels;
  if (shape.batch == 0 || count == 0) return;
  const int64_t bytes = shape.batch * count * static_cast<int64_t>(sizeof(float));
  std::optional<StoredLattices> stored;
  if (lattice.size > 0) {
    stored.emplace(lattice, shape.batch, shape.height, shape.width, parameters);
  }
  for_each_image(
      shape.batch, pixels, threads,
      [&](int team) { return State(shape, team, parameters, stored ? &*stored : nullptr); },
      [&](State& state, Team& team, int rank, int64_t b) {
        const float* levels = image + b * pixels * parameters.channels();
        state.filter.run(
            team, rank, state.lattices.get(team, rank, levels, b), static_cast<int>(shape.channels),
            transpose, LoadPlanes{state.tiles, values + b * count},
            StorePlanes(state.tiles, out + b * count, bytes));
      });
}

}  // namespace wsss::cpu
