#pragma once

#include "../../cuda/point_lattice.h"

#include "../point_lattice.h"
#include "backend.h"

namespace wsss {

inline LatticeTensors permutohedral_lattice_on_cpu(const Tensor& features) {
  std::array<StableIValue, 6> stack{torch::stable::detail::from(on_cpu(features))};
  call_on_cpu(WSSS_CPU_OPS "permutohedral_lattice", stack);
  Tensor all[6];
  for (int i = 0; i < 6; ++i) all[i] = moved(stack[i], features);
  return {all[0], all[1], all[2], all[3], all[4], all[5]};
}

inline cuda::PointLattice lattice_of(const Tensor& row, const Tensor& weight, const Tensor& entry,
                                     const Tensor& first, const Tensor& next,
                                     const Tensor& previous) {
  return {row.size(0),
          first.numel() - 1,
          static_cast<int>(row.size(1)),
          row.mutable_data_ptr<int32_t>(),
          weight.mutable_data_ptr<float>(),
          entry.mutable_data_ptr<int32_t>(),
          first.mutable_data_ptr<int32_t>(),
          next.mutable_data_ptr<int32_t>(),
          previous.mutable_data_ptr<int32_t>()};
}

// features [N, d]
inline LatticeTensors permutohedral_lattice(const Tensor& features_in) {
  const Tensor features = float_input("permutohedral_lattice", "features", features_in, 2);
  const int64_t points = features.size(0), d = features.size(1), corners = d + 1;
  check(d >= 1,
        "permutohedral_lattice: features is " + shape_text(features) + "; must be [N, d], d >= 1");
  if (d > cuda::kMaxDimensions) return permutohedral_lattice_on_cpu(features);
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
    return lattice_of(row, weight, entry, first, next, previous);
  };
  try {
    TorchContext context("permutohedral_lattice", features);
    cuda::permutohedral_lattice(
        context, features.const_data_ptr<float>(), points, static_cast<int>(d), make_arrays);
  } catch (const cuda::BeyondLimits&) {
    return permutohedral_lattice_on_cpu(features);
  }
  return {row, weight, entry, first, next, previous};
}
WSSS_IMPL(permutohedral_lattice)

// values [N, c] float32 or float64 -> the same shape
inline Tensor lattice_filter(const Tensor& row_in, const Tensor& weight_in, const Tensor& entry_in,
                             const Tensor& first_in, const Tensor& next_in,
                             const Tensor& previous_in, const Tensor& values_in, bool reverse) {
  const char* op = "lattice_filter";
  const auto integers = [&](const char* name, const Tensor& t) {
    check_device(op, name, t, row_in);
    return int_input(op, name, t);
  };
  const Tensor row = integers("row", row_in), entry = integers("entry", entry_in);
  const Tensor first = integers("first", first_in), next = integers("next", next_in);
  const Tensor previous = integers("previous", previous_in);
  const Tensor weight = float_input(op, "weight", weight_in, 2);
  check_lattice_filter(row, weight, entry, first, next, previous, values_in);
  const Tensor values = torch::stable::contiguous(values_in);
  check_device(op, "weight", weight, row);
  check_device(op, "values", values, row);
  const int64_t channels = values.size(1);
  check(channels <= INT32_MAX, "lattice_filter: values is " + shape_text(values) + "; too large");
  Tensor out = allocate_like(values);
  if (out.numel() == 0) return out;
  const cuda::PointLattice lattice = lattice_of(row, weight, entry, first, next, previous);
  TorchContext context(op, values);
  cuda::lattice_filter(context, element_type(op, values), lattice, const_data(values),
                       mutable_data(out), static_cast<int>(channels), reverse);
  return out;
}
WSSS_IMPL(lattice_filter)

}  // namespace wsss
