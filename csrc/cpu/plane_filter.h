// Bilateral filter of channels-first values on the lattice of an image: splat, blur, slice.
//
// The channels are cut into blocks of up to 16, one after the other, so that the values of a block
// stay in the cache and need memory for 2 * rows * 16 floats. What is filtered need not exist in
// memory: the caller fills the values of some pixels at a time, and consumes the results likewise.
#pragma once

#include "rows.h"
#include "stored_lattice.h"

namespace wsss {

// A block of channels at the pixels of a few consecutive tiles.
struct PlaneBlock {
  static constexpr int kChannels = 16;
  static constexpr int kTiles = 8;

  int rank;      // of the thread
  int64_t tile;  // the first tile
  int tiles;     // 1..kTiles
  int channel;   // the first channel
  int channels;  // 1..kChannels
  Lanes* lanes;  // [kTiles, kChannels]

  Lanes& at(int i, int k) const { return lanes[i * kChannels + k]; }
};

// Filters images of one size; every thread of the team calls run().
class PlaneFilter {
 public:
  // `tiles` must outlive this.
  explicit PlaneFilter(const PixelTiles& tiles) : tiles_(tiles), scratch_(tiles.threads()) {
    for (auto& lanes : scratch_) lanes.reserve(PlaneBlock::kTiles * PlaneBlock::kChannels);
  }

  // Filters `channels` channels, which are zero-based; `transpose` blurs in the reverse order.
  //   load(const PlaneBlock&) sets at(i, k), the 16 values of channel `channel` + k at the pixels
  //     of tile `tile` + i (tiles.first_pixel(tile + i) and those after it), for i < tiles and
  //     k < channels. Lanes behind the image's last pixel must be finite, such as load_some's.
  //   take(const PlaneBlock&) reads the filtered values from the same places.
  // For each block of channels all calls of `load` precede all of `take`, for each tile on the same
  // thread. Starts and ends with a barrier.
  template <class Load, class Take>
  void run(Team& team, int rank, const Lattice& lattice, int channels, bool transpose,
           const Load& load, const Take& take) {
    for (int first = 0; first < channels;) {
      const int left = channels - first;
      const int width = left > 8 ? 16 : left > 4 ? 8 : left > 2 ? 4 : left;
      const int count = std::min(width, left);
      switch (width) {
        case 1: run_block<1>(team, rank, lattice, first, count, transpose, load, take); break;
        case 2: run_block<2>(team, rank, lattice, first, count, transpose, load, take); break;
        case 4: run_block<4>(team, rank, lattice, first, count, transpose, load, take); break;
        case 8: run_block<8>(team, rank, lattice, first, count, transpose, load, take); break;
        default: run_block<16>(team, rank, lattice, first, count, transpose, load, take);
      }
      first += count;
    }
    team.barrier();
  }

 private:
  template <int W, class Load, class Take>
  void run_block(Team& team, int rank, const Lattice& lattice, int channel, int channels,
                 bool transpose, const Load& load, const Take& take) {
    team.barrier();  // no thread uses the values of the block before
    if (rank == 0) {
      for (Rows& values : values_) values.reserve(lattice.rows * W);
    }
    team.barrier();
    for_each_block(
        rank, channel, channels,
        [&](const PlaneBlock& block) {
          for (int i = 0; i < block.tiles; ++i) {
            for (int k = channels; k < W; ++k) block.at(i, k) = Lanes{};
          }
          load(block);
          for (int i = 0; i < block.tiles; ++i) {
            RowOps<W>::splat(lattice, values_[0].get(), block.tile + i, &block.at(i, 0));
          }
        },
        [&](int band) { clear<W>(lattice, band); });
    blur(
        team, rank, tiles_.bands(),
        [&](const auto& work) {
          work(lattice, std::integral_constant<int, W>(), values_[0], values_[1]);
        },
        transpose);
    const float* blurred = values_[lattice.corners % 2].get();
    const float gain = lattice_gain(lattice.corners - 1);
    for_each_block(
        rank, channel, channels,
        [&](const PlaneBlock& block) {
          for (int i = 0; i < block.tiles; ++i) {
            Lanes* lanes = &block.at(i, 0);
            std::fill(lanes, lanes + W, Lanes{});
            RowOps<W>::slice(lattice, blurred, block.tile + i, lanes);
            for (int k = 0; k < channels; ++k) lanes[k] *= gain;
          }
          take(block);
        },
        [](int) {});
  }

  // Calls work(block) for the tiles of this thread, and start(band) before the tiles of a band.
  template <class Work, class Start>
  void for_each_block(int rank, int channel, int channels, const Work& work,
                      const Start& start) const {
    PlaneBlock block{rank, 0, 0, channel, channels, scratch_[rank].get()};
    tiles_.for_each_band(rank, [&](int band, int64_t first, int64_t last) {
      start(band);
      for (block.tile = first; block.tile < last; block.tile += block.tiles) {
        block.tiles = static_cast<int>(std::min<int64_t>(PlaneBlock::kTiles, last - block.tile));
        work(block);
      }
    });
  }

  // Zeroes the rows that a band alone splats into.
  template <int W>
  void clear(const Lattice& lattice, int band) const {
    float* values = values_[0].get();
    for (const auto* rows : {&lattice.vertex_rows, &lattice.ghost_rows}) {
      std::fill(values + (*rows)[band] * W, values + (*rows)[band + 1] * W, 0.0f);
    }
  }

  const PixelTiles& tiles_;
  Rows values_[2];                      // [rows, width of the block]
  std::vector<Buffer<Lanes>> scratch_;  // by thread
};

// For PlaneFilter: reads `planes` [channels, pixels].
struct LoadPlanes {
  const PixelTiles& tiles;
  const float* planes;

  void operator()(const PlaneBlock& block) const {
    // Plane by plane: planes are often a multiple of the page size apart, and reading one tile of
    // all of them at a time would use a few lines of the cache only.
    for (int k = 0; k < block.channels; ++k) {
      const float* plane = planes + (block.channel + k) * tiles.pixels();
      for (int i = 0; i < block.tiles; ++i) {
        const int64_t p = tiles.first_pixel(block.tile + i);
        block.at(i, k) = load_some(plane + p, tiles.count(p));
      }
    }
  }
};

// For PlaneFilter: writes `planes` [channels, pixels].
class StorePlanes {
 public:
  // `bytes`: of all planes of a call. Many are written past the caches, which they would only fill
  // with lines that are read in vain before they are overwritten: 21 planes of 512x512 take two
  // thirds of the time then.
  StorePlanes(const PixelTiles& tiles, float* planes, int64_t bytes)
      : tiles_(tiles),
        planes_(planes),
        past_caches_(bytes >= kManyBytes && tiles.pixels() % kLanes == 0 && is_aligned(planes)) {}

  void operator()(const PlaneBlock& block) const {
    for (int k = 0; k < block.channels; ++k) {
      float* plane = planes_ + (block.channel + k) * tiles_.pixels();
      for (int i = 0; i < block.tiles; ++i) {
        const int64_t p = tiles_.first_pixel(block.tile + i);
        if (past_caches_) {
          store_past_caches(plane + p, block.at(i, k));
        } else {
          store_some(plane + p, block.at(i, k), tiles_.count(p));
        }
      }
    }
    if (past_caches_) fence_stores();
  }

 private:
  static constexpr int64_t kManyBytes = 4 << 20;  // more than the L2 cache

  static bool is_aligned(const float* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

  const PixelTiles& tiles_;
  float* planes_;
  const bool past_caches_;
};

}  // namespace wsss
