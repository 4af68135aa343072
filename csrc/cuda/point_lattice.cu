#include "point_lattice.h"

#include "point_lattice.cuh"

namespace wsss::cuda {

void permutohedral_lattice(Context& context, const float* features, int64_t points, int d,
                           const std::function<PointLattice(int64_t vertices)>& allocate) {
  build_point_lattice(stream_of(context), features, points, d, arenas(context), allocate);
}

void lattice_filter(Context& context, ElementType type, const PointLattice& lattice, const void* in,
                    void* out, int width, bool reverse) {
  const auto filter = [&]<class Real>(Real) {
    filter_points(stream_of(context), lattice, static_cast<const Real*>(in),
                  static_cast<Real*>(out), width, reverse, arenas(context));
  };
  type == ElementType::kFloat64 ? filter(double{}) : filter(float{});
}

}  // namespace wsss::cuda
