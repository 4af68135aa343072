// The one place that knows the stable ABI's quirks: argument checks, and a register of C++
// signatures, because TORCH_BOX does not compare a function with its schema (a mismatch would read
// garbage; tests compare them).
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace wsss {

using torch::stable::Tensor;

struct Signature {
  std::string op, device, arguments, result;
};
// Filled while the library loads, read through library_info.h.
inline std::vector<Signature>& signatures() {
  static std::vector<Signature> all;
  return all;
}

template <class T>
constexpr const char* schema_type();
template <>
constexpr const char* schema_type<Tensor>() {
  return "Tensor";
}
template <>
constexpr const char* schema_type<double>() {
  return "float";
}
template <>
constexpr const char* schema_type<int64_t>() {
  return "int";
}
template <>
constexpr const char* schema_type<bool>() {
  return "bool";
}
template <>
constexpr const char* schema_type<std::vector<double>>() {
  return "List[float]";
}
template <>
constexpr const char* schema_type<std::optional<Tensor>>() {
  return "Optional[Tensor]";
}
template <>
constexpr const char* schema_type<std::vector<int64_t>>() {
  return "List[int]";
}

template <class... T>
std::string schema_types() {
  std::string text;
  ((text += (text.empty() ? "" : ", ") + std::string(schema_type<std::decay_t<T>>())), ...);
  return text;
}
// What an op returns: one value, or a tuple of them.
template <class R>
struct SchemaResult {
  static std::string text() { return schema_types<R>(); }
};
template <class... T>
struct SchemaResult<std::tuple<T...>> {
  static std::string text() { return schema_types<T...>(); }
};

template <class R, class... A>
void record_signature(const char* op, const char* device, R (*)(A...)) {
  signatures().push_back({op, device, schema_types<A...>(), SchemaResult<R>::text()});
}

// In a STABLE_TORCH_LIBRARY_IMPL block: registers `fn` as the kernel of `op`.
#define WSSS_IMPL(m, op, device, fn)           \
  do {                                         \
    wsss::record_signature(op, device, &(fn)); \
    (m).impl(op, TORCH_BOX(&(fn)));            \
  } while (0)

inline std::string shape_text(const Tensor& t) {
  std::string text = "[";
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (d) text += ",";
    text += std::to_string(t.size(d));
  }
  text += "]";
  return text;
}

inline void check(bool good, const std::string& message) {
  if (!good) throw std::runtime_error(message);
}

// A float32 tensor of `dims` dimensions, made contiguous.
inline Tensor float_input(const char* op, const char* name, const Tensor& t, int64_t dims) {
  check(t.dim() == dims, std::string(op) + ": " + name + " is " + shape_text(t) + "; must have " +
                             std::to_string(dims) + " dimensions");
  check(t.scalar_type() == torch::headeronly::ScalarType::Float,
        std::string(op) + ": " + name + " must be float32");
  return torch::stable::contiguous(t);
}

// A tensor of the given floating type, contiguous and wide enough to compute on the CPU: half
// precisions, which save no time there, become float32, float32 and float64 stay.
inline Tensor real_input(const char* op, const char* name, const Tensor& t,
                         torch::headeronly::ScalarType dtype) {
  using torch::headeronly::ScalarType;
  const auto own = t.scalar_type();
  const bool half = own == ScalarType::Half || own == ScalarType::BFloat16;
  check(own == dtype, std::string(op) + ": " + name + " is not of the first argument's dtype");
  check(half || own == ScalarType::Float || own == ScalarType::Double,
        std::string(op) + ": " + name + " must be float32, float64, float16 or bfloat16");
  return torch::stable::contiguous(half ? torch::stable::to(t, ScalarType::Float) : t);
}

}  // namespace wsss
