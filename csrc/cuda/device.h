// Stream, guard and workspace of one call, from torch through the stable ABI.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../bind/stable_abi.h"

#include "arena.h"

namespace wsss {

constexpr int kBlock = 256;

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

  // Workspace of `count` T; torch's allocator takes it back, in stream order, when the call ends.
  template <class T>
  T* allocate(int64_t count) {
    const int64_t bytes[] = {std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(T))};
    held_.push_back(torch::stable::new_empty(like_, {bytes, 1}, torch::headeronly::ScalarType::Byte));
    return static_cast<T*>(held_.back().mutable_data_ptr());
  }

  // Forgets workspace allocated after `mark`; the stream order keeps running kernels safe.
  size_t mark() const { return held_.size(); }
  void release(size_t mark) { held_.resize(mark); }

 private:
  const Tensor like_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
  std::vector<Tensor> held_;
};

inline unsigned blocks_for(int64_t threads) {
  const int64_t blocks = (threads + kBlock - 1) / kBlock;
  check(blocks <= INT32_MAX, "wsss_fast: too many elements for one CUDA launch");
  return static_cast<unsigned>(std::max<int64_t>(blocks, 1));
}

}  // namespace wsss
