// Label-conditioned logits on CUDA: a batched matrix product of the taps with the features of a
// group of images, then one kernel for the shifted addition. The group's size keeps the workspace
// below a quarter of the features.
#include "label_conditioned.h"

#include <algorithm>

#include "label_conditioned.cuh"

namespace wsss::cuda {
namespace {

template <class T>
constexpr ElementType element_type() {
  if constexpr (std::is_same_v<T, float>) return ElementType::kFloat32;
  else if constexpr (std::is_same_v<T, double>) return ElementType::kFloat64;
  else if constexpr (std::is_same_v<T, __half>) return ElementType::kFloat16;
  else return ElementType::kBFloat16;
}

template <class T>
class DeviceHead {
 public:
  DeviceHead(Context& context, const HeadCall& call)
      : context_(context),
        stream_(stream_of(context)),
        features_(static_cast<const T*>(call.features)),
        scale_(static_cast<const T*>(call.scale)),
        weight_(static_cast<const T*>(call.weight)),
        images_(call.images),
        shape_(call.shape) {
    upload(plan_taps(call.dilations, shape_.cells == 1 ? 1 : 3, shape_.height, shape_.width));
  }

  // logits [B, K, h, w]. Labels are processed in shares whose packed weights are no larger
  // than the features of one image.
  void forward(const T* bias, T* logits) {
    const int64_t shares = std::clamp<int64_t>(
        (taps_.count * shape_.labels + pixels() - 1) / pixels(), 1, shape_.labels);
    const size_t taps_only = context_.mark();
    for (int64_t i = 0; i < shares; ++i) {
      const LabelShare share{shape_.labels * i / shares, shape_.labels * (i + 1) / shares};
      const int64_t rows = taps_.count * share.count();
      const T* packed = pack(share);
      const int64_t group = images_at_once(rows);
      T* scaled = scale_ ? context_.allocate<T>(group * rows * channels()) : nullptr;
      T* responses = context_.allocate<T>(group * rows * pixels());
      for_each_group(group, [&](int64_t first, int64_t images) {
        const Matrices taps = scaled_weight(packed, scaled, rows, first, images);
        multiply(taps, feature_matrices(first, images), {responses, images, rows, pixels()});
        launch(stream_, blocks_for(images * share.count() * pixels()), kThreads, add_shifted<T>,
               shape_, taps_, share, images, responses, bias,
               logits + first * shape_.labels * pixels());
      });
      context_.release(taps_only);
    }
  }

  // Null gradients are not computed. grad_weight must start at zero.
  void backward(const T* grad, T* grad_features, T* grad_scale, T* grad_weight) {
    const int64_t rows = taps_.count * shape_.labels, group = images_at_once(rows);
    const T* packed = pack({0, shape_.labels});
    // Holds the scaled weights of the images, then their gradients.
    T* work = context_.allocate<T>(group * rows * channels());
    T* gradients = context_.allocate<T>(group * rows * pixels());
    Wide<T>* sum = grad_weight ? context_.allocate<Wide<T>>(rows * channels()) : nullptr;
    for_each_group(group, [&](int64_t first, int64_t images) {
      launch(stream_, blocks_for(images * rows * pixels()), kThreads, gather_shifted<T>, shape_,
             taps_, images, grad + first * shape_.labels * pixels(), gradients);
      const Matrices gradient{gradients, images, rows, pixels()};
      if (grad_features) {
        const Matrices taps = scaled_weight(packed, work, rows, first, images);
        multiply(taps.t(), gradient,
                 {grad_features + first * channels() * pixels(), images, channels(), pixels()});
      }
      if (!grad_weight) return;
      multiply(gradient, feature_matrices(first, images).t(), {work, images, rows, channels()});
      const T* factor = scale_ ? scale_ + first * channels() : nullptr;
      launch(stream_, blocks_for(rows * channels()), kThreads, add_products<T>, images, rows,
             channels(), work, factor, first == 0, sum);
      if (!scale_) return;
      const dim3 grid(static_cast<unsigned>((channels() + kScaleChannels - 1) / kScaleChannels),
                      static_cast<unsigned>(images));
      launch_with_barriers(stream_, grid, dim3(kScaleChannels, kScaleParts), scale_gradient<T>,
                           rows, channels(), packed, work, grad_scale + first * channels());
    });
    if (!grad_weight) return;
    launch(stream_, blocks_for(rows * channels()), kThreads, unpack_weight<T>, shape_, taps_, sum,
           grad_weight);
  }

  void backward_bias(const T* grad, T* grad_bias) {
    launch_with_barriers(stream_, static_cast<unsigned>(shape_.labels), kBiasThreads,
                         bias_gradient<T>, shape_, images_, grad, grad_bias);
  }

 private:
  int64_t pixels() const { return shape_.pixels(); }
  int64_t channels() const { return shape_.channels; }

  void upload(const Taps& taps) {
    std::vector<int32_t> numbers;
    for (const auto* part : {&taps.dy, &taps.dx, &taps.first, &taps.source}) {
      numbers.insert(numbers.end(), part->begin(), part->end());
    }
    const int64_t count = static_cast<int64_t>(numbers.size());
    int32_t* table = context_.allocate<int32_t>(count);
    for (int64_t start = 0; start < count; start += Numbers::kMax) {
      Numbers some{};
      const int64_t n = std::min<int64_t>(Numbers::kMax, count - start);
      std::copy_n(numbers.begin() + start, n, some.value);
      launch(
          stream_, 1, Numbers::kMax, store_numbers, some, static_cast<int32_t>(n), table + start);
    }
    const int64_t t = taps.count();
    taps_ = {static_cast<int32_t>(t), table, table + t, table + 2 * t, table + 3 * t + 1};
  }

  T* pack(LabelShare share) {
    const int64_t count = taps_.count * share.count() * channels();
    T* packed = context_.allocate<T>(count);
    launch(stream_, blocks_for(count), kThreads, pack_weight<T>, shape_, taps_, share, weight_,
           packed);
    return packed;
  }

  // The packed weights times the scale of each image, written to `scaled`; without scale the
  // packed weights for every image.
  Matrices scaled_weight(const T* packed, T* scaled, int64_t rows, int64_t first, int64_t images) {
    if (!scale_) return {packed, images, rows, channels(), true};
    launch(stream_, blocks_for(images * rows * channels()), kThreads, scale_weight<T>, images, rows,
           channels(), packed, scale_ + first * channels(), scaled);
    return {scaled, images, rows, channels()};
  }

  Matrices feature_matrices(int64_t first, int64_t images) const {
    return {features_ + first * channels() * pixels(), images, channels(), pixels()};
  }

  void multiply(const Matrices& a, const Matrices& b, const Matrices& out) {
    context_.multiply(element_type<T>(), a, b, out);
  }

  int64_t images_at_once(int64_t rows) const {
    const int64_t spare = images_ * channels() * pixels() / 4 - rows * channels();
    return std::clamp<int64_t>(
        spare / (rows * (channels() + pixels())), 1, std::min<int64_t>(images_, 65535));
  }

  template <class Work>
  void for_each_group(int64_t group, Work work) const {
    for (int64_t first = 0; first < images_; first += group) {
      work(first, std::min(group, images_ - first));
    }
  }

  Context& context_;
  const Stream stream_;
  const T *features_, *scale_, *weight_;
  const int64_t images_;
  const HeadShape shape_;
  DeviceTaps taps_{};
};

}  // namespace

void label_conditioned_logits(Context& context, const HeadCall& call, const void* bias,
                              void* logits) {
  with_element_type(call.type, [&]<class T>(T) {
    DeviceHead<T>(context, call).forward(static_cast<const T*>(bias), static_cast<T*>(logits));
  });
}

void label_conditioned_logits_backward(Context& context, const HeadCall& call, const void* grad_,
                                       void* grad_features, void* grad_scale, void* grad_weight,
                                       void* grad_bias) {
  with_element_type(call.type, [&]<class T>(T) {
    DeviceHead<T> head(context, call);
    const T* grad = static_cast<const T*>(grad_);
    head.backward_bias(grad, static_cast<T*>(grad_bias));
    if (grad_features == nullptr && grad_weight == nullptr) return;
    head.backward(grad, static_cast<T*>(grad_features), static_cast<T*>(grad_scale),
                  static_cast<T*>(grad_weight));
  });
}

}  // namespace wsss::cuda
