// Batched matrix products on the device: torch's own, on the current stream, through the stable ABI. Precision follows
// torch's settings (TF32, reduced-precision sums); half types accumulate in float32.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>

#include "../bind/stable_abi.h"

namespace wsss {

// `batch` row-major matrices that somebody else holds, one after the other, or all the same one.
struct Matrices {
  const void* data;
  int64_t batch, rows, columns;
  bool same = false, transposed = false;

  Matrices t() const { return {data, batch, rows, columns, same, !transposed}; }

  Tensor view(const Tensor& like) const {
    const int64_t between = same ? 0 : rows * columns;
    const int64_t sizes[] = {batch, transposed ? columns : rows, transposed ? rows : columns};
    const int64_t strides[] = {between, transposed ? 1 : columns, transposed ? columns : 1};
    // The shim takes no const; operands are only read.
    return torch::stable::from_blob(const_cast<void*>(data), {sizes, 3}, {strides, 3}, like.device(), like.scalar_type());
  }
};

// out = a b. `like` gives dtype and device.
inline void multiply(const Tensor& like, const Matrices& a, const Matrices& b, const Matrices& out) {
  const Tensor ta = a.view(like), tb = b.view(like), to = out.view(like);
  TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_bmm_out(to.get(), ta.get(), tb.get()));
}

}  // namespace wsss
