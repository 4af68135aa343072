// The ops permutohedral_lattice and lattice_filter on the CPU.
#pragma once

#include <cstdint>
#include <functional>

#include "limits.h"

namespace wsss {

// The lattice of N points in d dimensions, with M vertices and c = d+1 corners.
struct PointLattice {
  int64_t points = 0, vertices = 0;
  int corners = 0;
  const int32_t* row;       // [N, c] vertex of each corner
  const float* weight;      // [N, c]
  const int32_t* entry;     // [N * c] indices into `row`, sorted by vertex
  const int32_t* first;     // [M + 1] where a vertex's entries start
  const int32_t* next;      // [c, M], -1: none
  const int32_t* previous;  // [c, M], -1: none
};

// The same arrays, to be filled.
struct PointLatticeArrays {
  int32_t* row;
  float* weight;
  int32_t *entry, *first, *next, *previous;
};

namespace cpu {

// features [points, d], points > 0, divided by the standard deviations. `allocate` gets the number
// of vertices and returns the arrays to fill.
void build_point_lattice(const float* features, int64_t points, int d, int threads,
                         const std::function<PointLatticeArrays(int64_t vertices)>& allocate);

// values, out [N, channels]; blur directions 0..d, or d..0 if `reverse`.
template <class Real>
void filter_points(const PointLattice& lattice, const Real* values, Real* out, int64_t channels,
                   bool reverse, int threads);

}  // namespace cpu
}  // namespace wsss
