// Checks of arguments that all ops share; those of one op, shared by its two backends, are in
// bind/OP.h. The public functions of wsss_fast/ops check more; these protect the kernels from
// callers of torch.ops.wsss_fast.
#pragma once

#include <stdexcept>
#include <string>

#include "tensors.h"

namespace wsss {

inline std::string shape_text(const Tensor& t) {
  std::string text = "[";
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (d) text += ",";
    text += std::to_string(t.size(d));
  }
  text += "]";
  return text;
}

inline std::string message_part(const std::string& text) { return text; }
inline std::string message_part(const Tensor& t) { return shape_text(t); }
inline std::string message_part(int64_t number) { return std::to_string(number); }
inline std::string message_part(double number) { return std::to_string(number); }

// The parts of the message, texts, numbers or tensors, of which the shape is written, are joined
// only for an error. torch turns std::invalid_argument into Python's ValueError.
template <class... Parts>
void check(bool good, const Parts&... parts) {
  if (!good) throw std::invalid_argument((message_part(parts) + ...));
}

// A float32 tensor of `dims` dimensions, made contiguous.
inline Tensor float_input(const char* op, const char* name, const Tensor& t, int64_t dims) {
  check(t.dim() == dims, op, ": ", name, " is ", t, "; must have ", dims, " dimensions");
  check(t.scalar_type() == ScalarType::Float, op, ": ", name, " must be float32");
  return contiguous_input(t);
}

// An int32 tensor, made contiguous.
inline Tensor int_input(const char* op, const char* name, const Tensor& t) {
  check(t.scalar_type() == ScalarType::Int, op, ": ", name, " must be int32");
  return contiguous_input(t);
}

}  // namespace wsss
