// Filters planes of values [images, K, H, W] with the lattices of their images, a bounded number of
// images at a time: the ops bilateral_filter and dense_energy_loss.
#pragma once

#include <optional>

#include "filter.cuh"
#include "pixel_lattice.h"

namespace wsss::cuda {

// The values of a pixel are a row, padded to whole packs of 4 unless there are few.
inline int64_t padded_width(int64_t channels) {
  return channels <= 2 ? channels : (channels + 3) / 4 * 4;
}

// Images [first, first + images), of which `rows` hold the values [points, width].
struct PlaneChunk {
  int64_t first, images;
  Lattice lattice;
  TermsOf<float> terms;
  float* rows;
  float* extra;  // as many floats per point as the caller asked for

  int64_t points() const { return images * lattice.size.points; }
};

class PlaneFilter {
 public:
  // `stored`: the memory of the batch' lattices, or null to build them. `extra`: floats per point.
  PlaneFilter(const PixelLattice& pixels, void* stored, int64_t channels, int64_t extra,
              int64_t workspace_bytes)
      : pixels_(pixels), width_(static_cast<int>(padded_width(channels))), extra_(extra) {
    if (channels > INT32_MAX - 3) throw BeyondLimits("too many channels for the CUDA kernel");
    if (stored) store_.emplace(pixels, stored);
    const int64_t most = store_ ? store_->images() : pixels.max_images(),
                  fitting = workspace_bytes / std::max<int64_t>(bytes_for(1), 1);
    images_ = part_size(batch(), std::max<int64_t>(1, std::min(most, fitting)));
  }

  int width() const { return width_; }
  int pack() const { return pack_width(width_); }
  int64_t images_per_chunk() const { return images_; }
  int64_t workspace_bytes() const { return bytes_for(images_); }

  // Calls work(chunk) for all images, with the chunk's lattice built and its rows not set.
  template <class Work>
  void each_chunk(Stream stream, Arena& arena, const Work& work) const {
    const Space s = lay_out(arena, images_);
    each_part(
        batch(), store_ ? store_->images() : images_, images_, [&](int64_t first, int64_t images) {
          const Lattice l = store_ ? store_->part(first, images) : with_images(s.lattice, images);
          if (!store_) pixels_.build(stream, l, s.build, first);
          PlaneChunk chunk{first, images, l, {}, s.rows, s.extra};
          chunk.terms.at[0] = TermOf<float>(l, 1, s.values[0], s.values[1], s.values[1]);
          work(chunk);
        });
  }

  // Splats the chunk's rows and blurs them.
  void filter(Stream stream, const PlaneChunk& chunk, bool reverse) const {
    splat_and_blur<float>(
        stream, chunk.terms, chunk.rows, width_, chunk.lattice.max_vertices, reverse);
  }

 private:
  // Space for building overlaps with that of later steps.
  struct Space {
    Lattice lattice;
    BuildSpace build;
    float *rows, *extra;
    float* values[2];  // the second is that of the carries before blurring
  };

  int64_t batch() const { return pixels_.grid().batch; }

  int64_t bytes_for(int64_t images) const {
    Arena measure;
    lay_out(measure, images);
    return measure.peak();
  }

  Space lay_out(Arena& arena, int64_t images) const {
    Space s{};
    if (store_) {
      s.lattice = store_->part(0, images);
    } else {
      s.lattice = pixels_.allocate(arena, images);
      const int64_t mark = arena.mark();
      s.build = pixels_.allocate_build_space(arena, s.lattice);
      arena.release(mark);
    }
    const int64_t points = images * s.lattice.size.points, values = s.lattice.max_vertices * width_,
                  carries = s.lattice.size.entries() / window_span(width_ / pack()) * width_;
    s.rows = arena.allocate<float>(points * width_);
    s.extra = arena.allocate<float>(points * extra_);
    s.values[0] = arena.allocate<float>(values);
    s.values[1] = arena.allocate<float>(std::max(values, carries));
    return s;
  }

  const PixelLattice pixels_;
  std::optional<StoredLattices> store_;
  int width_;
  int64_t extra_, images_ = 1;
};

// ---- kernels: a thread per point, which is `point` of `image`

struct PlanePoint {
  int64_t image;  // of the chunk
  uint32_t pixel;
  int64_t at;  // of all points of the chunk
  bool exists;

  // blockIdx.x counts the blocks of an image, then images.
  __device__ __forceinline__ PlanePoint(const Bands& bands, unsigned blocks_per_image) {
    const unsigned part = blockIdx.x % blocks_per_image;
    image = blockIdx.x / blocks_per_image;
    const int64_t points = int64_t{bands.height} * bands.width,
                  own = int64_t{part} * kThreads + threadIdx.x;
    exists = own < points;
    at = image * points + own;
    pixel = exists ? bands.pixel(static_cast<uint32_t>(own)) : 0;
  }
};

// What slicing needs of a lattice.
struct Slicer {
  const Corner* corner;
  int64_t corner_step;
  const int32_t* begin;  // the vertex of the first row
  const float* values;   // [rows, width]
  int corners, width;
  float gain;

  explicit Slicer(const PlaneChunk& chunk, int width)
      : corner(chunk.lattice.corner),
        corner_step(chunk.lattice.corner_step),
        begin(chunk.lattice.begin),
        values(chunk.terms.at[0].blurred()),
        corners(chunk.lattice.size.corners),
        width(width),
        gain(lattice_gain(corners - 1)) {}
};

constexpr int kSlicePacks = 3;  // that a thread reads at a time, as many as registers allow

// The filtered values of packs first / V, first / V + 1, ... of a point.
template <int V>
struct SlicedPacks {
  Pack<V> at[kSlicePacks];

  __device__ __forceinline__ SlicedPacks(const Slicer& s, int64_t point, int first) : at{} {
    const float* values = s.values - *s.begin * int64_t{s.width} + first;
#pragma unroll 3
    for (int r = 0; r < s.corners; ++r) {
      const Corner c = s.corner[corner_index(s.corner_step, point, r)];
      const float* row = values + static_cast<int64_t>(c.row) * s.width;
#pragma unroll
      for (int i = 0; i < kSlicePacks; ++i) {
        if (first + i * V < s.width) add_scaled(at[i], c.weight, load<V>(row + i * V));
      }
    }
#pragma unroll
    for (int i = 0; i < kSlicePacks; ++i) {
#pragma unroll
      for (int k = 0; k < V; ++k) at[i].at[k] *= s.gain;
    }
  }
};

// The grid of kernels that slice: blockIdx.y counts groups of kSlicePacks packs.
inline dim3 slice_grid(unsigned blocks, int packs) {
  return dim3(
      blocks, static_cast<unsigned>(std::min((packs + kSlicePacks - 1) / kSlicePacks, 65535)));
}

}  // namespace wsss::cuda
