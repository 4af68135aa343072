// The CPU kernels as plain functions over pointers and sizes, with no torch header: what
// bind/cpu.cpp registers as ops, and what C++ programs may call. All arrays are contiguous; `Real`
// is float or double. Bad values are a std::runtime_error whose text starts with the op's name.
#pragma once

#include <cstdint>
#include <functional>
#include <type_traits>
#include <vector>

#include "../math/aamr.h"
#include "../math/bilinear.h"
#include "../math/pixel_loss.h"
#include "../math/saliency.h"
#include "../math/taps.h"
#include "../math/walk.h"

namespace wsss {

// A matrix that somebody else holds; the strides count elements.
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

// What kernels ask of their host: threads, and matrix products. The binding passes torch's.
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

  // work(first, last) for parts of at least `grain` of [0, count).
  template <class Work>
  void parallel_for(int64_t count, int64_t grain, const Work& work) const {
    const auto call = [](int64_t first, int64_t last, void* context) {
      (*static_cast<const Work*>(context))(first, last);
    };
    run(count, grain, call, const_cast<void*>(static_cast<const void*>(&work)));
  }
};

// ---- dense_crf.cpp

struct CrfShape {
  int64_t height, width;
  int image_channels;
  int sets, labels;  // S, L
  int64_t pixels() const { return height * width; }
};

// A term of weight 0 is off.
struct CrfParameters {
  float gaussian_weight, gaussian_sx, gaussian_sy;
  float bilateral_weight, bilateral_sx, bilateral_sy;
  std::vector<float> bilateral_levels;  // standard deviation of each image channel
  double lowest, highest;               // of the image's values
  int64_t iterations;
};

namespace cpu {
// image [B, C, H, W], unary and q [B, S, L, H, W]
void dense_crf(const float* image, const float* unary, float* q, int64_t batch,
               const CrfShape& shape, const CrfParameters& parameters, int threads);
}  // namespace cpu

// ---- point_lattice.cpp

constexpr int kMaxDimensions = 16;  // of a lattice

// The lattice of N points in d dimensions, with M vertices and c = d+1 corners.
struct PointLattice {
  int64_t points = 0, vertices = 0;
  int corners = 0;
  const int32_t* row;       // [N, c]
  const float* weight;      // [N, c]
  const int32_t* entry;     // [N * c] places in `row`, sorted by vertex
  const int32_t* first;     // [M + 1] where a vertex's entries start
  const int32_t* next;      // [c, M], -1: none
  const int32_t* previous;  // [c, M], -1: none
};

struct PointLatticeArrays {  // the same, to be filled
  int32_t* row;
  float* weight;
  int32_t *entry, *first, *next, *previous;
};

namespace cpu {
// features [points, d], points > 0, divided by the standard deviations; `make` gets the number of
// vertices.
void build_point_lattice(const float* features, int64_t points, int d, int threads,
                         const std::function<PointLatticeArrays(int64_t vertices)>& make);

// values, out [N, channels]; blur directions 0..d, or d..0 if `reverse`.
template <class Real>
void filter_points(const PointLattice& lattice, const Real* values, Real* out, int64_t channels,
                   bool reverse, int threads);
}  // namespace cpu

// ---- label_conditioned.cpp

// features [images, C, h, w], scale [images, C] or null, weight [R, K, C, k, k], bias [R, K];
// kernel = k
template <class Real>
struct HeadArrays {
  int64_t images, kernel;
  HeadShape shape;
  const Real *features, *scale, *weight, *bias;
};

namespace cpu {
// logits [images, K, h, w]
template <class Real>
void label_conditioned_logits(const HeadArrays<Real>& head, const std::vector<int64_t>& dilations,
                              Real* logits, const Host& host);

// grad as the logits. Gradients that are null are not computed (grad_scale and grad_weight go
// together, and start at zero).
template <class Real>
void label_conditioned_logits_backward(
    const HeadArrays<Real>& head, const std::vector<int64_t>& dilations, const Real* grad,
    Real* grad_features, Real* grad_scale, Real* grad_weight, Real* grad_bias, const Host& host);
}  // namespace cpu

// ---- resized_activation.cpp

namespace cpu {
// logits [images, K, h, w] -> result [images, K, H, W]
template <class Real>
void resized_activation(const ResizeShape& shape, int64_t images, bool softmax, const Real* logits,
                        Real* result, const Host& host);
}  // namespace cpu

// ---- random_walk.cpp

namespace cpu {
// maps [B, K, h, w], edge [B, h, w] -> out [B, K, h, w]
void random_walk(const float* maps, const float* edge, int64_t batch, int64_t count,
                 const WalkShape& shape, double beta, int64_t steps, int threads, float* out);
}  // namespace cpu

// ---- saliency_loss.cpp

template <class Real>
struct SaliencyArrays {
  const Real* logits;                        // [B, K, h, w]
  const Real* saliency;                      // [B, H, W]
  const uint8_t* present;                    // [B, K - 1]
  Real *foreground, *background, *estimate;  // [B, h, w]
  Real* grad;                                // [B, K, h, w]
};

namespace cpu {
// Returns the loss.
template <class Real>
double saliency_loss(const SaliencyShape& shape, double tau, double lam, bool adaptive,
                     const std::vector<int64_t>& always_background,
                     const SaliencyArrays<Real>& arrays, const Host& host);
}  // namespace cpu

// ---- pixel_loss.cpp

template <class Real>
struct PixelLossArrays {
  const Real* logits;  // [B, K, h, w]
  const void* labels;  // [B, H, W] uint8, or int64 if `wide_labels`
  bool wide_labels;
  const uint8_t* present;  // [B, K]: 0 for classes that do not count; or null
  Real* grad;              // [B, K, h, w], or null
};

namespace cpu {
// Returns the loss; `op` names it in messages.
template <class Real>
double pixel_loss(const char* op, PixelLossKind kind, const PixelLossShape& shape,
                  const PixelLossOptions& options, const PixelLossArrays<Real>& arrays,
                  const Host& host);
}  // namespace cpu

// ---- aamr_loss.cpp

template <class Real>
struct AamrArrays {
  const Real *logits, *saliency, *response;  // [B, K, h, w], [B, H, W], [B, H', W']
  uint8_t* region;                           // [B, h, w]: 1 where the loss is taken
  Real* grad;                                // [B, K, h, w]
};

namespace cpu {
// Returns the loss.
template <class Real>
double aamr_loss(const AamrShape& shape, double salient, double active, double overlap,
                 const AamrArrays<Real>& arrays, const Host& host);
}  // namespace cpu

// ---- amx_conv2d.cpp

constexpr int64_t kConvDepth = 32;    // channels of a plane of maps
constexpr int64_t kConvFilters = 32;  // filters of a block

// A convolution with an odd kernel and padding dilation * (kernel / 2).
struct ConvShape {
  int64_t batch, height, width, channels, filters, kernel, stride, dilation;

  int64_t taps() const { return kernel * kernel; }
  int64_t padding() const { return dilation * (kernel / 2); }
  int64_t out_height() const { return (height - 1) / stride + 1; }
  int64_t out_width() const { return (width - 1) / stride + 1; }
  int64_t planes() const { return (channels + kConvDepth - 1) / kConvDepth; }
  int64_t blocks() const { return (filters + kConvFilters - 1) / kConvFilters; }
};

// What happens to a map before the products; null: nothing.
struct MapArrays {
  const float* maps;           // [B, H, W, C]
  const float *scale, *shift;  // [C]: relu(maps * scale + shift) is convolved
  // [B, 2]: from this line, and this column, on each image is taken as zero
  const int64_t* inside;
};

// The filters, and what happens to the result; null: nothing.
struct ConvArrays {
  const uint16_t* filters;
  const float* bias;      // [K]
  const float* residual;  // [B, H', W', K]
  bool relu;
  float* out;  // [B, H', W', K]
};

namespace cpu {
// `parts` bfloat16 parts of a filter's numbers: 2 or 3.
void amx_conv2d(const ConvShape& shape, int64_t parts, const MapArrays& maps,
                const ConvArrays& arrays, const Host& host);
}  // namespace cpu

}  // namespace wsss
