// Matrix products on the CPU: torch's own (MKL or what this torch was built with, on its threads), through the stable ABI.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "../bind/stable_abi.h"

namespace wsss {

// A view of memory that somebody else holds.
template <class Real>
struct Matrix {
  const Real* data;
  int64_t rows, columns, row_stride, column_stride;

  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }

  Tensor view(const Tensor& like) const {
    const int64_t sizes[] = {rows, columns}, strides[] = {row_stride, column_stride};
    return torch::stable::from_blob(const_cast<Real*>(data), {sizes, 2}, {strides, 2}, like.device(), like.scalar_type());
  }
};

template <class Real>
Matrix<Real> row_major(const Real* data, int64_t rows, int64_t columns) {
  return {data, rows, columns, columns, 1};
}

// out = a b, or out += a b. `like` gives dtype and device.
template <class Real>
void multiply(const Tensor& like, const Matrix<Real>& a, const Matrix<Real>& b, const Matrix<Real>& out, bool accumulate) {
  const Tensor ta = a.view(like), tb = b.view(like), to = out.view(like);
  TORCH_ERROR_CODE_CHECK(accumulate ? aoti_torch_cpu_addmm_out(to.get(), to.get(), ta.get(), tb.get(), 1.0, 1.0)
                                    : aoti_torch_cpu_mm_out(to.get(), ta.get(), tb.get()));
}

}  // namespace wsss
