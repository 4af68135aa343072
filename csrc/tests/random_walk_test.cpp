// The random walk: the CPU and CUDA kernels compared with dense matrices in double on small maps
// and, bit for bit, with each other, and independence of the number of threads.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"
#include "testing.h"

#include "../cpu/random_walk.cpp"
#include "../cuda/random_walk.cuh"

namespace {

using wsss::testing::uniform;

// The walk on one map of one image, with a matrix entry for every pair of cells.
std::vector<double> by_definition(const wsss::WalkShape& s, const float* map, const float* edge,
                                  double beta, int64_t steps) {
  const int64_t n = s.height * s.width;
  std::vector<double> affinity(n * n, 0.0), field(n), next(n);
  for (int64_t i = 0; i < n; ++i) {
    field[i] = map[i] * (1.0 - edge[i]);
    for (int64_t j = 0; j < n; ++j) {
      const int64_t iy = i / s.width, ix = i % s.width, dy = j / s.width - iy,
                    dx = j % s.width - ix;
      if (dy * dy + dx * dx >= s.radius * s.radius) continue;
      double highest = 0;
      for (int64_t y = std::min<int64_t>(dy, 0); y <= std::max<int64_t>(dy, 0); ++y) {
        for (int64_t x = std::min<int64_t>(dx, 0); x <= std::max<int64_t>(dx, 0); ++x) {
          const double distance = std::fabs(dy * x - dx * y) / std::hypot(dy, dx);
          if (distance < 1) highest = std::max<double>(highest, edge[(iy + y) * s.width + ix + x]);
        }
      }
      affinity[i * n + j] = i == j ? 1.0 : std::pow(1 - highest, beta);
    }
  }
  for (int64_t step = 0; step < steps; ++step) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, mean = 0;
      for (int64_t i = 0; i < n; ++i) {
        sum += affinity[i * n + j], mean += affinity[i * n + j] * field[i];
      }
      next[j] = mean / sum;
    }
    field = next;
  }
  return field;
}

std::vector<float> on_device(const wsss::WalkShape& s, int64_t batch, int64_t maps,
                             const std::vector<float>& map, const std::vector<float>& edge,
                             double beta, int64_t steps) {
  wsss::cuda::WalkArrays a{s, batch, maps, nullptr, nullptr, {}};
  std::vector<float> wall(batch * a.plane()),
      weights(batch * wsss::neighbours(s.radius) * s.cells());
  std::vector<float> fields[2], out(map.size());
  for (int i : {0, 1}) {
    fields[i].resize(batch * maps * a.plane());
    a.fields[i] = fields[i].data();
  }
  a.wall = wall.data();
  a.weights = weights.data();
  auto launch = [](int64_t threads, const std::function<void()>& kernel) {
    wsss::launch({static_cast<unsigned>((threads + 63) / 64)}, {64}, kernel);
  };
  launch(wall.size(), [&] { wsss::cuda::walk_start(a, map.data(), edge.data()); });
  launch(batch * s.cells(), [&] { wsss::cuda::walk_weights(a, static_cast<float>(beta)); });
  for (int64_t step = 0; step < steps; ++step) {
    for (int64_t k = 0; k < maps; k += maps - k >= 2 ? 2 : 1) {
      launch(batch * s.cells(), [&] {
        const float* from = a.fields[step % 2];
        float* to = a.fields[(step + 1) % 2];
        maps - k >= 2 ? wsss::cuda::walk_step<2>(a, k, from, to)
                      : wsss::cuda::walk_step<1>(a, k, from, to);
      });
    }
  }
  launch(out.size(), [&] { wsss::cuda::walk_end(a, a.fields[steps % 2], out.data()); });
  return out;
}

bool is_correct(const wsss::WalkShape& s, int64_t batch, int64_t maps, double beta, int64_t steps) {
  const int64_t n = s.height * s.width;
  std::vector<float> map(batch * maps * n), edge(batch * n);
  for (float& x : map) x = static_cast<float>(uniform());
  for (float& x : edge) x = uniform() < 0.1 ? 1.0f : static_cast<float>(0.3 * uniform());
  std::vector<float> one(map.size(), -1.0f), many(map.size(), -1.0f);
  wsss::cpu::random_walk(map.data(), edge.data(), batch, maps, s, beta, steps, 1, one.data());
  bool passed = true;
  for (int threads : {2, 3}) {
    wsss::RandomWalk walk(s, maps, beta);  // with a team inside one image, however small
    wsss::Team::run(threads, [&](wsss::Team& team, int rank) {
      for (int64_t b = 0; b < batch; ++b) {
        walk.run(team, rank, map.data() + b * maps * n, edge.data() + b * n, steps,
                 many.data() + b * maps * n);
      }
    });
    passed = passed && many == one;
    wsss::cpu::random_walk(
        map.data(), edge.data(), batch, maps, s, beta, steps, threads, many.data());
    passed = passed && many == one;
  }
  const bool whole = beta == std::floor(beta);
  const auto device = on_device(s, batch, maps, map, edge, beta, steps);
  for (int64_t plane = 0; plane < batch * maps; ++plane) {
    const auto exact =
        by_definition(s, map.data() + plane * n, edge.data() + plane / maps * n, beta, steps);
    for (int64_t i = 0; i < n; ++i) {
      const float ours = one[plane * n + i], theirs = device[plane * n + i];
      passed = passed && std::fabs(ours - exact[i]) < 2e-6 &&
               (whole ? theirs == ours : std::fabs(theirs - exact[i]) < 2e-6);
    }
  }
  if (!passed) {
    std::printf("failed: %dx%d, radius %d, %d maps, beta %g\n", static_cast<int>(s.height),
                static_cast<int>(s.width), s.radius, static_cast<int>(maps), beta);
  }
  return passed;
}

}  // namespace

int main() {
  bool passed = true;
  for (int radius : {1, 2, 3, 5, 10}) {
    passed &= is_correct({9, 11, radius}, 1, 3, 10, 20);
    passed &= is_correct({1, 1, radius}, 2, 1, 8, 3);
    passed &= is_correct({1, 17, radius}, 1, 2, 2.5, 9);
    passed &= is_correct({12, 1, radius}, 3, 5, 1, 8);
  }
  for (int64_t maps : {1, 2, 4, 6, 7}) passed &= is_correct({7, 33, 5}, 2, maps, 10, 8);
  passed &= is_correct({5, 4, 5}, 2, 2, 10, 0);
  return wsss::testing::report(passed);
}
