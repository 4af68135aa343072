// Label-conditioned logits on the CPU, forward and backward: one matrix product of the taps with each band of rows of an
// image's features, while the product is in cache its shifted addition. The scale goes into the weights, image by image,
// so that the features are read where they lie.
#include "label_conditioned.h"

#include "gemm.h"

namespace {

using wsss::Band;
using wsss::HeadShape;
using wsss::LabelShare;
using wsss::Taps;
using wsss::Tensor;
using Dilations = std::vector<int64_t>;
using torch::headeronly::ScalarType;

// Wide enough for the product to run at its full rate, narrow enough to skip most taps whose shift leaves the map.
constexpr int64_t kBandPixels = 256;
// Weights of so many labels at a time that the working copies stay this small.
constexpr int64_t kShareBytes = int64_t{6} << 20;
// Up to here threads take images, each with copies of its own: products of this size do not occupy two threads.
constexpr int64_t kPrivateBytes = int64_t{1} << 20;

template <class Work>
void parallel(int64_t count, Work work) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) work(i);
  });
}

// float32 or float64, contiguous.
template <class Real>
class Head {
 public:
  Head(const Tensor& features, const Tensor& weight, const Dilations& dilations)
      : features_(features),
        shape_{weight.size(1), weight.size(2), features.size(2), features.size(3), weight.size(0),
               weight.size(3) * weight.size(4)},
        taps_(wsss::plan_taps(dilations, weight.size(3), shape_.height, shape_.width)),
        bands_(wsss::plan_bands(taps_, shape_.height,
                                (kBandPixels + shape_.width - 1) / std::max<int64_t>(shape_.width, 1))) {
    const int64_t row_bytes = taps_.count() * shape_.channels * static_cast<int64_t>(sizeof(Real));
    const int64_t shares = std::clamp<int64_t>((row_bytes * shape_.labels + kShareBytes - 1) / kShareBytes, 1,
                                               std::max<int64_t>(shape_.labels, 1));
    for (int64_t i = 0; i < shares; ++i) {
      shares_.push_back({shape_.labels * i / shares, shape_.labels * (i + 1) / shares});
      largest_ = std::max(largest_, shares_.back().count());
    }
    if (row_bytes * largest_ <= kPrivateBytes) {
      tasks_ = std::clamp<int64_t>(torch::stable::get_num_threads(), 1, std::max<int64_t>(batch(), 1));
    }
  }

  int64_t batch() const { return features_.size(0); }
  bool empty() const { return batch() * shape_.pixels() * shape_.labels == 0; }

  // logits [B, K, h, w]
  void forward(const Real* scale, const Real* weight, const Real* bias, Real* logits) const {
    parallel(batch() * shape_.labels, [&](int64_t plane) {
      Real sum = 0;
      for (int64_t r = 0; r < shape_.branches; ++r) sum += bias[r * shape_.labels + plane % shape_.labels];
      std::fill_n(logits + plane * shape_.pixels(), shape_.pixels(), sum);
    });
    const Tensor packed = weights();
    const std::vector<Tensor> scaled = scale ? for_each_task([&] { return weights(); }) : same(packed);
    const std::vector<Tensor> responses = for_each_task([&] { return band_rows(); });
    for (const LabelShare& share : shares_) {
      pack(share, weight, data(packed));
      each_image([&](int64_t task, int64_t b) {
        if (scale) scale_rows(share, data(packed), scale + b * shape_.channels, data(scaled[task]));
        for (const Band& band : bands_) {
          const auto taps = tap_rows(data(scaled[task]), share, band);
          const auto out = wsss::row_major(data(responses[task]), taps.rows, band_pixels(band));
          wsss::multiply(features_, taps, feature_columns(features_.const_data_ptr<Real>(), b, band), out, false);
          parallel(share.count(), [&](int64_t k) {
            wsss::add_shifted(shape_, taps_, band, share, k, out.data,
                              logits + (b * shape_.labels + share.first + k) * shape_.pixels());
          });
        }
      });
    }
  }

  // grad [B, K, h, w] of the logits. A null grad_features is not computed, nor are a null grad_weight and its
  // grad_scale; both of the latter start at zero.
  void backward(const Real* grad, const Real* scale, const Real* weight, Real* grad_features, Real* grad_scale,
                Real* grad_weight) const {
    const Tensor packed = weights();
    const std::vector<Tensor> sums = grad_weight ? for_each_task([&] { return weights(); }) : same(packed);
    // Holds the scaled weights of an image, then the gradient with respect to them.
    const std::vector<Tensor> scaled = scale ? for_each_task([&] { return weights(); }) : same(packed);
    const std::vector<Tensor> gradients = for_each_task([&] { return band_rows(); });
    for (const LabelShare& share : shares_) {
      pack(share, weight, data(packed));
      for (const Tensor& sum : sums) {
        if (grad_weight) clear(share, data(sum));
      }
      each_image([&](int64_t task, int64_t b) {
        const Real* image_grad = grad + (b * shape_.labels + share.first) * shape_.pixels();
        if (grad_features) {
          if (scale) scale_rows(share, data(packed), scale + b * shape_.channels, data(scaled[task]));
          for (const Band& band : bands_) {
            const auto gradient = gather(share, band, image_grad, data(gradients[task]));
            wsss::multiply(features_, tap_rows(data(scaled[task]), share, band).transposed(), gradient,
                           feature_columns(grad_features, b, band), share.first > 0);
          }
        }
        if (!grad_weight) return;
        Real* product = data(scale ? scaled[task] : sums[task]);
        if (scale) clear(share, product);
        for (const Band& band : bands_) {
          const auto gradient = gather(share, band, image_grad, data(gradients[task]));
          wsss::multiply(features_, gradient, feature_columns(features_.const_data_ptr<Real>(), b, band).transposed(),
                         tap_rows(product, share, band), true);
        }
        if (!scale) return;
        torch::stable::parallel_for(0, shape_.channels, 64, [&](int64_t c0, int64_t c1) {
          wsss::add_products(taps_.count() * share.count(), shape_.channels, c0, c1, data(packed), product,
                             scale + b * shape_.channels, data(sums[task]), grad_scale + b * shape_.channels);
        });
      });
      if (!grad_weight) continue;
      add_sums(share, sums);
      parallel(share.count(), [&](int64_t k) {
        wsss::unpack_weight(shape_, taps_, share, k, data(sums[0]), grad_weight);
      });
    }
  }

  // grad_bias [R, K]: the same for every branch.
  void backward_bias(const Real* grad, Real* grad_bias) const {
    parallel(shape_.labels, [&](int64_t k) {
      double sum = 0;
      for (int64_t b = 0; b < batch(); ++b) {
        const Real* plane = grad + (b * shape_.labels + k) * shape_.pixels();
        for (int64_t p = 0; p < shape_.pixels(); ++p) sum += plane[p];
      }
      for (int64_t r = 0; r < shape_.branches; ++r) grad_bias[r * shape_.labels + k] = static_cast<Real>(sum);
    });
  }

 private:
  static Real* data(const Tensor& t) { return t.mutable_data_ptr<Real>(); }

  Tensor buffer(int64_t rows, int64_t columns) const {
    const int64_t sizes[] = {rows, columns};
    return torch::stable::new_empty(features_, {sizes, 2});
  }
  Tensor weights() const { return buffer(taps_.count() * largest_, shape_.channels); }
  Tensor band_rows() const { return buffer(taps_.count() * largest_, widest_band()); }

  template <class Make>
  std::vector<Tensor> for_each_task(Make make) const {
    std::vector<Tensor> all;
    for (int64_t task = 0; task < tasks_; ++task) all.push_back(make());
    return all;
  }
  std::vector<Tensor> same(const Tensor& t) const { return std::vector<Tensor>(tasks_, t); }

  // work(task, image): one task with threads inside, or one for each thread with none inside.
  template <class Work>
  void each_image(Work work) const {
    auto run = [&](int64_t task) {
      for (int64_t b = batch() * task / tasks_; b < batch() * (task + 1) / tasks_; ++b) work(task, b);
    };
    if (tasks_ == 1) return run(0);  // parallel() would keep the threads out of it
    parallel(tasks_, run);
  }

  // The tasks' sums into the first one's, in their order.
  void add_sums(LabelShare share, const std::vector<Tensor>& sums) const {
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

  // Rows of the band's taps, of a matrix [T * share, C].
  wsss::Matrix<Real> tap_rows(const Real* matrix, LabelShare share, const Band& band) const {
    return wsss::row_major(matrix + band.t0 * share.count() * shape_.channels, (band.t1 - band.t0) * share.count(),
                           shape_.channels);
  }

  // [C, positions of the band] of image `b` of an array shaped like the features.
  wsss::Matrix<Real> feature_columns(const Real* array, int64_t b, const Band& band) const {
    return {array + b * shape_.channels * shape_.pixels() + band.y0 * shape_.width, shape_.channels, band_pixels(band),
            shape_.pixels(), 1};
  }

  void pack(LabelShare share, const Real* weight, Real* packed) const {
    parallel(share.count(), [&](int64_t k) { wsss::pack_weight(shape_, taps_, share, k, weight, packed); });
  }

  void scale_rows(LabelShare share, const Real* packed, const Real* scale, Real* scaled) const {
    parallel(taps_.count() * share.count(), [&](int64_t row) {
      wsss::scale_row(shape_.channels, packed + row * shape_.channels, scale, scaled + row * shape_.channels);
    });
  }

  void clear(LabelShare share, Real* matrix) const {
    parallel(taps_.count() * share.count(), [&](int64_t row) {
      std::fill_n(matrix + row * shape_.channels, shape_.channels, Real(0));
    });
  }

  // Gradients of a band's responses, [rows of its taps, its positions]. Gathered for each of the two products that need
  // them: cheaper than a copy for the whole map.
  wsss::Matrix<Real> gather(LabelShare share, const Band& band, const Real* grad, Real* gradients) const {
    parallel(share.count(), [&](int64_t k) {
      wsss::gather_shifted(shape_, taps_, band, share, k, grad + k * shape_.pixels(), gradients);
    });
    return wsss::row_major(gradients, (band.t1 - band.t0) * share.count(), band_pixels(band));
  }

  const Tensor features_;
  const HeadShape shape_;
  const Taps taps_;
  const std::vector<Band> bands_;
  std::vector<LabelShare> shares_;
  int64_t largest_ = 0;  // labels of the largest share
  int64_t tasks_ = 1;    // that share the images
};

Tensor forward(const Tensor& features, const std::optional<Tensor>& scale, const Tensor& weight, const Tensor& bias,
               const Dilations& dilations) {
  const int64_t sizes[] = {features.size(0), weight.size(1), features.size(2), features.size(3)};
  Tensor logits = torch::stable::new_empty(features, {sizes, 4});
  auto run = [&]<class Real>(Real) {
    const Head<Real> head(features, weight, dilations);
    if (head.empty()) return;
    head.forward(scale ? scale->const_data_ptr<Real>() : nullptr, weight.const_data_ptr<Real>(),
                 bias.const_data_ptr<Real>(), logits.mutable_data_ptr<Real>());
  };
  features.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return logits;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Gradients backward(const Tensor& grad, const Tensor& features, const std::optional<Tensor>& scale, const Tensor& weight,
                   const Tensor& bias, const Dilations& dilations, bool need_features, bool need_weight) {
  const int64_t none[] = {0};
  auto nothing = [&] { return torch::stable::new_empty(features, {none, 1}); };
  auto zeros = [&](const Tensor& like) { return torch::stable::new_zeros(like, like.sizes()); };
  Tensor of_features = need_features ? torch::stable::new_empty(features, features.sizes()) : nothing();
  Tensor of_scale = need_weight && scale ? zeros(*scale) : nothing();
  Tensor of_weight = need_weight ? zeros(weight) : nothing();
  Tensor of_bias = torch::stable::new_empty(bias, bias.sizes());
  auto run = [&]<class Real>(Real) {
    const Head<Real> head(features, weight, dilations);
    const Real* upstream = grad.const_data_ptr<Real>();
    head.backward_bias(upstream, of_bias.mutable_data_ptr<Real>());
    if (head.empty()) {
      if (need_features) torch::stable::zero_(of_features);
      return;
    }
    head.backward(upstream, scale ? scale->const_data_ptr<Real>() : nullptr, weight.const_data_ptr<Real>(),
                  need_features ? of_features.mutable_data_ptr<Real>() : nullptr, of_scale.mutable_data_ptr<Real>(),
                  need_weight ? of_weight.mutable_data_ptr<Real>() : nullptr);
  };
  features.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  return {of_features, of_scale, of_weight, of_bias};
}

Tensor operand(const char* name, const Tensor& t, const Tensor& features) {
  return wsss::real_input("label_conditioned_logits", name, t, features.scalar_type());
}
std::optional<Tensor> operand(const char* name, const std::optional<Tensor>& t, const Tensor& features) {
  return t ? std::optional<Tensor>(operand(name, *t, features)) : std::nullopt;
}

Tensor label_conditioned_logits(const Tensor& features, const std::optional<Tensor>& scale, const Tensor& weight,
                                const Tensor& bias, const Dilations& dilations) {
  const Tensor logits = forward(operand("features", features, features), operand("scale", scale, features),
                                operand("weight", weight, features), operand("bias", bias, features), dilations);
  return torch::stable::to(logits, features.scalar_type());
}

Gradients label_conditioned_logits_backward(const Tensor& grad, const Tensor& features,
                                            const std::optional<Tensor>& scale, const Tensor& weight,
                                            const Tensor& bias, const Dilations& dilations, bool need_features,
                                            bool need_weight) {
  const auto dtype = features.scalar_type();
  const auto [of_features, of_scale, of_weight, of_bias] =
      backward(operand("grad", grad, features), operand("features", features, features),
               operand("scale", scale, features), operand("weight", weight, features),
               operand("bias", bias, features), dilations, need_features, need_weight);
  return {torch::stable::to(of_features, dtype), torch::stable::to(of_scale, dtype),
          torch::stable::to(of_weight, dtype), torch::stable::to(of_bias, dtype)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsss_fast, CPU, m) {
  WSSS_IMPL(m, "label_conditioned_logits", "CPU", label_conditioned_logits);
  WSSS_IMPL(m, "label_conditioned_logits_backward", "CPU", label_conditioned_logits_backward);
}
