// Argument checks of permutohedral_lattice and lattice_filter.
#pragma once

#include <tuple>

#include "arguments.h"

namespace wsss {

// row, weight, entry, first, next, previous (see PointLattice)
using LatticeTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// The arrays of permutohedral_lattice, and values [N, c].
inline void check_lattice_filter(const Tensor& row, const Tensor& weight, const Tensor& entry,
                                 const Tensor& first, const Tensor& next, const Tensor& previous,
                                 const Tensor& values) {
  check(values.dim() == 2, "lattice_filter: values is " + shape_text(values) + "; must be [N, c]");
  check(values.scalar_type() == ScalarType::Float || values.scalar_type() == ScalarType::Double,
        "lattice_filter: values must be float32 or float64");
  check(row.dim() == 2 && row.size(1) >= 2 && row.size(1) < 64,
        "lattice_filter: row is " + shape_text(row) + "; must be [N, d+1]");
  const int64_t points = row.size(0), corners = row.size(1), vertices = first.numel() - 1;
  check(values.size(0) == points && weight.size(0) == points && weight.size(1) == corners &&
            entry.numel() == points * corners && vertices >= (points > 0 ? 1 : 0) &&
            next.numel() == corners * vertices && previous.numel() == corners * vertices,
        "lattice_filter: the tensors do not belong to one lattice with " +
            std::to_string(values.size(0)) + " points");
}

}  // namespace wsss
