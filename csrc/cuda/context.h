// What the CUDA kernels need from their caller (bind/cuda), so that neither side needs the other's
// headers: a stream, workspace and matrix products.
//
// Each op's entry function is declared in a header of its own (cuda/random_walk.h), as a plain
// function over device pointers and sizes: contiguous, row-major, checked by the binding, with
// something to compute. It queues its kernels on the context's stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>

namespace wsss::cuda {

enum class ElementType { kFloat32, kFloat64, kFloat16, kBFloat16 };

// `batch` row-major matrices, with the elements between the starts of two of them (0: one matrix
// for all) and of two rows. `transposed` ones are stored as [columns, rows].
struct Matrices {
  const void* data;
  int64_t batch, rows, columns;  // as stored
  int64_t step, row_step;
  bool transposed = false;

  Matrices t() const { return {data, batch, rows, columns, step, row_step, !transposed}; }
  int64_t height() const { return transposed ? columns : rows; }
  int64_t width() const { return transposed ? rows : columns; }
};

// Matrices without gaps, one after the other.
inline Matrices dense(const void* data, int64_t batch, int64_t rows, int64_t columns) {
  return {data, batch, rows, columns, rows * columns, columns};
}

// One call of an op.
class Context {
 public:
  Context(const char* op, void* stream) : op_(op), stream_(stream) {}
  virtual ~Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const char* op() const { return op_; }
  void* stream() const { return stream_; }  // a cudaStream_t

  // Uninitialised workspace, aligned to 256 bytes, that the stream's kernels may use until
  // release() or the end of the call.
  virtual void* allocate(int64_t bytes) = 0;
  template <class T>
  T* allocate(int64_t count) {
    return static_cast<T*>(allocate((count > 0 ? count : 1) * static_cast<int64_t>(sizeof(T))));
  }
  // Frees workspace allocated since mark(). Kernels that are queued already may
  // still use it, later ones may not.
  virtual size_t mark() const = 0;
  virtual void release(size_t mark) = 0;

  // Uninitialised memory, aligned to 256 bytes, that outlives the call; only for kernels of
  // the same stream.
  virtual std::shared_ptr<void> keep(int64_t bytes);

  // out = a b for each matrix of the batch.
  virtual void multiply(ElementType type, const Matrices& a, const Matrices& b,
                        const Matrices& out) = 0;

 private:
  const char* op_;
  void* stream_;
};

inline std::shared_ptr<void> Context::keep(int64_t) {
  throw std::logic_error("wsss_fast: this caller keeps no memory between calls");
}

// The input is valid, but beyond what the CUDA kernels can represent (a lattice of many dimensions,
// for example). Nothing was written; the binding calls the CPU kernel instead.
class BeyondLimits : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

constexpr int kMaxDimensions = 8;  // of a lattice built on the device
constexpr int kMaxLabels = 256;    // of a dense CRF

}  // namespace wsss::cuda
