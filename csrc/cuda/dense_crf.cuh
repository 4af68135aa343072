// One dense_crf call on CUDA: cuts the batch into chunks with bounded workspace, lays the workspace
// out, and queues all kernels, without waiting for the device.
#pragma once

#include <optional>

#include "dense_crf.h"
#include "mean_field.cuh"
#include "pixel_lattice.h"
#include "spatial_cache.h"

namespace wsss::cuda {

class DenseCrf {
 public:
  DenseCrf(const CrfCall& call, int64_t workspace_bytes) : call_(call) {
    if (call.labels > 1 && (call.gaussian_weight > 0 || call.bilateral_weight > 0)) {
      steps_ = call.iterations;
    }
    if (has_gaussian()) {
      spatial_ = PixelLattice("dense_crf", "gaussian", call.spatial_grid());
    }
    if (has_bilateral()) {
      bilateral_ = PixelLattice("dense_crf", "bilateral", call.bilateral_grid());
      if (call.lattice) store_.emplace(bilateral_, call.lattice);
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
      spatial_.build(stream, space.spatial, space.spatial_build, 0);
      normalise(stream, space, space.spatial, 0, call_.gaussian_weight);
    }
    each_part(call_.batch, store_ ? store_->images() : images_, images_,
              [&](int64_t first, int64_t images) { run_chunk(stream, space, first, images); });
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

  void choose_images(int64_t workspace_bytes) {
    int64_t images = call_.batch;
    if (has_bilateral()) {
      images = std::min(images, store_ ? store_->images() : bilateral_.max_images());
    }
    // Pixels and the spatial term's entries are counted with 32 bits, too.
    const int64_t entries = LatticeSize{1, call_.pixels(), 3, kTile}.entries();
    if (entries > entry_limit()) {
      throw BeyondLimits("dense_crf: the image is too large for the CUDA kernel");
    }
    images = std::min(images, entry_limit() / entries);
    images = std::min(images, workspace_bytes / std::max<int64_t>(bytes_for(1), 1));
    images_ = part_size(call_.batch, std::max<int64_t>(images, 1));
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
      s.bilateral = store_ ? allocate_copies(arena, images) : bilateral_.allocate(arena, images);
    }
    const int64_t mark = arena.mark();
    if (has_gaussian()) {
      s.spatial_build = spatial_.allocate_build_space(arena, s.spatial);
      arena.release(mark);
    }
    if (has_bilateral() && !store_) {
      s.bilateral_build = bilateral_.allocate_build_space(arena, s.bilateral);
      arena.release(mark);
    }
    s.q = arena.allocate<char>(images * call_.pixels() * row_bytes());
    allocate_values(arena, s, 0, s.spatial, has_gaussian() ? images : 0);
    allocate_values(arena, s, 1, s.bilateral, has_bilateral());
    if (merges()) s.groups = LabelGroups::allocate(arena, images * call_.sets, call_.labels);
    return s;
  }

  Lattice allocate_spatial(Arena& arena) const { return spatial_.allocate(arena, 1); }

  // Of the corners and contributions of a stored lattice, which must not be normalised.
  Lattice allocate_copies(Arena& arena, int64_t images) const {
    Lattice l = store_->part(0, images);
    l.corner = arena.allocate<Corner>(images * l.size.points * l.size.corners);
    l.contribution = arena.allocate<Contribution>(l.size.entries());
    return l;
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
      s.bilateral = store_ ? copy_stored(stream, s.bilateral, first, images)
                           : with_images(s.bilateral, images);
      if (!store_) bilateral_.build(stream, s.bilateral, s.bilateral_build, first);
      normalise(stream, s, s.bilateral, 1, call_.bilateral_weight);
    }
    if (call_.half_precision) iterate<__half>(stream, s, first, images);
    else iterate<float>(stream, s, first, images);
  }

  // Images of the stored lattice, with copies in the memory of `space`.
  Lattice copy_stored(Stream stream, const Lattice& space, int64_t first, int64_t images) const {
    const Lattice part = store_->part(first, images);
    Lattice copy = part;
    copy.corner = space.corner;
    copy.contribution = space.contribution;
    copy.corner_step = images * part.size.points;
    copy.first_point = 0;
    const int64_t corners = copy.corner_step * part.size.corners;
    launch(stream, blocks_for(corners), kThreads, copy_corners, part, copy.corner);
    launch(stream, blocks_for(part.size.entries()), kThreads, copy_contributions, part,
           copy.contribution);
    return copy;
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
  PixelLattice spatial_, bilateral_;
  std::optional<StoredLattices> store_;
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
  DenseCrf crf(call, workspace_bytes);
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
}

}  // namespace wsss::cuda
