#include "bilateral_filter.h"

#include "bilateral_filter.cuh"

namespace wsss::cuda {

int64_t bilateral_lattice_bytes(const PixelGrid& grid) {
  return StoredLattices(PixelLattice("bilateral_lattice", "the", grid)).bytes();
}

void bilateral_lattice(Context& context, const PixelGrid& grid, void* lattice) {
  StoredLattices(PixelLattice("bilateral_lattice", "the", grid), lattice)
      .build(stream_of(context), arenas(context));
}

void bilateral_filter(Context& context, const BilateralFilterCall& call) {
  bilateral_filter(stream_of(context), call, arenas(context));
}

}  // namespace wsss::cuda
