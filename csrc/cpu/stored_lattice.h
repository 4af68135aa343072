// The lattices of a batch of images in one int32 array, which `bilateral_lattice` returns.
//
// A head of int64 numbers: kMark, batch, height, width, channels, the parameters (doubles) and for
// each image its vertices and rows. Then for each image, every array padded to a cache line: row,
// weight, next, previous, mass, ghosts, vertex_rows, ghost_rows, as in Lattice.
#pragma once

#include <string>

#include "image_lattice.h"

namespace wsss {

class StoredLattices {
 public:
  // Reads the head of the array, which must outlive this; throws if it is none for such images.
  // What follows the head is trusted.
  StoredLattices(const LatticeArray& array, int64_t batch, int64_t height, int64_t width,
                 const BilateralParameters& parameters)
      : data_(array.data), corners_(parameters.dimensions() + 1), pixels_(height * width) {
    const std::vector<int64_t> expected = head(batch, height, width, parameters);
    const int64_t fixed = static_cast<int64_t>(expected.size());
    std::vector<int64_t> found(fixed + 2 * batch);
    const int64_t numbers = static_cast<int64_t>(found.size());
    require(array.size >= 2 * numbers);
    std::memcpy(found.data(), data_, numbers * sizeof(int64_t));
    require(std::equal(expected.begin(), expected.end(), found.begin()));
    int64_t at = padded(2 * numbers);
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t vertices = found[fixed + 2 * b], rows = found[fixed + 2 * b + 1];
      require(vertices >= 0 && vertices <= rows && rows <= INT32_MAX);
      images_.push_back({at, vertices, rows});
      at += image_size(vertices, rows, corners_, pixels_);
    }
    require(at == array.size);
  }

  // The lattice of image `b`; its large arrays are views of this memory. Without mass.
  Lattice view(int64_t b) const {
    Lattice lattice;
    const auto [start, vertices, rows] = images_[b];
    int64_t at = start;
    const auto take = [&](int64_t count) {
      const int32_t* found = data_ + at;
      at += padded(count);
      return found;
    };
    const int64_t entries = tile_count(pixels_) * kLanes * corners_;
    lattice.corners = corners_;
    lattice.pixels = pixels_;
    lattice.vertices = vertices;
    lattice.rows = rows;
    lattice.row = Buffer<int32_t>::view(take(entries));
    lattice.weight = Buffer<float>::view(reinterpret_cast<const float*>(take(entries)));
    lattice.next = Buffer<int32_t>::view(take(corners_ * vertices));
    lattice.previous = Buffer<int32_t>::view(take(corners_ * vertices));
    take(rows);
    copy(take(2 * (rows - vertices)), rows - vertices, lattice.ghosts);
    const int64_t bounds = band_count(pixels_) + 1;
    copy(take(2 * bounds), bounds, lattice.vertex_rows);
    copy(take(2 * bounds), bounds, lattice.ghost_rows);
    return lattice;
  }

  // The mass of image `b` [rows].
  const float* mass(int64_t b) const {
    const auto [start, vertices, rows] = images_[b];
    const int64_t entries = tile_count(pixels_) * kLanes * corners_;
    return reinterpret_cast<const float*>(
        data_ + start + 2 * padded(entries) + 2 * padded(corners_ * vertices));
  }

  // The length of the array for the lattices of a batch.
  static int64_t size(const std::vector<Lattice>& lattices, int64_t height, int64_t width,
                      const BilateralParameters& parameters) {
    const int64_t batch = static_cast<int64_t>(lattices.size());
    int64_t count = head_size(batch, height, width, parameters);
    for (const Lattice& l : lattices) count += image_size(l.vertices, l.rows, l.corners, l.pixels);
    return count;
  }

  // Writes the head, which tells where the images begin.
  static void write_head(const std::vector<Lattice>& lattices, int64_t height, int64_t width,
                         const BilateralParameters& parameters, int32_t* to) {
    std::vector<int64_t> numbers =
        head(static_cast<int64_t>(lattices.size()), height, width, parameters);
    for (const Lattice& l : lattices) numbers.insert(numbers.end(), {l.vertices, l.rows});
    const int64_t count = 2 * static_cast<int64_t>(numbers.size());
    std::memcpy(to, numbers.data(), 4 * count);
    std::fill(to + count, to + padded(count), 0);
  }

  // Writes a lattice where an array with its head expects it. Every thread of the team calls.
  void write(const Team& team, int rank, int64_t b, const Lattice& lattice, int32_t* to) const {
    int64_t at = images_[b].start;
    const auto write = [&](const void* from, int64_t count) {
      const auto [first, last] = Team::part(count, rank, team.size());
      const int32_t* part = static_cast<const int32_t*>(from) + first;
      if (last > first) std::memcpy(to + at + first, part, 4 * (last - first));
      if (rank == 0) std::fill(to + at + count, to + at + padded(count), 0);
      at += padded(count);
    };
    const int64_t entries = tile_count(pixels_) * kLanes * corners_;
    const int64_t bounds = static_cast<int64_t>(lattice.vertex_rows.size());
    write(lattice.row.get(), entries);
    write(lattice.weight.get(), entries);
    write(lattice.next.get(), corners_ * lattice.vertices);
    write(lattice.previous.get(), corners_ * lattice.vertices);
    write(lattice.mass.get(), lattice.rows);
    write(lattice.ghosts.data(), 2 * (lattice.rows - lattice.vertices));
    write(lattice.vertex_rows.data(), 2 * bounds);
    write(lattice.ghost_rows.data(), 2 * bounds);
  }

 private:
  struct Image {
    int64_t start, vertices, rows;
  };

  static void require(bool good) {
    if (!good) {
      throw std::invalid_argument(
          "bilateral_lattice: the lattice is not one of these images, deviations and levels");
    }
  }

  static int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

  template <class T>
  static void copy(const void* from, int64_t count, std::vector<T>& to) {
    to.resize(count);
    if (count > 0) std::memcpy(to.data(), from, count * sizeof(T));
  }

  static int64_t bits(double value) {
    int64_t b;
    std::memcpy(&b, &value, sizeof b);
    return b;
  }

  static std::vector<int64_t> head(int64_t batch, int64_t height, int64_t width,
                                   const BilateralParameters& p) {
    constexpr int64_t kMark = 0x3163'7474'616c'7062;  // of this layout
    std::vector<int64_t> numbers = {
        kMark,          batch,           height,     width,     p.channels(),
        bits(p.lowest), bits(p.highest), bits(p.sx), bits(p.sy)};
    for (const float level : p.levels) numbers.push_back(bits(level));
    return numbers;
  }

  static int64_t head_size(int64_t batch, int64_t height, int64_t width,
                           const BilateralParameters& p) {
    return padded(2 * (static_cast<int64_t>(head(batch, height, width, p).size()) + 2 * batch));
  }

  static int64_t image_size(int64_t vertices, int64_t rows, int corners, int64_t pixels) {
    return 2 * padded(tile_count(pixels) * kLanes * corners) + 2 * padded(corners * vertices) +
           padded(rows) + padded(2 * (rows - vertices)) + 2 * padded(2 * (band_count(pixels) + 1));
  }

  const int32_t* data_;
  const int corners_;
  const int64_t pixels_;
  std::vector<Image> images_;
};

// The lattices of images: views of stored ones, or built one after the other.
class ImageLattices {
 public:
  // `stored` may be null.
  ImageLattices(const char* op, const BilateralParameters& parameters, const PixelTiles& tiles,
                const StoredLattices* stored)
      : op_(op), parameters_(parameters), tiles_(tiles), stored_(stored), good_(tiles.threads()) {}

  // The lattice of image number `b` [C, H, W], until the next call, which no thread may use any
  // more then. Every thread of the team calls. Throws for values out of the levels.
  const Lattice& get(Team& team, int rank, const float* image, int64_t b) {
    if (stored_ != nullptr) {
      if (rank == 0) lattice_ = stored_->view(b);
      team.barrier();
      return lattice_;
    }
    good_[rank] = build_image_lattice(team, rank, state_, lattice_, parameters_, tiles_, image);
    team.barrier();
    if (std::find(good_.begin(), good_.end(), false) != good_.end()) {
      throw std::invalid_argument(
          std::string(op_) + ": image has NaN or values outside its levels");
    }
    return lattice_;
  }

  // Moves the lattice out.
  Lattice release() { return std::exchange(lattice_, {}); }

 private:
  const char* op_;
  const BilateralParameters& parameters_;
  const PixelTiles& tiles_;
  const StoredLattices* stored_;
  Lattice lattice_;
  BuildState state_;
  std::vector<char> good_;  // by thread
};

}  // namespace wsss
