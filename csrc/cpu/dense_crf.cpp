#include "dense_crf.h"

#include <optional>

#include "mean_field.h"

namespace wsss::cpu {

void dense_crf(const float* image, const float* unary, float* q, int64_t batch,
               const CrfShape& shape, const CrfParameters& parameters, int threads,
               const LatticeArray& lattice) {
  const int64_t pixels = shape.pixels(), values = pixels * shape.sets * shape.labels;
  const int64_t levels = pixels * shape.image_channels;
  if (batch == 0 || values == 0) return;
  std::optional<StoredLattices> stored;
  if (lattice.size > 0 && parameters.bilateral_weight > 0) {
    stored.emplace(lattice, batch, shape.height, shape.width, parameters.bilateral());
  }
  for_each_image(
      batch, pixels, threads,
      [&](int team) { return MeanField(shape, parameters, team, stored ? &*stored : nullptr); },
      [&](MeanField& field, Team& team, int rank, int64_t b) {
        field.run(team, rank, image + b * levels, unary + b * values, q + b * values, b);
      });
}

}  // namespace wsss::cpu
