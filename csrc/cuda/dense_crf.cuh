// One dense_crf call on CUDA: cuts the batch into chunks with bounded workspace, lays the workspace
// out, and queues all kernels, without waiting for the device.
#pragma once

#include "dense_crf.h"
#include "lattice_build.cuh"
#include "mean_field.cuh"
#include "spatial_cache.h"

namespace wsss::cuda {

// Approximate workspace of one chunk: the batch is cut into chunks that
// need no more, or single images.
constexpr int64_t kWorkspaceBytes = int64_t{640} << 20;

template <int D>
class DenseCrf {  // D: dimensions of the bilateral lattice, 2 + image channels
 public:
  DenseCrf(const CrfCall& call, int64_t workspace_bytes) : call_(call) {
    if (call.labels > 1 && (call.gaussian_weight > 0 || call.bilateral_weight > 0)) {
      steps_ = call.iterations;
    }
    spatial_features_ = features<2>(call.gaussian_sx, call.gaussian_sy);
    bilateral_features_ = features<D>(call.bilateral_sx, call.bilateral_sy);
    if (has_gaussian()) {
      const Bounds<2> bounds(spatial_features_, call);
      fit(spatial_layout_, bounds, "gaussian");
      spatial_names_ = VertexNames<2>(bounds.from, bounds.to);
      spatial_vertices_ = plane_vertices(bounds.from, bounds.to);
    }
    if (has_bilateral()) {
      const Bounds<D> bounds(bilateral_features_, call);
      fit(bilateral_layout_, bounds, "bilateral");
      bilateral_names_ = VertexNames<D>(bounds.from, bounds.to);
    }
    choose_images(workspace_bytes);
  }

  int64_t workspace_bytes() const { return bytes_for(images_); }
  int64_t images_per_chunk() const { return images_; }

  // The memory of the spatial lattice, 0 if there is none.
  int64_t spatial_bytes() const {
    Arena measure;
    if (has_gaussian()) allocate_spatial(measure);
    return measure.peak();
  }
  // Has the spatial lattice in `memory`, where another call of the same size may have built it,
  // instead of the workspace.
  void place_spatial(void* memory, bool built) {
    spatial_memory_ = static_cast<char*>(memory);
    spatial_built_ = built;
  }

  void run(Stream stream, Arena& arena) const {
    Space space = lay_out(arena, images_);
    if (has_gaussian() && !spatial_built_) {
      build_lattice<2>(stream, space.spatial, space.spatial_build, spatial_features_,
                       spatial_layout_, spatial_names_);
      normalise(stream, space, space.spatial, 0, call_.gaussian_weight);
    }
    for (int64_t first = 0; first < call_.batch; first += images_) {
      run_chunk(stream, space, first, std::min(images_, call_.batch - first));
    }
  }

 private:
  // Space for building overlaps with that of later steps.
  struct Space {
    Lattice spatial, bilateral;
    BuildSpace spatial_build, bilateral_build;
    void* q;             // before, the factors of normalise()
    void* values[2][2];  // term, parity; the second is that of the carries before blurring
    LabelGroups groups;
  };

  bool has_gaussian() const { return steps_ > 0 && call_.gaussian_weight > 0; }
  bool has_bilateral() const { return steps_ > 0 && call_.bilateral_weight > 0; }

  Bands bands() const {
    return {static_cast<uint32_t>(call_.height), static_cast<uint32_t>(call_.width)};
  }
  // Merging cannot make the rows of few labels shorter.
  bool merges() const { return steps_ > 0 && call_.padded() > 4; }
  // Rows are float or half; those of normalise() are one float.
  int64_t row_bytes() const {
    return std::max<int64_t>(call_.row() * (call_.half_precision ? 2 : 4), sizeof(float));
  }

  template <int N>
  PixelFeatures<N> features(double sx, double sy) const {
    PixelFeatures<N> f{
        call_.image, bands(), static_cast<float>(call_.lowest), static_cast<float>(call_.highest),
        {},          {}};
    feature_scale(N, f.scale);
    f.sigma[0] = static_cast<float>(sx);
    f.sigma[1] = static_cast<float>(sy);
    for (int i = 2; i < N; ++i) f.sigma[i] = static_cast<float>(call_.levels[i - 2]);
    return f;
  }

  template <int N>
  struct Bounds {  // of scaled features
    double from[N] = {}, to[N];
    Bounds(const PixelFeatures<N>& f, const CrfCall& call) {
      to[0] = static_cast<double>(call.width - 1) / f.sigma[0] * f.scale[0];
      to[1] = static_cast<double>(call.height - 1) / f.sigma[1] * f.scale[1];
      for (int i = 2; i < N; ++i) {
        from[i] = static_cast<double>(f.lowest) / f.sigma[i] * f.scale[i];
        to[i] = static_cast<double>(f.highest) / f.sigma[i] * f.scale[i];
      }
    }
  };

  template <int N>
  static void fit(KeyLayout<N>& layout, const Bounds<N>& bounds, const char* name) {
    if (!layout.fit(bounds.from, bounds.to)) {
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
      images = std::min(images, bilateral_names_.max_images(bilateral_layout_));
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
    if (has_gaussian()) {
      Arena own(spatial_memory_, spatial_bytes());
      s.spatial = allocate_spatial(spatial_memory_ ? own : arena);
    }
    if (has_bilateral()) {
      s.bilateral = allocate_lattice(arena, size_of(images, D), named_vertices(bilateral_layout_));
    }
    const int64_t mark = arena.mark();
    if (has_gaussian()) {
      s.spatial_build = allocate_build_space(arena, s.spatial, spatial_names_.wide);
      arena.release(mark);
    }
    if (has_bilateral()) {
      s.bilateral_build = allocate_build_space(arena, s.bilateral, bilateral_names_.wide);
      arena.release(mark);
    }
    s.q = arena.allocate<char>(images * call_.pixels() * row_bytes());
    allocate_values(arena, s, 0, s.spatial, has_gaussian() ? images : 0);
    allocate_values(arena, s, 1, s.bilateral, has_bilateral());
    if (merges()) s.groups = LabelGroups::allocate(arena, images * call_.sets, call_.labels);
    return s;
  }

  Lattice allocate_spatial(Arena& arena) const {
    const int64_t named = named_vertices(spatial_layout_);
    return allocate_lattice(arena, size_of(1, 2), std::min(named, spatial_vertices_));
  }

  void allocate_values(Arena& arena, Space& s, int term, const Lattice& l, int64_t copies) const {
    if (copies == 0) return;
    const int64_t row = call_.row(), entries = copies * l.size.entries(),
                  values = copies * l.max_vertices * row_bytes();
    const int span = window_span(static_cast<int>(row / pack_width(row)));
    const int64_t carries = std::max(entries / span * row, entries / window_span(1));
    s.values[term][0] = arena.allocate<char>(values);
    s.values[term][1] =
        arena.allocate<char>(std::max(values, carries * static_cast<int64_t>(sizeof(float))));
  }

  template <class T>
  static TermOf<T> term_of(const Space& s, int term, const Lattice& l, int64_t copies) {
    void* const* values = s.values[term];
    return TermOf<T>(l, copies, static_cast<T*>(values[0]), static_cast<T*>(values[1]),
                     static_cast<float*>(values[1]));
  }

  static void normalise(Stream stream, const Space& s, const Lattice& l, int term, double weight) {
    float* factor = static_cast<float*>(s.q);
    TermsOf<float> ones{};
    ones.at[0] = term_of<float>(s, term, l, 1);
    splat_and_blur<float>(stream, ones, nullptr, 1, l.max_vertices);
    const float gain = lattice_gain(l.size.corners - 1);
    launch(stream, blocks_for(ones.at[0].points), kThreads, normalise_corners, ones.at[0], l.corner,
           static_cast<float>(weight) * gain, gain, factor);
    launch(stream, blocks_for(l.size.entries()), kThreads, normalise_contributions, l.contribution,
           l.size.entries(), factor);
  }

  void run_chunk(Stream stream, Space& s, int64_t first, int64_t images) const {
    if (has_bilateral()) {
      s.bilateral.size.images = images;
      auto features = bilateral_features_;
      features.image += first * call_.image_channels * call_.pixels();
      build_lattice<D>(
          stream, s.bilateral, s.bilateral_build, features, bilateral_layout_, bilateral_names_);
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
    Update u{call_.unary + first * planes * n,
             nullptr,
             images,
             bands(),
             call_.sets,
             call_.labels,
             row,
             s.groups,
             false};
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
  VertexNames<2> spatial_names_;
  VertexNames<D> bilateral_names_;
  int64_t spatial_vertices_ = 0;  // at most
  char* spatial_memory_ = nullptr;
  bool spatial_built_ = false;
};

// Keeps spatial lattices for later calls, in memory of `allocate`.
struct SpatialStore {
  SpatialCache* cache = nullptr;  // null: nothing is kept
  void* stream = nullptr;
  std::function<std::shared_ptr<void>(int64_t bytes)> allocate;
};

// `with_arena(bytes, use)` allocates workspace and calls use(arena).
template <class WithArena>
void dense_crf(Stream stream, const CrfCall& call, const WithArena& with_arena,
               const SpatialStore& store = {}, int64_t workspace_bytes = kWorkspaceBytes) {
  if (call.batch == 0 || call.pixels() == 0 || call.sets == 0) return;
  // Without a bilateral term the image does not matter, whatever its channels.
  with_dimensions<2>(
      "dense_crf", call.bilateral_weight > 0 ? 2 + call.image_channels : 2, [&](auto d) {
        DenseCrf<d()> crf(call, workspace_bytes);
        const int64_t bytes = crf.spatial_bytes();
        SpatialCache::Key key{};
        std::shared_ptr<void> kept;
        bool built = false;
        if (store.cache && bytes > 0 && bytes <= SpatialCache::kMaxBytes && !is_capturing(stream)) {
          key = {current_device(stream), store.stream,     call.height,         call.width,
                 call.gaussian_sx,       call.gaussian_sy, call.gaussian_weight};
          kept = store.cache->find(key);
          built = kept != nullptr;
          if (!built) kept = store.allocate(bytes);
          crf.place_spatial(kept.get(), built);
        }
        with_arena(crf.workspace_bytes(), [&](Arena& arena) { crf.run(stream, arena); });
        if (kept && !built) store.cache->insert(key, kept, bytes);
      });
}

}  // namespace wsss::cuda
