// New tensors, and pointers to their data, for both backends. The names are not those of
// torch::stable, whose functions would be found, too.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

namespace wsss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;

inline Sizes sizes_of(const Tensor& t) {
  Sizes sizes;
  for (int64_t d = 0; d < t.dim(); ++d) sizes.push_back(t.size(d));
  return sizes;
}

inline Tensor allocate(const Tensor& like, const Sizes& sizes, ScalarType dtype) {
  Tensor t = torch::stable::new_empty(like, {sizes.data(), sizes.size()}, dtype);
#ifdef WSSS_EMULATE_CUDA
  // Makes values that a kernel fails to write visible: a large negative
  // number, an index out of range.
  if (t.numel() > 0) std::memset(t.mutable_data_ptr(), 0xcd, t.numel() * t.element_size());
#endif
  return t;
}
inline Tensor allocate(const Tensor& like, const Sizes& sizes) {
  return allocate(like, sizes, like.scalar_type());
}
inline Tensor allocate_like(const Tensor& like) { return allocate(like, sizes_of(like)); }

inline Tensor allocate_zeros(const Tensor& like, const Sizes& sizes, ScalarType dtype) {
  return torch::stable::new_zeros(like, {sizes.data(), sizes.size()}, dtype);
}
inline Tensor allocate_zeros_like(const Tensor& like) {
  return allocate_zeros(like, sizes_of(like), like.scalar_type());
}

// Null for a tensor without elements, or without value.
inline const void* const_data(const Tensor& t) { return t.numel() ? t.const_data_ptr() : nullptr; }
inline const void* const_data(const std::optional<Tensor>& t) {
  return t ? const_data(*t) : nullptr;
}
inline void* mutable_data(const Tensor& t) { return t.numel() ? t.mutable_data_ptr() : nullptr; }

}  // namespace wsss
