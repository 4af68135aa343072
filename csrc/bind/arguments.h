// Checks of arguments that all ops share; those of one op, shared by its two backends, are in
// bind/OP.h. The public functions of wsss_fast/ops check more; these protect the kernels from
// callers of torch.ops.wsss_fast.
#pragma once

#include <stdexcept>
#include <string>

#include "tensors.h"

namespace wsss {

// torch turns std::invalid_argument into Python's ValueError.
inline void check(bool good, const std::string& message) {
  if (!good) throw std::invalid_argument(message);
}

inline std::string shape_text(const Tensor& t) {
  std::string text = "[";
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (d) text += ",";
    text += std::to_string(t.size(d));
  }
  text += "]";
  return text;
}

// A float32 tensor of `dims` dimensions, made contiguous.
inline Tensor float_input(const char* op, const char* name, const Tensor& t, int64_t dims) {
  check(t.dim() == dims, std::string(op) + ": " + name + " is " + shape_text(t) + "; must have " +
                             std::to_string(dims) + " dimensions");
  check(t.scalar_type() == ScalarType::Float, std::string(op) + ": " + name + " must be float32");
  return torch::stable::contiguous(t);
}

// An int32 tensor, made contiguous.
inline Tensor int_input(const char* op, const char* name, const Tensor& t) {
  check(t.scalar_type() == ScalarType::Int, std::string(op) + ": " + name + " must be int32");
  return torch::stable::contiguous(t);
}

}  // namespace wsss
