// New tensors, and pointers to their data, for both backends. The names are not those of
// torch::stable, whose functions would be found, too.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace wsss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;

inline Sizes sizes_of(const Tensor& t) {
  const auto sizes = t.sizes();
  return Sizes(sizes.begin(), sizes.end());
}

// The tensor itself if it is contiguous, without the dispatcher's price of a microsecond.
inline Tensor contiguous_input(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

// Asks for large pages for a result that will be written as a whole: the kernel's first touch of
// small pages can take longer than its work (134 MB on one core: 73 ms of page faults).
inline void advise_large_pages([[maybe_unused]] const Tensor& t, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 4096;
  constexpr int64_t kWorthwhile = 4 << 20;
  if (bytes < kWorthwhile) return;
  const auto start = reinterpret_cast<uintptr_t>(t.mutable_data_ptr());
  const uintptr_t first = (start + kPage - 1) / kPage * kPage,
                  last = (start + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a hint; may be refused
#endif
}

#ifdef WSSS_EMULATE_CUDA
// Number of allocations until one fails, as when a device has no memory left; tests set it.
inline int64_t& allocations_until_failure() {
  static int64_t count = -1;
  return count;
}
#endif

// torch's C interface says that a call failed, not why; it logs the reason.
[[noreturn]] inline void fail_allocation(const Sizes& sizes) {
  std::string shape;
  for (const int64_t size : sizes) shape += (shape.empty() ? "" : ", ") + std::to_string(size);
  throw std::runtime_error(
      "wsss_fast: out of memory: no tensor of shape [" + shape + "] could be allocated");
}

inline Tensor allocate(const Tensor& like, const Sizes& sizes, ScalarType dtype) {
#ifdef WSSS_EMULATE_CUDA
  if (allocations_until_failure() >= 0 && allocations_until_failure()-- == 0) {
    fail_allocation(sizes);
  }
#endif
  Sizes strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0; stride *= std::max<int64_t>(sizes[d], 1)) {
    strides[d] = stride;
  }
  const auto shim_dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  int32_t device = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle handle = nullptr;
  // Faster than torch::stable::new_empty, which packs all arguments for the dispatcher.
  const auto status = aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), shim_dtype, device,
      like.get_device_index(), &handle);
  if (status != AOTI_TORCH_SUCCESS) fail_allocation(sizes);
  Tensor t(handle);
  if (device == aoti_torch_device_type_cpu()) {
    advise_large_pages(t, t.numel() * static_cast<int64_t>(t.element_size()));
  }
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
  Tensor t = allocate(like, sizes, dtype);
  TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(t.get()));
  return t;
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
