// What the CUDA binding (bind/cuda.cpp) calls: plain C++ over pointers and sizes, so that neither
// side needs the other's headers. Every function queues its kernels on the context's stream;
// pointers are device pointers, contiguous and row-major. The binding has checked shapes, and that
// there is something to compute.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <vector>

#include "../math/aamr.h"
#include "../math/bilinear.h"
#include "../math/pixel_loss.h"
#include "../math/saliency.h"
#include "../math/taps.h"
#include "../math/walk.h"

namespace wsss::cuda {

enum class ElementType { kFloat32, kFloat64, kFloat16, kBFloat16 };

// `batch` matrices, one after the other, or all the same one. `transposed` ones are stored as
// [columns, rows].
struct Matrices {
  const void* data;
  int64_t batch, rows, columns;  // as stored
  bool same = false, transposed = false;

  Matrices t() const { return {data, batch, rows, columns, same, !transposed}; }
};

// What one call of an op needs from whoever runs it.
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
  // Gives back workspace allocated after mark(). Kernels that are queued already may still use it,
  // later ones may not.
  virtual size_t mark() const = 0;
  virtual void release(size_t mark) = 0;

  // out = a b for each matrix of the batch.
  virtual void multiply(ElementType type, const Matrices& a, const Matrices& b,
                        const Matrices& out) = 0;

 private:
  const char* op_;
  void* stream_;
};

// The input is valid, but the CUDA kernels cannot represent it (a lattice of many dimensions, for
// example). Nothing was written; the CPU kernels can compute it.
class BeyondLimits : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

constexpr int kMaxDimensions = 8;  // of a lattice built on the device
constexpr int kMaxLabels = 256;    // of a dense CRF

struct CrfCall {
  int64_t batch, height, width;
  int image_channels;                                   // C
  int sets, labels;                                     // S, L
  const float* image;                                   // [B, C, H, W]
  const float* unary;                                   // [B, S, L, H, W]
  float* q;                                             // [B, S, L, H, W]
  double gaussian_sx, gaussian_sy, gaussian_weight;     // weight 0: off
  double bilateral_sx, bilateral_sy, bilateral_weight;  // weight 0: off
  double levels[kMaxDimensions];                        // standard deviation of each image channel
  double lowest, highest;                               // of the image's values; others are clamped
  int64_t iterations;

  int64_t pixels() const { return height * width; }
  int carried() const { return labels - 1; }
  int padded() const { return carried() <= 2 ? carried() : (carried() + 3) / 4 * 4; }
  int row() const { return sets * padded(); }
};

// Throws BeyondLimits.
void dense_crf(Context& context, const CrfCall& call);

// The arrays of the op permutohedral_lattice, for N points and M vertices.
struct PointLattice {
  int64_t points, vertices;
  int corners;
  int32_t* row;       // [N, corners] vertex
  float* weight;      // [N, corners]
  int32_t* entry;     // [N * corners] indices into row, sorted by vertex
  int32_t* first;     // [M + 1]
  int32_t* next;      // [corners, M] -1: none
  int32_t* previous;  // [corners, M] -1: none
};

// features [points, d]; make(vertices) returns the arrays to fill. Waits for the device. Throws
// BeyondLimits.
void permutohedral_lattice(Context& context, const float* features, int64_t points, int d,
                           const std::function<PointLattice(int64_t vertices)>& make);

// in, out [N, width] float32 or float64. Splat, blur directions 0..d (d..0 if reverse), slice.
void lattice_filter(Context& context, ElementType type, const PointLattice& lattice, const void* in,
                    void* out, int width, bool reverse);

struct HeadCall {
  ElementType type;
  HeadShape shape;
  int64_t images;
  std::vector<int64_t> dilations;
  const void* features;  // [B, C, h, w]
  const void* scale;     // [B, C] or null
  const void* weight;    // [R, K, C, k, k]
};

// bias [R, K] -> logits [B, K, h, w]
void label_conditioned_logits(Context& context, const HeadCall& call, const void* bias,
                              void* logits);

// grad [B, K, h, w] -> the gradients; what is null is not computed. of_scale and of_weight go
// together, of_weight starts at zero.
void label_conditioned_logits_backward(Context& context, const HeadCall& call, const void* grad,
                                       void* of_features, void* of_scale, void* of_weight,
                                       void* of_bias);

// logits [images, K, h, w] -> result [images, K, H, W]
void resized_activation(Context& context, ElementType type, const ResizeShape& shape,
                        int64_t images, bool softmax, const void* logits, void* result);

// grad, result [images, K, H, W] -> of_logits [images, K, h, w]
void resized_activation_backward(Context& context, ElementType type, const ResizeShape& shape,
                                 int64_t images, bool softmax, const void* grad, const void* result,
                                 void* of_logits);

// maps, out [batch, count, h, w], edge [batch, h, w]
void random_walk(Context& context, const WalkShape& shape, int64_t batch, int64_t count,
                 double beta, int64_t steps, const float* maps, const float* edge, float* out);

// Losses: loss [], gradients and maps have the type that sums are made in: float64 for float64
// logits, else float32.
struct PixelLossCall {
  PixelLossKind kind;
  ElementType type;
  bool byte_labels;  // uint8, else int64
  PixelLossShape shape;
  PixelLossOptions options;
  const void* logits;      // [B, K, h, w]
  const void* labels;      // [B, H, W]
  const uint8_t* present;  // [B, K] or null
  void* grad;              // [B, K, h, w] or null
  void* loss;
};
void pixel_loss(Context& context, const PixelLossCall& call);

struct SaliencyLossCall {
  ElementType type;
  SaliencyShape shape;
  double tau, lam;
  bool adaptive;
  std::vector<int64_t> always_background;
  const void* logits;                        // [B, K, h, w]
  const void* saliency;                      // [B, H, W]
  const uint8_t* present;                    // [B, K - 1]
  void *foreground, *background, *estimate;  // [B, h, w]
  void* grad;                                // [B, K, h, w]
  void* loss;
};
void saliency_loss(Context& context, const SaliencyLossCall& call);

struct AamrLossCall {
  ElementType type;
  AamrShape shape;
  double salient, active, overlap;
  const void* logits;    // [B, K, h, w]
  const void* saliency;  // [B, H, W]
  const void* response;  // [B, H', W']
  uint8_t* region;       // [B, h, w]
  void* grad;            // [B, K, h, w]
  void* loss;
};
void aamr_loss(Context& context, const AamrLossCall& call);

}  // namespace wsss::cuda
