#include "point_lattice.cuh"

#include "device.h"

namespace wsss {
namespace {

using torch::headeronly::ScalarType;

Tensor make(const Tensor& like, std::vector<int64_t> shape, ScalarType type) {
  return torch::stable::new_empty(like, shape, type);
}

// features [N, d] -> row, weight, entry, first, next, previous (see cuda::PointLattice)
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> permutohedral_lattice(const Tensor& features_in) {
  const Tensor features = float_input("permutohedral_lattice", "features", features_in, 2);
  const int64_t points = features.size(0), d = features.size(1), corners = d + 1;
  check(d >= 1 && d <= cuda::kMaxDimensions,
        "permutohedral_lattice: features is " + shape_text(features) + "; the CUDA kernel has 1..8 dimensions");
  Tensor row = make(features, {points, corners}, ScalarType::Int);
  Tensor weight = make(features, {points, corners}, ScalarType::Float);
  Tensor entry = make(features, {points * corners}, ScalarType::Int);
  Tensor first = torch::stable::new_zeros(features, {1}, ScalarType::Int);
  Tensor next = make(features, {corners, 0}, ScalarType::Int), previous = make(features, {corners, 0}, ScalarType::Int);
  if (points > 0) {
    const DeviceCall device(features);
    cuda::build_point_lattice(
        device.stream(), features.const_data_ptr<float>(), points, static_cast<int>(d),
        [&](int64_t bytes, const auto& use) { device.with_arena(bytes, use); },
        [&](int64_t vertices) {
          first = make(features, {vertices + 1}, ScalarType::Int);
          next = make(features, {corners, vertices}, ScalarType::Int);
          previous = make(features, {corners, vertices}, ScalarType::Int);
          return cuda::PointLattice{points,
                                    vertices,
                                    static_cast<int>(corners),
                                    row.mutable_data_ptr<int32_t>(),
                                    weight.mutable_data_ptr<float>(),
                                    entry.mutable_data_ptr<int32_t>(),
                                    first.mutable_data_ptr<int32_t>(),
                                    next.mutable_data_ptr<int32_t>(),
                                    previous.mutable_data_ptr<int32_t>()};
        });
  }
  return {row, weight, entry, first, next, previous};
}

Tensor integers(const char* name, const Tensor& t) {
  check(t.scalar_type() == ScalarType::Int, std::string("lattice_filter: ") + name + " must be int32");
  return torch::stable::contiguous(t);
}

// values [N, c] -> the same shape
Tensor lattice_filter(const Tensor& row_in, const Tensor& weight_in, const Tensor& entry_in, const Tensor& first_in,
                      const Tensor& next_in, const Tensor& previous_in, const Tensor& values_in, bool reverse) {
  Tensor row = integers("row", row_in), entry = integers("entry", entry_in), first = integers("first", first_in);
  Tensor next = integers("next", next_in), previous = integers("previous", previous_in);
  Tensor weight = float_input("lattice_filter", "weight", weight_in, 2);
  const Tensor values = float_input("lattice_filter", "values", values_in, 2);
  check(row.dim() == 2 && row.size(1) >= 2, "lattice_filter: row is " + shape_text(row) + "; must be [N, d+1]");
  const int64_t points = row.size(0), corners = row.size(1), vertices = first.numel() - 1, channels = values.size(1);
  check(values.size(0) == points && weight.size(0) == points && weight.size(1) == corners &&
            entry.numel() == points * corners && vertices >= 0 && next.numel() == corners * vertices &&
            previous.numel() == corners * vertices,
        "lattice_filter: the tensors are not of one lattice with " + std::to_string(values.size(0)) + " points");
  check(channels <= INT32_MAX, "lattice_filter: values has too many channels");
  Tensor out = torch::stable::new_empty(values, values.sizes());
  if (out.numel() == 0) return out;
  const cuda::PointLattice lattice{points,
                                   vertices,
                                   static_cast<int>(corners),
                                   row.mutable_data_ptr<int32_t>(),
                                   weight.mutable_data_ptr<float>(),
                                   entry.mutable_data_ptr<int32_t>(),
                                   first.mutable_data_ptr<int32_t>(),
                                   next.mutable_data_ptr<int32_t>(),
                                   previous.mutable_data_ptr<int32_t>()};
  const DeviceCall device(values);
  cuda::filter_points(device.stream(), lattice, values.const_data_ptr<float>(), out.mutable_data_ptr<float>(),
                      static_cast<int>(channels), reverse,
                      [&](int64_t bytes, const auto& use) { device.with_arena(bytes, use); });
  return out;
}

}  // namespace
}  // namespace wsss

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CUDA, m) {
  WSSS_IMPL(m, "permutohedral_lattice", "CUDA", wsss::permutohedral_lattice);
  WSSS_IMPL(m, "lattice_filter", "CUDA", wsss::lattice_filter);
}
