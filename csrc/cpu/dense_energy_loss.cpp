#include "dense_energy_loss.h"

#include <optional>

#include "dense_energy_loss_kernel.h"

namespace wsss::cpu {

double dense_energy_loss(const EnergyShape& shape, const EnergyParameters& parameters,
                         const EnergyArrays& arrays, const LatticeArray& lattice, int threads) {
  struct State {
    PixelTiles tiles;
    ImageLattices lattices;
    EnergyLoss loss;
    State(const EnergyShape& shape, const EnergyParameters& parameters, bool needs_gradient,
          int threads, const StoredLattices* stored)
        : tiles(shape.height, shape.width, threads),
          lattices("dense_energy_loss", parameters.bilateral, tiles, stored),
          loss(shape, parameters, tiles, needs_gradient) {}
  };
  if (shape.images == 0) return 0.0;
  std::optional<StoredLattices> stored;
  if (lattice.size > 0) {
    stored.emplace(lattice, shape.images, shape.height, shape.width, parameters.bilateral);
  }
  const int64_t n = shape.pixels(), values = shape.classes * shape.full_pixels();
  std::vector<double> energy(shape.images);
  for_each_image(
      shape.images, n, threads,
      [&](int team) {
        return State(
            shape, parameters, arrays.gradient != nullptr, team, stored ? &*stored : nullptr);
      },
      [&](State& state, Team& team, int rank, int64_t b) {
        const float* image = arrays.image + b * n * parameters.bilateral.channels();
        const EnergyArrays own{arrays.probabilities + b * values, image, arrays.roi + b * n,
                               arrays.labels == nullptr ? nullptr : arrays.labels + b * n,
                               arrays.gradient == nullptr ? nullptr : arrays.gradient + b * values};
        state.loss.run(team, rank, state.lattices.get(team, rank, image, b), own, &energy[b]);
      });
  double sum = 0.0;
  for (const double e : energy) sum += e;
  return -parameters.weight / static_cast<double>(shape.images) * sum;
}

}  // namespace wsss::cpu
