// Permutohedral lattices of a batch of images, whose points are pixels: the bilateral kernel, and
// without image channels the spatial one. Host code; the kernels are compiled once, in
// pixel_lattice.cu.
#pragma once

#include "lattice.cuh"
#include "pixel_grid.h"

namespace wsss::cuda {

// The points of an image's lattices are its pixels in bands of four lines, column by column: a
// block's points then share vertices, so that most of the rows that it reads are in its cache, and
// points next to each other, which vertices share, have rows next to each other.
struct Bands {
  static constexpr uint32_t kLines = 4;
  uint32_t height, width;

  WSSS_HD uint32_t lines(uint32_t band) const {
    const uint32_t left = height - band * kLines;
    return left < kLines ? left : kLines;
  }
  // Where point p is in an image, line by line.
  WSSS_HD uint32_t pixel(uint32_t p) const {
    const uint32_t band = p / (kLines * width), within = p - band * kLines * width,
                   in_band = lines(band);
    const uint32_t x = in_band == kLines ? within / kLines : within / in_band;
    return (band * kLines + within - x * in_band) * width + x;
  }
  // The point of the pixel in line y and column x.
  WSSS_HD uint32_t point(uint32_t y, uint32_t x) const {
    const uint32_t band = y / kLines;
    return band * kLines * width + x * lines(band) + y - band * kLines;
  }
};

inline Bands bands_of(const PixelGrid& grid) {
  return {static_cast<uint32_t>(grid.height), static_cast<uint32_t>(grid.width)};
}

// What is known of the lattices of a batch before they are built.
class PixelLattice {
 public:
  PixelLattice() = default;
  // `sigmas` names the deviations in messages. Throws BeyondLimits.
  PixelLattice(const char* op, const char* sigmas, const PixelGrid& grid);

  const PixelGrid& grid() const { return grid_; }
  int64_t max_images() const { return max_images_; }  // that may share a lattice, at least 1

  Lattice allocate(Arena& arena, int64_t images) const {
    return allocate_lattice(
        arena, {images, grid_.pixels(), grid_.dimensions() + 1, kTile}, max_vertices_);
  }
  BuildSpace allocate_build_space(Arena& arena, const Lattice& l) const {
    return cuda::allocate_build_space(arena, l, wide_names_);
  }
  // Builds the lattice of images [first, first + l.size.images).
  void build(Stream stream, const Lattice& l, const BuildSpace& s, int64_t first) const;

 private:
  PixelGrid grid_{};
  int64_t max_images_ = 1, max_vertices_ = 0;  // of one image
  bool wide_names_ = false;
};

// Approximate workspace of one chunk: a batch is cut into chunks that need no more, or single
// images.
constexpr int64_t kWorkspaceBytes = int64_t{640} << 20;

// Cuts n things into equal parts of at most `most`: the size of all parts but the last.
inline int64_t part_size(int64_t n, int64_t most) {
  const int64_t parts = std::max<int64_t>(1, (n + most - 1) / most);
  return std::max<int64_t>(1, (n + parts - 1) / parts);
}

// The lattices of all images of a batch in memory that outlives a call. How it is divided depends
// on the grid and the deviations alone.
class StoredLattices {
 public:
  explicit StoredLattices(const PixelLattice& pixels, void* memory = nullptr)
      : pixels_(pixels),
        memory_(static_cast<char*>(memory)),
        images_(part_size(pixels.grid().batch, pixels.max_images())) {
    step_ = bytes_of(std::min(images_, batch()));
    const int64_t last = batch() % images_;
    bytes_ = batch() / images_ * step_ + (last ? bytes_of(last) : 0);
  }

  int64_t bytes() const { return bytes_; }
  int64_t images() const { return images_; }  // that share a lattice; the last one may have fewer

  // That of images [first, first + images), which share one.
  Lattice part(int64_t first, int64_t images) const {
    const int64_t number = first / images_;
    return part_of(whole(number), first - number * images_, images);
  }

  // The memory beyond the vertices that exist is zeroed.
  template <class WithArena>
  void build(Stream stream, const WithArena& with_arena) const {
    fill_bytes(stream, memory_, 0, static_cast<size_t>(bytes_));
    Arena measure;
    pixels_.allocate_build_space(measure, whole(0));
    with_arena(measure.peak(), [&](Arena& arena) {
      for (int64_t first = 0; first < batch(); first += images_) {
        const int64_t mark = arena.mark();
        const Lattice l = whole(first / images_);
        pixels_.build(stream, l, pixels_.allocate_build_space(arena, l), first);
        arena.release(mark);
      }
    });
  }

 private:
  int64_t batch() const { return pixels_.grid().batch; }
  int64_t bytes_of(int64_t images) const {
    Arena measure;
    pixels_.allocate(measure, images);
    return measure.peak();
  }
  Lattice whole(int64_t number) const {
    const int64_t images = std::min(images_, batch() - number * images_);
    Arena arena(memory_ + number * step_, bytes_of(images));
    return pixels_.allocate(arena, images);
  }

  PixelLattice pixels_;
  char* memory_;
  int64_t images_, step_ = 0, bytes_ = 0;
};

// Calls work(first, images) for parts of a batch of at most `images`, none of which spans two
// groups of `group` images.
template <class Work>
void each_part(int64_t batch, int64_t group, int64_t images, const Work& work) {
  for (int64_t from = 0; from < batch; from += group) {
    const int64_t to = std::min(from + group, batch);
    for (int64_t first = from; first < to; first += images) {
      work(first, std::min(images, to - first));
    }
  }
}

}  // namespace wsss::cuda
