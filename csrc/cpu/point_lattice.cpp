#include "point_lattice.h"

#include "point_lattice_kernel.h"

namespace wsss::cpu {

void build_point_lattice(const float* features, int64_t points, int d, int threads,
                         const std::function<PointLatticeArrays(int64_t)>& allocate) {
  Lattice lattice;
  build_tiles(features, points, d, threads, lattice);
  const PointLatticeArrays to = allocate(lattice.vertices);
  flatten(lattice, to.row, to.weight, to.entry, to.first);
  std::copy_n(lattice.next.get(), (d + 1) * lattice.vertices, to.next);
  std::copy_n(lattice.previous.get(), (d + 1) * lattice.vertices, to.previous);
}

template <class Real>
void filter_points(const PointLattice& lattice, const Real* values, Real* out, int64_t channels,
                   bool reverse, int threads) {
  constexpr int64_t kValuesPerThread = 1 << 16;  // fewer are not worth starting a thread
  threads = static_cast<int>(
      std::clamp<int64_t>(lattice.points * channels / kValuesPerThread, 1, threads));
  const auto with = [&](auto c) {
    const auto run = [&](auto corners) {
      PointFilter<Real, c(), corners()> filter(lattice, values, out, channels);
      Team::run(threads, [&](Team& team, int rank) { filter.run(team, rank, reverse); });
    };
    if constexpr (c() == 0) return run(std::integral_constant<int, 0>());
    switch (lattice.corners) {  // of pixels: positions alone, and with a colour
      case 3: return run(std::integral_constant<int, 3>());
      case 6: return run(std::integral_constant<int, 6>());
      default: return run(std::integral_constant<int, 0>());
    }
  };
  // Doubles serve gradient checks, not speed.
  if constexpr (std::is_same_v<Real, double>) return with(std::integral_constant<int, 0>());
  switch (channels) {
    case 1: return with(std::integral_constant<int, 1>());
    case 2: return with(std::integral_constant<int, 2>());
    case 4: return with(std::integral_constant<int, 4>());
    default: return with(std::integral_constant<int, 0>());
  }
}

template void filter_points(const PointLattice&, const float*, float*, int64_t, bool, int);
template void filter_points(const PointLattice&, const double*, double*, int64_t, bool, int);

}  // namespace wsss::cpu
