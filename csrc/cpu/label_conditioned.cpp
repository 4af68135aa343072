// Label-conditioned logits on the CPU, forward and backward: one matrix product of the
// taps with each band of rows of an image's features, followed by its shifted addition
// while the product is in cache. The scale is multiplied into the weights, image by image,
// so that the features need no copy.
#include "label_conditioned.h"

#include <memory>

#include "buffer.h"
#include "label_conditioned_kernel.h"

namespace wsss::cpu {
namespace {

// Large enough for the product to run at full speed, small enough to skip most
// taps whose shift leaves the map.
constexpr int64_t kBandPixels = 256;
// Labels are processed in shares whose working copies of the weights are at most this large.
constexpr int64_t kShareBytes = int64_t{6} << 20;
// Up to this size threads process different images, each with its own copies: such small
// products do not occupy two threads.
constexpr int64_t kPrivateBytes = int64_t{1} << 20;

template <class Real>
class Head {
 public:
  Head(const HeadArrays<Real>& head, const std::vector<int64_t>& dilations, const Host& host)
      : head_(head),
        host_(host),
        shape_(head.shape),
        taps_(plan_taps(dilations, head.kernel, shape_.height, shape_.width)),
        bands_(plan_bands(taps_, shape_.height,
                          (kBandPixels + shape_.width - 1) / std::max<int64_t>(shape_.width, 1))) {
    const int64_t row_bytes = taps_.count() * shape_.channels * static_cast<int64_t>(sizeof(Real));
    const int64_t shares = std::clamp<int64_t>(
        (row_bytes * shape_.labels + kShareBytes - 1) / kShareBytes, 1,
        std::max<int64_t>(shape_.labels, 1));
    for (int64_t i = 0; i < shares; ++i) {
      shares_.push_back({shape_.labels * i / shares, shape_.labels * (i + 1) / shares});
      largest_ = std::max(largest_, shares_.back().count());
    }
    if (row_bytes * largest_ <= kPrivateBytes) {
      tasks_ = std::clamp<int64_t>(host.threads(), 1, std::max<int64_t>(batch(), 1));
    }
  }

  int64_t batch() const { return head_.images; }
  bool empty() const { return batch() * shape_.pixels() * shape_.labels == 0; }

  // logits [B, K, h, w]
  void forward(Real* logits) const {
    const Real *scale = head_.scale, *weight = head_.weight, *bias = head_.bias;
    parallel(batch() * shape_.labels, [&](int64_t plane) {
      Real sum = 0;
      for (int64_t r = 0; r < shape_.branches; ++r) {
        sum += bias[r * shape_.labels + plane % shape_.labels];
      }
      std::fill_n(logits + plane * shape_.pixels(), shape_.pixels(), sum);
    });
    const Rows packed = weights();
    const std::vector<Rows> scaled =
        scale ? for_each_task([&] { return weights(); }) : same(packed);
    const std::vector<Rows> responses = for_each_task([&] { return band_rows(); });
    for (const LabelShare& share : shares_) {
      pack(share, weight, data(packed));
      for_each_image([&](int64_t task, int64_t b) {
        if (scale) scale_rows(share, data(packed), scale + b * shape_.channels, data(scaled[task]));
        for (const Band& band : bands_) {
          const auto taps = tap_rows(data(scaled[task]), share, band);
          const auto out = row_major(data(responses[task]), taps.rows, band_pixels(band));
          host_.multiply(taps, feature_columns(head_.features, b, band), out, false);
          parallel(share.count(), [&](int64_t k) {
            add_shifted(shape_, taps_, band, share, k, out.data,
                        logits + (b * shape_.labels + share.first + k) * shape_.pixels());
          });
        }
      });
    }
  }

  // grad [B, K, h, w] of the logits. Null gradients are not computed; grad_scale and grad_weight go
  // together and must start at zero.
  void backward(const Real* grad, Real* grad_features, Real* grad_scale, Real* grad_weight) const {
    const Real *scale = head_.scale, *weight = head_.weight;
    const Rows packed = weights();
    const std::vector<Rows> sums =
        grad_weight ? for_each_task([&] { return weights(); }) : same(packed);
    // Holds the scaled weights of an image, then their gradient.
    const std::vector<Rows> scaled =
        scale ? for_each_task([&] { return weights(); }) : same(packed);
    const std::vector<Rows> gradients = for_each_task([&] { return band_rows(); });
    for (const LabelShare& share : shares_) {
      pack(share, weight, data(packed));
      for (const Rows& sum : sums) {
        if (grad_weight) clear(share, data(sum));
      }
      for_each_image([&](int64_t task, int64_t b) {
        const Real* image_grad = grad + (b * shape_.labels + share.first) * shape_.pixels();
        if (grad_features) {
          if (scale) {
            scale_rows(share, data(packed), scale + b * shape_.channels, data(scaled[task]));
          }
          for (const Band& band : bands_) {
            const auto gradient = gather(share, band, image_grad, data(gradients[task]));
            host_.multiply(tap_rows(data(scaled[task]), share, band).transposed(), gradient,
                           feature_columns(grad_features, b, band), share.first > 0);
          }
        }
        if (!grad_weight) return;
        Real* product = data(scale ? scaled[task] : sums[task]);
        if (scale) clear(share, product);
        for (const Band& band : bands_) {
          const auto gradient = gather(share, band, image_grad, data(gradients[task]));
          host_.multiply(gradient, feature_columns(head_.features, b, band).transposed(),
                         tap_rows(product, share, band), true);
        }
        if (!scale) return;
        host_.parallel_for(shape_.channels, 64, [&](int64_t c0, int64_t c1) {
          add_products(
              taps_.count() * share.count(), shape_.channels, c0, c1, data(packed), product,
              scale + b * shape_.channels, data(sums[task]), grad_scale + b * shape_.channels);
        });
      });
      if (!grad_weight) continue;
      add_sums(share, sums);
      parallel(share.count(), [&](int64_t k) {
        unpack_weight(shape_, taps_, share, k, data(sums[0]), grad_weight);
      });
    }
  }

  // grad_bias [R, K], which is the same for every branch.
  void backward_bias(const Real* grad, Real* grad_bias) const {
    parallel(shape_.labels, [&](int64_t k) {
      double sum = 0;
      for (int64_t b = 0; b < batch(); ++b) {
        const Real* plane = grad + (b * shape_.labels + k) * shape_.pixels();
        for (int64_t p = 0; p < shape_.pixels(); ++p) sum += plane[p];
      }
      for (int64_t r = 0; r < shape_.branches; ++r) {
        grad_bias[r * shape_.labels + k] = static_cast<Real>(sum);
      }
    });
  }

 private:
  using Rows = std::shared_ptr<Buffer<Real>>;
  static Real* data(const Rows& rows) { return rows->get(); }

  Rows buffer(int64_t rows, int64_t columns) const {
    auto memory = std::make_shared<Buffer<Real>>();
    memory->reserve(rows * columns);
    return memory;
  }
  Rows weights() const { return buffer(taps_.count() * largest_, shape_.channels); }
  Rows band_rows() const { return buffer(taps_.count() * largest_, widest_band()); }

  template <class Make>
  std::vector<Rows> for_each_task(Make make) const {
    std::vector<Rows> all;
    for (int64_t task = 0; task < tasks_; ++task) all.push_back(make());
    return all;
  }
  std::vector<Rows> same(const Rows& rows) const { return std::vector<Rows>(tasks_, rows); }

  // Calls work(task, image) for each image: either one task, with threads
  // inside, or one task per thread.
  template <class Work>
  void for_each_image(Work work) const {
    auto run = [&](int64_t task) {
      for (int64_t b = batch() * task / tasks_; b < batch() * (task + 1) / tasks_; ++b) {
        work(task, b);
      }
    };
    if (tasks_ == 1) return run(0);  // inside of parallel() there would be no more threads
    parallel(tasks_, run);
  }

  // Adds the sums of all tasks to the first one's, in their order.
  void add_sums(LabelShare share, const std::vector<Rows>& sums) const {
    parallel(taps_.count() * share.count(), [&](int64_t row) {
      for (int64_t task = 1; task < tasks_; ++task) {
        const Real* from = data(sums[task]) + row * shape_.channels;
        Real* to = data(sums[0]) + row * shape_.channels;
        for (int64_t c = 0; c < shape_.channels; ++c) to[c] += from[c];
      }
    });
  }

  int64_t band_pixels(const Band& band) const { return (band.y1 - band.y0) * shape_.width; }
  int64_t widest_band() const { return bands_.empty() ? 0 : band_pixels(bands_.front()); }

  // The rows of the band's taps in a matrix [T * share, C].
  Matrix<Real> tap_rows(const Real* matrix, LabelShare share, const Band& band) const {
    return row_major(matrix + band.t0 * share.count() * shape_.channels,
                     (band.t1 - band.t0) * share.count(), shape_.channels);
  }

  // The matrix [C, positions of the band] of image `b` in an array shaped like the features.
  Matrix<Real> feature_columns(const Real* array, int64_t b, const Band& band) const {
    return {array + b * shape_.channels * shape_.pixels() + band.y0 * shape_.width, shape_.channels,
            band_pixels(band), shape_.pixels(), 1};
  }

  void pack(LabelShare share, const Real* weight, Real* packed) const {
    parallel(
        share.count(), [&](int64_t k) { pack_weight(shape_, taps_, share, k, weight, packed); });
  }

  void scale_rows(LabelShare share, const Real* packed, const Real* scale, Real* scaled) const {
    parallel(taps_.count() * share.count(), [&](int64_t row) {
      scale_row(
          shape_.channels, packed + row * shape_.channels, scale, scaled + row * shape_.channels);
    });
  }

  void clear(LabelShare share, Real* matrix) const {
    parallel(taps_.count() * share.count(), [&](int64_t row) {
      std::fill_n(matrix + row * shape_.channels, shape_.channels, Real(0));
    });
  }

  // The gradients of a band's responses, [rows of its taps, its positions]. Gathered for each of
  // the two products that need them, which is cheaper than keeping a copy for the whole map.
  Matrix<Real> gather(LabelShare share, const Band& band, const Real* grad, Real* gradients) const {
    parallel(share.count(), [&](int64_t k) {
      gather_shifted(shape_, taps_, band, share, k, grad + k * shape_.pixels(), gradients);
    });
    return row_major(gradients, (band.t1 - band.t0) * share.count(), band_pixels(band));
  }

  template <class Work>
  void parallel(int64_t count, Work work) const {
    host_.parallel_for(count, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) work(i);
    });
  }

  const HeadArrays<Real> head_;
  const Host& host_;
  const HeadShape shape_;
  const Taps taps_;
  const std::vector<Band> bands_;
  std::vector<LabelShare> shares_;
  int64_t largest_ = 0;  // labels of the largest share
  int64_t tasks_ = 1;    // the images are divided among them
};

}  // namespace

template <class Real>
void label_conditioned_logits(const HeadArrays<Real>& arrays, const std::vector<int64_t>& dilations,
                              Real* logits, const Host& host) {
  const Head<Real> head(arrays, dilations, host);
  if (!head.empty()) head.forward(logits);
}

template <class Real>
void label_conditioned_logits_backward(
    const HeadArrays<Real>& arrays, const std::vector<int64_t>& dilations, const Real* grad,
    Real* grad_features, Real* grad_scale, Real* grad_weight, Real* grad_bias, const Host& host) {
  const Head<Real> head(arrays, dilations, host);
  head.backward_bias(grad, grad_bias);
  if (!head.empty()) {
    head.backward(grad, grad_features, grad_scale, grad_weight);
  } else if (grad_features != nullptr) {
    std::fill_n(
        grad_features, arrays.images * arrays.shape.channels * arrays.shape.pixels(), Real(0));
  }
}

template void label_conditioned_logits(const HeadArrays<float>&, const std::vector<int64_t>&,
                                       float*, const Host&);
template void label_conditioned_logits(const HeadArrays<double>&, const std::vector<int64_t>&,
                                       double*, const Host&);
template void label_conditioned_logits_backward(const HeadArrays<float>&,
                                                const std::vector<int64_t>&, const float*, float*,
                                                float*, float*, float*, const Host&);
template void label_conditioned_logits_backward(const HeadArrays<double>&,
                                                const std::vector<int64_t>&, const double*, double*,
                                                double*, double*, double*, const Host&);

}  // namespace wsss::cpu
