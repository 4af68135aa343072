// What the CPU binding of every op uses: the kernels' host, and arguments of several dtypes.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "../../cpu/host.h"
#include "../../cpu/team.h"
#include "../arguments.h"

namespace wsss {

inline int threads() { return static_cast<int>(torch::stable::get_num_threads()); }

#ifdef WSSS_TORCH_USES_OPENMP  // set by wsss_fast/_build/plan.py
// Teams of threads take them from torch. Not from its other kind of pool, which calls of several
// threads share: parts that wait for each other could wait for a thread forever.
inline const bool teams_use_torch_threads = [] {
  Team::use([](int size, void (*work)(int, int, void*), void* context) {
    torch::stable::parallel_for(0, size, 1, [=](int64_t first, int64_t last) {
      work(static_cast<int>(first), static_cast<int>(last), context);
    });
  });
  return true;
}();
#endif

// Torch's threads and matrix products.
class TorchHost : public Host {
 public:
  explicit TorchHost(const Tensor& like) : like_(like) {}

  int threads() const override { return wsss::threads(); }

  void run(int64_t count, int64_t grain, void (*work)(int64_t, int64_t, void*),
           void* context) const override {
    torch::stable::parallel_for(
        0, count, grain, [=](int64_t first, int64_t last) { work(first, last, context); });
  }

  void multiply(const Matrix<float>& a, const Matrix<float>& b, const Matrix<float>& out,
                bool accumulate) const override {
    product(view(a), view(b), view(out), accumulate);
  }
  void multiply(const Matrix<double>& a, const Matrix<double>& b, const Matrix<double>& out,
                bool accumulate) const override {
    product(view(a), view(b), view(out), accumulate);
  }

 private:
  template <class Real>
  Tensor view(const Matrix<Real>& m) const {
    const int64_t sizes[] = {m.rows, m.columns}, strides[] = {m.row_stride, m.column_stride};
    constexpr auto dtype = std::is_same_v<Real, double> ? ScalarType::Double : ScalarType::Float;
    // The shim takes no const; operands are only read.
    return torch::stable::from_blob(
        const_cast<Real*>(m.data), {sizes, 2}, {strides, 2}, like_.device(), dtype);
  }

  static void product(const Tensor& a, const Tensor& b, const Tensor& out, bool accumulate) {
    TORCH_ERROR_CODE_CHECK(
        accumulate ? aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1.0, 1.0)
                   : aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
  }

  const Tensor like_;
};

// A tensor of the given floating dtype, contiguous, in the dtype that the kernels compute in: half
// precisions, which save no time on a CPU, become float32; float32 and float64 stay.
inline Tensor real_input(const char* op, const char* name, const Tensor& t, ScalarType dtype) {
  const auto own = t.scalar_type();
  const bool half = own == ScalarType::Half || own == ScalarType::BFloat16;
  check(own == dtype, op, ": ", name, " must have the first argument's dtype");
  check(half || own == ScalarType::Float || own == ScalarType::Double, op, ": ", name,
        " must be float32, float64, float16 or bfloat16");
  return contiguous_input(half ? torch::stable::to(t, ScalarType::Float) : t);
}
inline Tensor real_input(const char* op, const char* name, const Tensor& t) {
  return real_input(op, name, t, t.scalar_type());
}

// Calls run(Real{}) for the dtype of a real_input.
template <class Run>
void with_real(const Tensor& t, const Run& run) {
  t.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

}  // namespace wsss
