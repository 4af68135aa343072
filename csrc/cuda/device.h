// Stream, guard and workspace of one call, from torch through the stable ABI.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../bind.h"

#include "arena.h"

namespace wsss {

class DeviceCall {
 public:
  explicit DeviceCall(const Tensor& like) : like_(like), guard_(like.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  // Calls use(arena) with workspace of `bytes`, one allocation; torch's allocator takes it back in stream order.
  template <class Use>
  void with_arena(int64_t bytes, const Use& use) const {
    const int64_t size[] = {std::max<int64_t>(bytes, 1)};
    Tensor workspace = torch::stable::new_empty(like_, {size, 1}, torch::headeronly::ScalarType::Byte);
    cuda::Arena arena(static_cast<char*>(workspace.mutable_data_ptr()), bytes);
    use(arena);
  }

 private:
  const Tensor like_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace wsss
