// Registration of kernels through torch's stable ABI, and a record of their C++ signatures:
// TORCH_BOX does not compare a function with the op's schema, and a mismatch would read
// garbage, so tests compare the two.
#pragma once

#include <torch/csrc/stable/library.h>
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
template <>
constexpr const char* schema_type<std::vector<Tensor>>() {
  return "List[Tensor]";
}
template <>
constexpr const char* schema_type<torch::headeronly::ScalarType>() {
  return "int";
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

// Registers the function `op` as the kernel of the op of the same name, for the backend that the
// including file names in WSSS_DEVICE: CPU or CUDA. Its parameters must be those of the schema
// (wsss_fast/ops); C++ types without a `schema_type` above do not compile.
#define WSSS_STRING(word) #word
#define WSSS_REGISTER(op, device)                                \
  STABLE_TORCH_LIBRARY_IMPL(wsss_fast, device, library) {        \
    wsss::record_signature(#op, WSSS_STRING(device), &wsss::op); \
    library.impl(#op, TORCH_BOX(&wsss::op));                     \
  }
#define WSSS_IMPL(op) WSSS_REGISTER(op, WSSS_DEVICE)

}  // namespace wsss
