// What CPU kernels need from their host, with no torch header: threads and matrix products.
// bind/cpu passes torch's; C++ programs may pass their own.
//
// Each op's entry function is declared in a header of its own (cpu/random_walk.h), as a plain
// function over pointers and sizes. All arrays are contiguous; `Real` is float or double. Invalid
// values raise std::invalid_argument, whose text starts with the op's name.
#pragma once

#include <cstdint>

namespace wsss {

// A matrix in memory owned by others; strides count elements.
template <class Real>
struct Matrix {
  const Real* data;
  int64_t rows, columns, row_stride, column_stride;

  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }
};

template <class Real>
Matrix<Real> row_major(const Real* data, int64_t rows, int64_t columns) {
  return {data, rows, columns, columns, 1};
}

class Host {
 public:
  virtual ~Host() = default;
  virtual int threads() const = 0;
  // Calls work(first, last, context) for parts of [0, count), on several threads.
  virtual void run(int64_t count, int64_t grain, void (*work)(int64_t, int64_t, void*),
                   void* context) const = 0;
  // out = a b, or out += a b.
  virtual void multiply(const Matrix<float>& a, const Matrix<float>& b, const Matrix<float>& out,
                        bool accumulate) const = 0;
  virtual void multiply(const Matrix<double>& a, const Matrix<double>& b, const Matrix<double>& out,
                        bool accumulate) const = 0;

  // Calls work(first, last) for parts of [0, count) with at least `grain` items each.
  template <class Work>
  void parallel_for(int64_t count, int64_t grain, const Work& work) const {
    const auto call = [](int64_t first, int64_t last, void* context) {
      (*static_cast<const Work*>(context))(first, last);
    };
    run(count, grain, call, const_cast<void*>(static_cast<const void*>(&work)));
  }
};

}  // namespace wsss
