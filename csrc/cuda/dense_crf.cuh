// One dense_crf call on CUDA: cuts the batch into chunks with bounded workspace, lays the workspace
// out, and queues all kernels, without waiting for the device.
#pragma once

#include "dense_crf.h"
#include "mean_field.cuh"

namespace wsss::cuda {

// Approximate workspace of one chunk: the batch is cut into chunks that
// need no more, or single images.
constexpr int64_t kWorkspaceBytes = int64_t{2} << 30;

template <int D>
class DenseCrf {  // D: dimensions of the bilateral lattice, 2 + image channels
 public:
  DenseCrf(const CrfCall& call, int64_t workspace_bytes) : call_(call) {
    if (call.labels > 1 && (call.gaussian_weight > 0 || call.bilateral_weight > 0)) {
      steps_ = call.iterations;
    }
    spatial_features_ = features<2>(call.gaussian_sx, call.gaussian_sy);
    bilateral_features_ = features<D>(call.bilateral_sx, call.bilateral_sy);
    if (has_gaussian()) fit(spatial_layout_, spatial_features_, "gaussian");
    if (has_bilateral()) fit(bilateral_layout_, bilateral_features_, "bilateral");
    choose_images(workspace_bytes);
  }

  int64_t workspace_bytes() const { return bytes_for(images_); }
  int64_t images_per_chunk() const { return images_; }

  void run(Stream stream, Arena& arena) const {
    Space space = lay_out(arena, images_);
    if (has_gaussian()) {
      build_lattice<2>(stream, space.spatial, space.build, spatial_features_, spatial_layout_);
      normalise(stream, space, space.spatial, 0, call_.gaussian_weight);
    }
    for (int64_t first = 0; first < call_.batch; first += images_) {
      run_chunk(stream, space, first, std::min(images_, call_.batch - first));
    }
  }

 private:
  // `build` overlaps with `values`, which are needed later.
  struct Space {
    Lattice spatial, bilateral;
    BuildSpace build;
    float* factor;
    void* q;
    void* values[2][2];  // term, parity
    float* carry[2];
    LabelGroups groups;
  };

  bool has_gaussian() const { return steps_ > 0 && call_.gaussian_weight > 0; }
  bool has_bilateral() const { return steps_ > 0 && call_.bilateral_weight > 0; }

  // Merging cannot make the rows of few labels shorter.
  bool merges() const { return steps_ > 0 && call_.padded() > 4; }
  int64_t value_bytes() const { return call_.half_precision ? 2 : 4; }

  template <int N>
  PixelFeatures<N> features(double sx, double sy) const {
    PixelFeatures<N> f{
        call_.image,
        call_.pixels(),
        static_cast<uint32_t>(call_.width),
        static_cast<float>(call_.lowest),
        static_cast<float>(call_.highest),
        {},
        {}};
    feature_scale(N, f.scale);
    f.sigma[0] = static_cast<float>(sx);
    f.sigma[1] = static_cast<float>(sy);
    for (int i = 2; i < N; ++i) f.sigma[i] = static_cast<float>(call_.levels[i - 2]);
    return f;
  }

  template <int N>
  void fit(KeyLayout<N>& layout, const PixelFeatures<N>& f, const char* name) const {
    double from[N] = {}, to[N];
    to[0] = static_cast<double>(call_.width - 1) / f.sigma[0] * f.scale[0];
    to[1] = static_cast<double>(call_.height - 1) / f.sigma[1] * f.scale[1];
    for (int i = 2; i < N; ++i) {
      from[i] = static_cast<double>(f.lowest) / f.sigma[i] * f.scale[i];
      to[i] = static_cast<double>(f.highest) / f.sigma[i] * f.scale[i];
    }
    if (!layout.fit(from, to)) {
      throw BeyondLimits(std::string("dense_crf: ") + name +
                         " sigmas are too small for the CUDA kernel's 64-bit keys");
    }
  }

  LatticeSize size_of(int64_t images, int dimensions) const {
    return {images, call_.pixels(), dimensions + 1, kTile};
  }

  void choose_images(int64_t workspace_bytes) {
    const int64_t entries = size_of(1, std::max(D, 2)).entries();
    if (entries > entry_limit()) {
      throw BeyondLimits("dense_crf: the image is too large for the CUDA kernel");
    }
    int64_t images = std::min(call_.batch, entry_limit() / entries);
    if (has_bilateral()) {
      images = std::min(images, int64_t{1} << std::min(64 - bilateral_layout_.bits, 30));
    }
    images = std::max<int64_t>(
        1, std::min(images, workspace_bytes / std::max<int64_t>(bytes_for(1), 1)));
    const int64_t chunks = (call_.batch + images - 1) / images;
    images_ = chunks ? (call_.batch + chunks - 1) / chunks : 1;  // chunks of equal size
  }

  int64_t bytes_for(int64_t images) const {
    Arena measure;
    lay_out(measure, images);
    return measure.peak();
  }

  Space lay_out(Arena& arena, int64_t images) const {
    Space s{};
    if (steps_ == 0) return s;
    int64_t entries = 0, max_vertices = 0;
    if (has_gaussian()) {
      s.spatial = allocate_lattice(arena, size_of(1, 2), AnyLayout(spatial_layout_).max_vertices);
      entries = s.spatial.size.entries();
      max_vertices = s.spatial.max_vertices;
    }
    if (has_bilateral()) {
      const int64_t named = AnyLayout(bilateral_layout_).max_vertices;
      s.bilateral = allocate_lattice(
          arena, size_of(images, D), named < entry_limit() ? named * images : named);
      entries = std::max(entries, s.bilateral.size.entries());
      max_vertices = std::max(max_vertices, s.bilateral.max_vertices);
    }
    s.factor = arena.allocate<float>(images * call_.pixels());
    const int64_t mark = arena.mark();
    s.build = allocate_build_space(arena, entries, max_vertices);
    arena.release(mark);
    s.q = arena.allocate<char>(images * call_.pixels() * call_.row() * value_bytes());
    allocate_values(arena, s, 0, s.spatial, has_gaussian() ? images : 0);
    allocate_values(arena, s, 1, s.bilateral, has_bilateral());
    if (merges()) s.groups = LabelGroups::allocate(arena, images * call_.sets, call_.labels);
    return s;
  }

  // Values are float, or half; the ones of a lattice's normalisation are float.
  void allocate_values(Arena& arena, Space& s, int term, const Lattice& l, int64_t copies) const {
    if (copies == 0) return;
    const int64_t row = call_.row(),
                  bytes = std::max<int64_t>(row * value_bytes(), sizeof(float));
    for (void*& values : s.values[term]) {
      values = arena.allocate<char>(copies * l.max_vertices * bytes);
    }
    const int64_t entries = copies * l.size.entries();
    s.carry[term] = arena.allocate<float>(
        std::max(entries / window_span(1), entries / window_span(static_cast<int>(row) / pack_width(row)) * row));
  }

  template <class T>
  static TermOf<T> term_of(const Space& s, int term, const Lattice& l, int64_t copies) {
    return TermOf<T>(l, copies, static_cast<T*>(s.values[term][0]),
                     static_cast<T*>(s.values[term][1]), s.carry[term]);
  }

  static void normalise(Stream stream, const Space& s, const Lattice& l, int term, double weight) {
    TermsOf<float> ones{};
    ones.at[0] = term_of<float>(s, term, l, 1);
    splat_and_blur<float>(stream, ones, nullptr, 1, l.max_vertices);
    const float gain = lattice_gain(l.size.corners - 1);
    launch(stream, blocks_for(ones.at[0].points), kThreads, normalise_corners, ones.at[0], l.corner,
           static_cast<float>(weight) * gain, gain, s.factor);
    launch(stream, blocks_for(l.size.entries()), kThreads, normalise_contributions, l.contribution,
           l.size.entries(), s.factor);
  }

  void run_chunk(Stream stream, Space& s, int64_t first, int64_t images) const {
    if (has_bilateral()) {
      s.bilateral.size.images = images;
      auto features = bilateral_features_;
      features.image += first * call_.image_channels * call_.pixels();
      build_lattice<D>(stream, s.bilateral, s.build, features, bilateral_layout_);
      normalise(stream, s, s.bilateral, 1, call_.bilateral_weight);
    }
    if (call_.half_precision) iterate<__half>(stream, s, first, images);
    else iterate<float>(stream, s, first, images);
  }

  template <class T>
  void iterate(Stream stream, const Space& s, int64_t first, int64_t images) const {
    const int64_t n = call_.pixels(), planes = static_cast<int64_t>(call_.sets) * call_.labels;
    TermsOf<T> terms{};
    int used = 0;
    int64_t max_rows = 1;
    if (has_gaussian()) {
      terms.at[used++] = term_of<T>(s, 0, s.spatial, images);
      max_rows = s.spatial.max_vertices * images;
    }
    if (has_bilateral()) {
      terms.at[used++] = term_of<T>(s, 1, s.bilateral, 1);
      max_rows = std::max(max_rows, s.bilateral.max_vertices);
    }
    const RowWidth row(call_.sets, call_.padded(), s.groups.widest);
    Update u{call_.unary + first * planes * n, nullptr, images,   n,    call_.sets,
             call_.labels,                     row,     s.groups, false};
    if (merges()) {
      merge_labels(stream, s.groups, u.unary, images * call_.sets, call_.labels, n);
    }
    T* q = static_cast<T*>(s.q);
    for (int64_t step = 0; step < steps_; ++step) {
      u.message = step > 0;
      launch_update<T>(stream, u, terms, q);
      splat_and_blur<T>(stream, terms, q, row, max_rows);
    }
    u.message = steps_ > 0;
    u.out = call_.q + first * planes * n;
    launch_update<T>(stream, u, terms, nullptr);
  }

  const CrfCall call_;
  int64_t steps_ = 0, images_ = 1;
  PixelFeatures<2> spatial_features_;
  PixelFeatures<D> bilateral_features_;
  KeyLayout<2> spatial_layout_;
  KeyLayout<D> bilateral_layout_;
};

// `with_arena(bytes, use)` allocates workspace and calls use(arena).
template <class WithArena>
void dense_crf(Stream stream, const CrfCall& call, const WithArena& with_arena,
               int64_t workspace_bytes = kWorkspaceBytes) {
  if (call.batch == 0 || call.pixels() == 0 || call.sets == 0) return;
  // Without a bilateral term the image does not matter, whatever its channels.
  with_dimensions<2>(
      "dense_crf", call.bilateral_weight > 0 ? 2 + call.image_channels : 2, [&](auto d) {
        const DenseCrf<d()> crf(call, workspace_bytes);
        with_arena(crf.workspace_bytes(), [&](Arena& arena) { crf.run(stream, arena); });
      });
}

}  // namespace wsss::cuda
