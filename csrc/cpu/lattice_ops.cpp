#include "point_lattice.h"

#include "../bind/stable_abi.h"

namespace {

using torch::headeronly::ScalarType;
using wsss::Tensor;

Tensor make(const Tensor& like, std::vector<int64_t> shape, ScalarType type) {
  return torch::stable::new_empty(like, shape, type);
}

// features [N, d] -> row, weight, entry, first, next, previous (see wsss::PointLattice)
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> permutohedral_lattice(const Tensor& features_in) {
  const Tensor features = wsss::float_input("permutohedral_lattice", "features", features_in, 2);
  const int64_t points = features.size(0), d = features.size(1), corners = d + 1;
  wsss::check(d >= 1 && d <= wsss::kMaxDimensions, "permutohedral_lattice: features must have 1..16 dimensions");
  wsss::check(points * corners <= INT32_MAX, "permutohedral_lattice: more than 2^31 corners");
  wsss::Lattice lattice;
  if (points > 0) {
    wsss::build_point_lattice(features.const_data_ptr<float>(), points, static_cast<int>(d),
                              static_cast<int>(torch::stable::get_num_threads()), lattice);
  }
  const int64_t vertices = lattice.vertices;
  Tensor row = make(features, {points, corners}, ScalarType::Int);
  Tensor weight = make(features, {points, corners}, ScalarType::Float);
  Tensor entry = make(features, {points * corners}, ScalarType::Int);
  Tensor first = make(features, {vertices + 1}, ScalarType::Int);
  Tensor next = make(features, {corners, vertices}, ScalarType::Int);
  Tensor previous = make(features, {corners, vertices}, ScalarType::Int);
  wsss::flatten(lattice, row.mutable_data_ptr<int32_t>(), weight.mutable_data_ptr<float>(),
                entry.mutable_data_ptr<int32_t>(), first.mutable_data_ptr<int32_t>());
  std::copy_n(lattice.next.get(), corners * vertices, next.mutable_data_ptr<int32_t>());
  std::copy_n(lattice.previous.get(), corners * vertices, previous.mutable_data_ptr<int32_t>());
  return {row, weight, entry, first, next, previous};
}

const int32_t* integers(const char* name, const Tensor& t, const Tensor& held) {
  wsss::check(t.scalar_type() == ScalarType::Int, std::string("lattice_filter: ") + name + " must be int32");
  return held.const_data_ptr<int32_t>();
}

// values [N, c] float32 or float64 -> the same shape
Tensor lattice_filter(const Tensor& row, const Tensor& weight, const Tensor& entry, const Tensor& first,
                      const Tensor& next, const Tensor& previous, const Tensor& values_in, bool reverse) {
  const Tensor held[] = {torch::stable::contiguous(row),   torch::stable::contiguous(entry),
                         torch::stable::contiguous(first), torch::stable::contiguous(next),
                         torch::stable::contiguous(previous)};
  const Tensor weights = wsss::float_input("lattice_filter", "weight", weight, 2);
  wsss::check(values_in.dim() == 2, "lattice_filter: values is " + wsss::shape_text(values_in) + "; must be [N, c]");
  const Tensor values = torch::stable::contiguous(values_in);
  const int64_t points = row.size(0), corners = row.size(1), vertices = first.size(0) - 1;
  wsss::check(values.size(0) == points && weights.size(0) == points && weights.size(1) == corners &&
                  entry.numel() == points * corners && next.numel() == corners * vertices &&
                  previous.numel() == corners * vertices,
              "lattice_filter: the tensors are not of one lattice with " + std::to_string(values.size(0)) + " points");
  const wsss::PointLattice lattice{points,
                                   vertices,
                                   static_cast<int>(corners),
                                   integers("row", row, held[0]),
                                   weights.const_data_ptr<float>(),
                                   integers("entry", entry, held[1]),
                                   integers("first", first, held[2]),
                                   integers("next", next, held[3]),
                                   integers("previous", previous, held[4])};
  Tensor out = torch::stable::new_empty(values, values.sizes());
  const int64_t channels = values.size(1);
  const int threads = static_cast<int>(torch::stable::get_num_threads());
  if (out.numel() == 0) return out;
  if (values.scalar_type() == ScalarType::Double) {
    wsss::filter_points(lattice, values.const_data_ptr<double>(), out.mutable_data_ptr<double>(), channels, reverse, threads);
  } else {
    wsss::check(values.scalar_type() == ScalarType::Float, "lattice_filter: values must be float32 or float64");
    wsss::filter_points(lattice, values.const_data_ptr<float>(), out.mutable_data_ptr<float>(), channels, reverse, threads);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) {
  WSSS_IMPL(m, "permutohedral_lattice", "CPU", permutohedral_lattice);
  WSSS_IMPL(m, "lattice_filter", "CPU", lattice_filter);
}
