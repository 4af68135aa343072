// From torch's dtype to the element type that a kernel is compiled for.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../bind/stable_abi.h"

namespace wsss {

// Calls run(T{}) with T = float, double, __half or __nv_bfloat16.
template <class Run>
void with_element_type(const char* op, torch::headeronly::ScalarType dtype, Run run) {
  using torch::headeronly::ScalarType;
  switch (dtype) {
    case ScalarType::Float: return run(float{});
    case ScalarType::Double: return run(double{});
    case ScalarType::Half: return run(__half{});
    case ScalarType::BFloat16: return run(__nv_bfloat16{});
    default: check(false, std::string(op) + ": dtype must be float32, float64, float16 or bfloat16");
  }
}

// Null when there is none, or nothing in it.
template <class T>
const T* read(const std::optional<Tensor>& t) {
  return t && t->numel() ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
}
template <class T>
T* write(const Tensor& t) {
  return t.numel() ? static_cast<T*>(t.mutable_data_ptr()) : nullptr;
}

}  // namespace wsss
