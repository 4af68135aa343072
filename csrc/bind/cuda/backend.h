// What the CUDA binding of every op uses: torch's allocator, current stream and matrix products,
// and calls of the CPU kernels. Needs no header of the CUDA toolkit.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <array>

#include "../../cuda/context.h"
#include "../arguments.h"

namespace wsss {

using cuda::ElementType;

// One call of an op: the device of its first tensor is current while the context lives.
class TorchContext : public cuda::Context {
 public:
  TorchContext(const char* op, const Tensor& like)
      : Context(op, current_stream(like)),
        like_(like)
#ifndef WSSS_EMULATE_CUDA
        ,
        guard_(like.get_device_index())
#endif
  {
  }

  void* allocate(int64_t bytes) override {
    held_.push_back(wsss::allocate(like_, {std::max<int64_t>(bytes, 1)}, ScalarType::Byte));
    return held_.back().mutable_data_ptr();
  }
  using Context::allocate;

  // Torch's allocator reuses memory in the order of the stream, so queued kernels may still use it.
  size_t mark() const override { return held_.size(); }
  void release(size_t mark) override { held_.resize(mark, like_); }

  std::shared_ptr<void> keep(int64_t bytes) override {
    const auto held = std::make_shared<Tensor>(wsss::allocate(like_, {bytes}, ScalarType::Byte));
    return {held, held->mutable_data_ptr()};
  }

  // Precision follows torch's settings (TF32, reduced-precision sums); half types sum in float32.
  void multiply(ElementType type, const cuda::Matrices& a, const cuda::Matrices& b,
                const cuda::Matrices& out) override {
    const Tensor ta = view(type, a), tb = view(type, b), to = view(type, out);
#ifdef WSSS_EMULATE_CUDA
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_bmm_out(to.get(), ta.get(), tb.get()));
#else
    TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_bmm_out(to.get(), ta.get(), tb.get()));
#endif
  }

 private:
  static void* current_stream([[maybe_unused]] const Tensor& like) {
    void* stream = nullptr;
#ifndef WSSS_EMULATE_CUDA
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream));
#endif
    return stream;
  }

  Tensor view(ElementType type, const cuda::Matrices& m) const {
    static constexpr ScalarType kTypes[] = {
        ScalarType::Float, ScalarType::Double, ScalarType::Half, ScalarType::BFloat16};
    const int64_t sizes[] = {m.batch, m.height(), m.width()};
    const int64_t strides[] = {
        m.step, m.transposed ? 1 : m.row_step, m.transposed ? m.row_step : 1};
    // The shim takes no const; operands are only read.
    return torch::stable::from_blob(const_cast<void*>(m.data), {sizes, 3}, {strides, 3},
                                    like_.device(), kTypes[static_cast<int>(type)]);
  }

  const Tensor like_;
#ifndef WSSS_EMULATE_CUDA
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  std::vector<Tensor> held_;
};

inline ElementType element_type(const char* op, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return ElementType::kFloat32;
    case ScalarType::Double: return ElementType::kFloat64;
    case ScalarType::Half: return ElementType::kFloat16;
    case ScalarType::BFloat16: return ElementType::kBFloat16;
    default:
      throw std::invalid_argument(
          std::string(op) + ": dtype must be float32, float64, float16 or bfloat16");
  }
}
// The dtype of losses and their gradients.
inline ScalarType wide_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// A kernel that reads memory of another device would end the process' CUDA context.
inline void check_device(const char* op, const char* name, const Tensor& t, const Tensor& like) {
  check(t.get_device_index() == like.get_device_index(), op, ": ", name,
        " must be on the first argument's device");
}

// ---- inputs beyond the limits of the CUDA kernels: copies are computed by the CPU kernels

inline Tensor on_cpu(const Tensor& t) {
  return torch::stable::to(t, torch::stable::Device(torch::headeronly::DeviceType::CPU));
}

template <size_t N>
void call_on_cpu(const char* op, std::array<StableIValue, N>& stack) {
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "", stack.data(), TORCH_ABI_VERSION));
}

inline Tensor moved(StableIValue result, const Tensor& like) {
  return torch::stable::to(torch::stable::detail::to<Tensor>(result), like.device());
}

}  // namespace wsss
