#pragma once

#include "../../cpu/point_lattice.h"

#include "../point_lattice.h"
#include "backend.h"

namespace wsss {

// features [N, d]
inline LatticeTensors permutohedral_lattice(const Tensor& features_in) {
  const Tensor features = float_input("permutohedral_lattice", "features", features_in, 2);
  const int64_t points = features.size(0), d = features.size(1), corners = d + 1;
  check(d >= 1 && d <= kMaxDimensions, "permutohedral_lattice: features must have 1.." +
                                           std::to_string(kMaxDimensions) + " dimensions");
  check(points * corners <= INT32_MAX, "permutohedral_lattice: more than 2^31 corners");
  Tensor row = allocate(features, {points, corners}, ScalarType::Int);
  Tensor weight = allocate(features, {points, corners});
  Tensor entry = allocate(features, {points * corners}, ScalarType::Int);
  Tensor first = allocate_zeros(features, {1}, ScalarType::Int);
  Tensor next = allocate(features, {corners, 0}, ScalarType::Int);
  Tensor previous = allocate(features, {corners, 0}, ScalarType::Int);
  if (points == 0) return {row, weight, entry, first, next, previous};
  const auto make_arrays = [&](int64_t vertices) {
    first = allocate(features, {vertices + 1}, ScalarType::Int);
    next = allocate(features, {corners, vertices}, ScalarType::Int);
    previous = allocate(features, {corners, vertices}, ScalarType::Int);
    return PointLatticeArrays{
        row.mutable_data_ptr<int32_t>(),   weight.mutable_data_ptr<float>(),
        entry.mutable_data_ptr<int32_t>(), first.mutable_data_ptr<int32_t>(),
        next.mutable_data_ptr<int32_t>(),  previous.mutable_data_ptr<int32_t>()};
  };
  cpu::build_point_lattice(
      features.const_data_ptr<float>(), points, static_cast<int>(d), threads(), make_arrays);
  return {row, weight, entry, first, next, previous};
}
WSSS_IMPL(permutohedral_lattice)

// values [N, c] float32 or float64 -> the same shape
inline Tensor lattice_filter(const Tensor& row_in, const Tensor& weight_in, const Tensor& entry_in,
                             const Tensor& first_in, const Tensor& next_in,
                             const Tensor& previous_in, const Tensor& values_in, bool reverse) {
  const auto integers = [](const char* name, const Tensor& t) {
    return int_input("lattice_filter", name, t);
  };
  const Tensor row = integers("row", row_in), entry = integers("entry", entry_in);
  const Tensor first = integers("first", first_in), next = integers("next", next_in);
  const Tensor previous = integers("previous", previous_in);
  const Tensor weight = float_input("lattice_filter", "weight", weight_in, 2);
  check_lattice_filter(row, weight, entry, first, next, previous, values_in);
  const Tensor values = torch::stable::contiguous(values_in);
  Tensor out = allocate_like(values);
  if (out.numel() == 0) return out;
  const PointLattice lattice{
      row.size(0),
      first.numel() - 1,
      static_cast<int>(row.size(1)),
      row.const_data_ptr<int32_t>(),
      weight.const_data_ptr<float>(),
      entry.const_data_ptr<int32_t>(),
      first.const_data_ptr<int32_t>(),
      next.const_data_ptr<int32_t>(),
      previous.const_data_ptr<int32_t>()};
  with_real(values, [&]<class Real>(Real) {
    cpu::filter_points(lattice, values.const_data_ptr<Real>(), out.mutable_data_ptr<Real>(),
                       values.size(1), reverse, threads());
  });
  return out;
}
WSSS_IMPL(lattice_filter)

}  // namespace wsss
