#include "dense_crf.h"

#include "mean_field.h"

namespace wsss::cpu {

// Parallel over images when there are enough of them, else inside each image.
void dense_crf(const float* image, const float* unary, float* q, int64_t batch,
               const CrfShape& shape, const CrfParameters& parameters, int threads) {
  const int64_t pixels = shape.pixels(), values = pixels * shape.sets * shape.labels;
  const int64_t levels = pixels * shape.image_channels;
  if (batch == 0 || values == 0) return;
  const int inside = std::min(threads, band_count(pixels));
  if (inside > 1 && batch < threads) {
    MeanField field(shape, parameters, inside);
    Team::run(inside, [&](Team& team, int rank) {
      for (int64_t b = 0; b < batch; ++b) {
        field.run(team, rank, image + b * levels, unary + b * values, q + b * values);
        team.barrier();
      }
    });
    return;
  }
  threads = static_cast<int>(std::min<int64_t>(threads, batch));
  Team::run(threads, [&](Team&, int rank) {
    Team alone(1);
    MeanField field(shape, parameters, 1);
    for (int64_t b = rank; b < batch; b += threads) {
      field.run(alone, 0, image + b * levels, unary + b * values, q + b * values);
    }
  });
}

}  // namespace wsss::cpu
