// The ops permutohedral_lattice and lattice_filter on CUDA.
#pragma once

#include <cstdint>
#include <functional>

#include "context.h"

namespace wsss::cuda {

// The arrays of the op permutohedral_lattice, for N points and M vertices.
struct PointLattice {
  int64_t points, vertices;
  int corners;
  int32_t* row;       // [N, corners] vertex
  float* weight;      // [N, corners]
  int32_t* entry;     // [N * corners] indices into row, sorted by vertex
  int32_t* first;     // [M + 1]
  int32_t* next;      // [corners, M] -1: none
  int32_t* previous;  // [corners, M] -1: none
};

// features [points, d]; allocate(vertices) returns the arrays to fill. Waits for the
// device. Throws BeyondLimits.
void permutohedral_lattice(Context& context, const float* features, int64_t points, int d,
                           const std::function<PointLattice(int64_t vertices)>& allocate);

// in, out [N, width] float32 or float64. Splat, blur directions 0..d (d..0 if reverse), slice.
void lattice_filter(Context& context, ElementType type, const PointLattice& lattice, const void* in,
                    void* out, int width, bool reverse);

}  // namespace wsss::cuda
