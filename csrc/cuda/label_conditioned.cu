// Label-conditioned logits on CUDA: batched matrix products of the taps with the features, and
// kernels for the shifted addition and the scale. Responses are computed for groups of images, and
// the weights' gradient for shares of labels, so that in addition to a few copies of the weights
// the workspace is at most half of the features or kLeastSpare elements, but holds at least one
// group of one image and one share of one label. A backward pass whose result is not the gradient
// of the features may need a copy of them.
#include "label_conditioned.h"

#include <algorithm>

#include "label_conditioned.cuh"
#include "tf32_product.h"

namespace wsss::cuda {
namespace {

template <class T>
constexpr ElementType element_type() {
  if constexpr (std::is_same_v<T, float>) return ElementType::kFloat32;
  else if constexpr (std::is_same_v<T, double>) return ElementType::kFloat64;
  else if constexpr (std::is_same_v<T, __half>) return ElementType::kFloat16;
  else return ElementType::kBFloat16;
}

constexpr int64_t kAligned = 8;  // elements; matrix products are slow on rows that start elsewhere
constexpr int64_t kLeastSpare = 1 << 20;
int64_t aligned(int64_t count) { return (count + kAligned - 1) / kAligned * kAligned; }

// Dimensions y and z of a grid are limited; kernels stride over them.
unsigned limited(int64_t count) { return static_cast<unsigned>(std::min<int64_t>(count, 65535)); }

// Calls run.operator()<V>() for the widest pack of V elements, V = 1 or at most `kBytes` bytes, for
// rows of `width` elements that start at `base`.
template <class T, int kBytes, class Run>
void with_pack(int64_t width, std::initializer_list<const void*> bases, const Run& run) {
  constexpr int kWide = kBytes / static_cast<int>(sizeof(T));
  bool fits = width % kWide == 0;
  for (const void* base : bases) fits &= reinterpret_cast<uintptr_t>(base) % kBytes == 0;
  if (fits) return run.template operator()<kWide>();
  run.template operator()<1>();
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
        shape_(call.shape),
        tf32_(call.tf32 && std::is_same_v<T, float>),
        // Both orders are the same for one pixel.
        channels_last_(call.channels_last || shape_.pixels() == 1) {
    upload(plan_taps(call.dilations, shape_.cells == 1 ? 1 : 3, shape_.height, shape_.width));
  }

  // logits [B, K, h, w]. Of weights and features the smaller is scaled.
  void forward(const T* bias, T* logits) {
    const bool scaled_weight = scale_ && rows() <= pixels(), scaled = scale_ && !scaled_weight;
    const int64_t image = rows() * row_step() + (scaled_weight ? rows() * channels() : 0) +
                          (scaled ? channels() * pixels() : 0);
    // The responses of a single tap are the logits.
    const bool in_place = taps_.count == 1;
    const int64_t group = in_place && !scaled ? images_ : images_at_once(image);
    T* responses = in_place ? nullptr : context_.allocate<T>(group * rows() * row_step());
    T* work = scaled ? context_.allocate<T>(group * channels() * pixels()) : nullptr;
    T* packed = scaled_weight ? context_.allocate<T>(group * rows() * channels()) : nullptr;
    Matrices taps = scaled_weight ? Matrices{} : packed_weight();
    for_each_group(group, [&](int64_t first, int64_t images) {
      T* to = logits + first * shape_.labels * pixels();
      T* out = in_place ? to : responses;
      if (scaled_weight) taps = pack(packed, images, scale_ + first * channels());
      if (scaled) scale_features(first, images, work);
      const T* from = scaled ? work : features_ + first * channels() * pixels();
      const int64_t step = in_place ? pixels() : row_step();
      taps.batch = images;
      multiply(taps, matrices(from, images), {out, images, rows(), pixels(), rows() * step, step});
      launch(stream_, pixel_grid(shape_.labels, images), kThreads, add_shifted<T>, shape_, taps_,
             images, step, out, bias, to);
    });
  }

  // Null gradients are not computed; grad_scale needs grad_weight.
  void backward(const T* grad, T* grad_features, T* grad_scale, T* grad_weight) {
    // First the scaled features, pixel by pixel, then their gradient.
    T* work = grad_features;
    const bool turns = grad_weight && !by_image() && !channels_last_;
    if (work == nullptr && (grad_scale || (grad_weight && scale_) || turns)) {
      work = context_.allocate<T>(images_ * channels() * pixels());
    }
    Gradients every{};
    if (grad_weight) every = weight_gradient(grad, work, grad_weight);
    if (grad_features || grad_scale) feature_gradient(grad, every, work);
    if (scale_ && (grad_features || grad_scale)) finish(work, grad_scale);
  }

  void backward_bias(const T* grad, T* grad_bias) {
    launch_with_barriers(stream_, blocks_for(shape_.labels, 1), dim3(kWarp, kWarps),
                         bias_gradient<T>, shape_, images_, grad, grad_bias);
  }

 private:
  // The shifted gradients of all rows, if they are in memory; images are `step` apart.
  struct Gradients {
    const T* data;
    int64_t step, row_step;
  };

  int64_t pixels() const { return shape_.pixels(); }
  int64_t channels() const { return shape_.channels; }
  int64_t rows() const { return taps_.count * shape_.labels; }
  int64_t row_step() const { return aligned(pixels()); }
  int64_t spare() const { return std::max(images_ * channels() * pixels() / 2, kLeastSpare); }

  // Whether the weights' gradient is summed over products of each image, which are small for a few
  // rows; otherwise it is a product over the pixels of all images.
  bool by_image() const { return rows() * 4 <= pixels(); }

  int64_t images_at_once(int64_t per_image) const {
    const int64_t most = std::clamp<int64_t>(spare() / per_image, 1, images_);
    const int64_t groups = (images_ + most - 1) / most;
    return (images_ + groups - 1) / groups;
  }

  template <class Work>
  void for_each_group(int64_t group, Work work) const {
    for (int64_t first = 0; first < images_; first += group) {
      work(first, std::min(group, images_ - first));
    }
  }

  dim3 pixel_grid(int64_t labels, int64_t images) const {
    return dim3(blocks_for(pixels()), limited(labels), limited(images));
  }

  void upload(const Taps& taps) {
    std::vector<int32_t> numbers;
    for (const auto* part : {&taps.dy, &taps.dx, &taps.first, &taps.source}) {
      numbers.insert(numbers.end(), part->begin(), part->end());
    }
    const size_t tap_of = numbers.size();
    numbers.resize(tap_of + shape_.branches * shape_.cells, -1);
    for (int64_t t = 0; t < taps.count(); ++t) {
      for (int64_t j = taps.first[t]; j < taps.first[t + 1]; ++j) {
        numbers[tap_of + taps.source[j]] = static_cast<int32_t>(t);
      }
    }
    taps_.count = static_cast<int32_t>(taps.count());
    taps_.sources = static_cast<int32_t>(taps.source.size());
    const int64_t count = static_cast<int64_t>(numbers.size());
    if (count <= Numbers::kMax) {
      std::copy(numbers.begin(), numbers.end(), taps_.numbers.value);
      return;
    }
    int32_t* table = context_.allocate<int32_t>(count);
    for (int64_t start = 0; start < count; start += Numbers::kMax) {
      Numbers some{};
      const int64_t n = std::min<int64_t>(Numbers::kMax, count - start);
      std::copy_n(numbers.begin() + start, n, some.value);
      launch(
          stream_, 1, Numbers::kMax, store_numbers, some, static_cast<int32_t>(n), table + start);
    }
    taps_.table = table;
  }

  // [images, T * K, C], scaled unless `scale` is null.
  Matrices pack(T* packed, int64_t images, const T* scale) {
    const dim3 grid(blocks_for(rows(), 1), blocks_for(channels()));
    launch(stream_, grid, kThreads, pack_weight<T>, shape_, taps_, images, weight_, scale, packed);
    return dense(packed, images, rows(), channels());
  }

  // [T * K, C], the same for all images.
  Matrices packed_weight() {
    Matrices packed = dense(weight_, images_, rows(), channels());
    if (shape_.branches * shape_.cells != 1) {
      packed = pack(context_.allocate<T>(rows() * channels()), 1, nullptr);
    }
    packed.step = 0;
    return packed;
  }

  // [images, C, h*w] of features, or what has their order.
  Matrices matrices(const T* from, int64_t images) const {
    return channels_last_ ? dense(from, images, pixels(), channels()).t()
                          : dense(from, images, channels(), pixels());
  }

  // In the order of the features.
  void scale_features(int64_t first, int64_t images, T* to) {
    const T *from = features_ + first * channels() * pixels(),
            *factor = scale_ + first * channels();
    const int64_t width = channels_last_ ? channels() : pixels(),
                  count = images * (channels_last_ ? pixels() : channels());
    with_pack<T, 16>(width, {from, to}, [&]<int V>() {
      const dim3 block = row_block(static_cast<int>(std::min<int64_t>(width / V, 64)));
      launch(stream_, blocks_for(count, block.y), block,
             channels_last_ ? scale_rows<true, V, T> : scale_rows<false, V, T>, count, width / V,
             pixels(), from, factor, to);
    });
  }

  // The scaled features of all images, [B * h*w, C]; written to `work` unless they are the
  // features.
  const T* pixel_major(T* work) {
    if (channels_last_ && !scale_) return features_;
    if (channels_last_) {
      scale_features(0, images_, work);
    } else {
      const dim3 grid(
          blocks_for(pixels(), kTile), limited((channels() + kTile - 1) / kTile), limited(images_));
      launch_with_barriers(stream_, grid, dim3(kTile, kTileRows), turn_features<T>, images_,
                           channels(), pixels(), features_, scale_, work);
    }
    return work;
  }

  // Returns the shifted gradients if they are those of all labels.
  Gradients weight_gradient(const T* grad, T* work, T* grad_weight) {
    const bool direct = by_image() && taps_.count == 1;  // the gradients are not shifted
    const int64_t row = (direct ? 0 : gathered_row()) + (by_image() ? images_ * channels() : 0);
    const int64_t shares =
        std::clamp<int64_t>((rows() * row + spare() - 1) / spare(), 1, shape_.labels);
    const int64_t most = taps_.count * ((shape_.labels + shares - 1) / shares);
    const int64_t parts = by_image() ? images_ : parts_of_product(most);
    const size_t none = context_.mark();
    T* gathered = direct ? nullptr : context_.allocate<T>(most * gathered_row());
    const size_t only_gathered = context_.mark();
    T* product = context_.allocate<T>(parts * most * channels());
    const T* features = by_image() ? nullptr : pixel_major(work);
    Gradients gradients{};
    for (int64_t i = 0; i < shares; ++i) {
      const LabelShare share{shape_.labels * i / shares, shape_.labels * (i + 1) / shares};
      const int64_t count = taps_.count * share.count();
      if (direct) {
        gradients = {grad + share.first * pixels(), shape_.labels * pixels(), pixels()};
      } else if (by_image()) {
        gradients = gather(grad, share, images_, count * row_step(), row_step(), gathered);
      } else {
        gradients = gather(grad, share, images_, pixels(), gathered_row(), gathered);
      }
      const Matrices out = dense(product, parts, count, channels());
      if (by_image()) {
        multiply({gradients.data, images_, count, pixels(), gradients.step, gradients.row_step},
                 matrices(features_, images_).t(), out);
      } else {
        const int64_t inner = images_ * pixels() / parts;
        multiply({gradients.data, parts, count, inner, inner, gradients.row_step},
                 dense(features, parts, inner, channels()), out);
      }
      const dim3 grid(
          blocks_for(shape_.branches * share.count(), 1), blocks_for(channels(), kUnpackChannels));
      launch_with_barriers(stream_, grid, kUnpackChannels, unpack_weight<T>, shape_, taps_, share,
                           parts, product, by_image() ? scale_ : nullptr, grad_weight);
    }
    context_.release(shares == 1 ? only_gathered : none);
    return shares == 1 ? gradients : Gradients{};
  }

  // The elements of a row of shifted gradients of all images.
  int64_t gathered_row() const {
    return by_image() ? images_ * row_step() : aligned(images_ * pixels());
  }

  // A product [rows, C] over the pixels of all images is divided until it has enough tiles to
  // occupy a large GPU. Parts are rounded to T, and summed as Wide<T>.
  int64_t parts_of_product(int64_t rows) const {
    constexpr int64_t kTileSide = 128, kTiles = 192, kLeast = 512;
    const int64_t tiles =
        (rows + kTileSide - 1) / kTileSide * ((channels() + kTileSide - 1) / kTileSide);
    int64_t parts = 1;
    while (parts * tiles < kTiles && images_ * pixels() / (2 * parts) >= kLeast &&
           images_ * pixels() % (2 * parts * kAligned) == 0) {
      parts *= 2;
    }
    return parts;
  }

  Gradients gather(const T* grad, LabelShare share, int64_t images, int64_t step, int64_t row_step,
                   T* to) {
    launch(stream_, pixel_grid(share.count(), images), kThreads, gather_shifted<T>, shape_, taps_,
           share, images, step, row_step, grad, to);
    return {to, step, row_step};
  }

  // The gradient of the scaled features, in the order of the features; `every` are the shifted
  // gradients of all images, or null.
  void feature_gradient(const T* grad, Gradients every, T* to) {
    if (every.data == nullptr && taps_.count == 1) {
      every = {grad, shape_.labels * pixels(), pixels()};
    }
    const Matrices taps = packed_weight();
    const LabelShare labels{0, shape_.labels};
    const int64_t step = rows() * row_step(), group = every.data ? images_ : images_at_once(step);
    T* gathered = every.data ? nullptr : context_.allocate<T>(group * step);
    for_each_group(group, [&](int64_t first, int64_t images) {
      const Gradients some = every.data ? every
                                        : gather(grad + first * shape_.labels * pixels(), labels,
                                                 images, step, row_step(), gathered);
      Matrices own = taps, out = matrices(to + first * channels() * pixels(), images),
               from{some.data, images, rows(), pixels(), some.step, some.row_step};
      if (channels_last_ && some.step == pixels()) {
        // One product for all images.
        from = {some.data, 1, rows(), images * pixels(), 0, some.row_step};
        out = dense(out.data, 1, images * pixels(), channels()).t();
      }
      own.batch = from.batch;
      if (channels_last_) multiply(from.t(), own, out.t());
      else multiply(own.t(), from, out);
    });
  }

  void finish(T* gradient, T* grad_scale) {
    const int64_t width = channels_last_ ? channels() : pixels();
    if (channels_last_) {
      with_pack<T, sizeof(T) == 2 ? 8 : 16>(width, {features_, scale_, gradient}, [&]<int V>() {
        const dim3 grid(blocks_for(width / V, kWarp), limited(images_));
        launch_with_barriers(stream_, grid, dim3(kWarp, kWarps), finish_columns<V, T>, images_,
                             pixels(), width / V, features_, scale_, gradient, grad_scale);
      });
      return;
    }
    const int64_t count = images_ * channels();
    with_pack<T, 16>(width, {features_, gradient}, [&]<int V>() {
      launch_with_barriers(
          stream_, blocks_for(count, kWarps), dim3(kWarp, kWarps), finish_rows<V, T>, count,
          width / V, features_, scale_, gradient, grad_scale);
    });
  }

  void multiply(const Matrices& a, const Matrices& b, const Matrices& out) {
    if (tf32_ && prefers_tf32(context_, a, b, out)) return multiply_tf32(context_, a, b, out);
    context_.multiply(element_type<T>(), a, b, out);
  }

  Context& context_;
  const Stream stream_;
  const T *features_, *scale_, *weight_;
  const int64_t images_;
  const HeadShape shape_;
  const bool tf32_, channels_last_;
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
