#include "random_walk.h"

#include "random_walk_kernel.h"

namespace wsss::cpu {

// The result does not depend on the number of threads.
void random_walk(const float* maps, const float* edge, int64_t batch, int64_t count,
                 const WalkShape& shape, double beta, int64_t steps, int threads, float* out) {
  const int64_t image = shape.height * shape.width;
  // Fewer cells per thread would make steps so short (about 10 us) that barriers dominate.
  constexpr int64_t kCellsPerThread = 2048;
  const int by_image = static_cast<int>(std::min<int64_t>(threads, batch));
  const int inside =
      static_cast<int>(std::clamp<int64_t>(image * count / kCellsPerThread, 1, threads));
  auto walk = [&](Team& team, int rank, RandomWalk& one, int64_t b) {
    one.run(team, rank, maps + b * count * image, edge + b * image, steps, out + b * count * image);
  };
  if (by_image >= inside) {
    Team::run(by_image, [&](Team& team, int rank) {
      const auto [first, last] = Team::part(batch, rank, team.size());
      RandomWalk one(shape, count, beta);
      Team single(1);
      for (int64_t b = first; b < last; ++b) walk(single, 0, one, b);
    });
  } else {
    RandomWalk one(shape, count, beta);
    Team::run(inside, [&](Team& team, int rank) {
      for (int64_t b = 0; b < batch; ++b) walk(team, rank, one, b);
    });
  }
}

}  // namespace wsss::cpu
