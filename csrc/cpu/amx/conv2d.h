// A convolution of float32 maps as a sum of bfloat16 products, of which the AMX unit computes
// several in the time of one float32 product. A map's value is the sum of two bfloat16 parts (16
// bits of mantissa), a filter's of two or three (24 bits).
//
// Maps are stored as in `SplitMap`, filters packed as [K / 32, C / 32, taps, part, 2, 16, 16, 2],
// in the order in which they are read, with zeros beyond the last filter and channel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "../buffer.h"
#include "../simd.h"
#include "split_map.h"
#include "tiles.h"

namespace wsss {

// Tiles of 16 neighbouring pixels of the result. Short lines would leave tiles mostly empty: with
// stride 1, tiles continue from line to line across the zeros between them, if that needs fewer
// tiles; sums between the lines are dropped.
class OutputTiles {
 public:
  OutputTiles(const ConvShape& s, const SplitMap& map)
      : height_(s.out_height()), width_(s.out_width()) {
    pitch_ = (width_ + kTileRows - 1) / kTileRows * kTileRows;
    if (map.stride() == 1 && count(map.pitch()) <= count(pitch_)) pitch_ = map.pitch();
    tiles_per_image_ = count(pitch_);
    tiles_ = s.batch * tiles_per_image_;
  }

  int64_t count() const { return tiles_; }

  OutputPixel first(int64_t tile) const {
    const int64_t at = tile % tiles_per_image_ * kTileRows;
    return {tile / tiles_per_image_, at / pitch_, at % pitch_};
  }

  // Calls use(row, pixel) for each row of the tile that is part of the result;
  // `pixel` counts over all images.
  template <class Use>
  void rows(int64_t tile, Use use) const {
    auto [image, y, x] = first(tile);
    for (int64_t row = 0; row < kTileRows && y < height_; ++row) {
      if (x < width_) use(row, (image * height_ + y) * width_ + x);
      if (++x == pitch_) x = 0, ++y;
    }
  }

 private:
  int64_t count(int64_t pitch) const {
    return ((height_ - 1) * pitch + width_ + kTileRows - 1) / kTileRows;
  }

  int64_t height_, width_, pitch_, tiles_per_image_, tiles_;
};

template <int Parts>
class AmxConv {
 public:
  explicit AmxConv(const ConvShape& shape) : s_(shape), map_(shape), tiles_(shape, map_) {
    for (int64_t plane = 0; plane < std::min(kPlanes, s_.planes()); ++plane) {
      for (int64_t tap = 0; tap < s_.taps(); ++tap) {
        offsets_.push_back(plane * map_.plane() + map_.shift(tap));
      }
    }
  }

  SplitMap& map() { return map_; }

  // The number of pieces of the result, the units of parallel work. Consecutive pieces use the
  // same filters for other tiles.
  int64_t pieces() const { return groups() * ((s_.blocks() + wide() - 1) / wide()); }

  // Computes pieces [first, last).
  void run(const ConvArrays& a, int64_t first, int64_t last) const {
#if defined(WSSS_AMX)
    std::optional<TileConfiguration> configured;
    if (has_amx()) configured.emplace();
#endif
    Buffer<float> sums;
    sums.reserve_large(kGroup / 4 * wide() * kFour);
    for (int64_t piece = first; piece < last; ++piece) {
      const int64_t tile = piece % groups() * kGroup, block = piece / groups() * wide();
      multiply(a, {tile, std::min(tile + kGroup, tiles_.count())},
               {block, std::min(block + wide(), s_.blocks())}, sums.get());
    }
  }

 private:
  // A piece's sums (512 KiB or 1 MiB), the filters of kPlanes planes (576 KiB with nine
  // taps and two parts, 128 KiB with one tap) and the pixels of those planes (512 KiB) fit
  // an L2 cache of 2 MiB. A piece has many tiles, because it reads its filters from the L3
  // cache, at a fifth of the speed.
  static constexpr int64_t kGroup = 64;                    // tiles of 16 neighbouring pixels
  static constexpr int64_t kPlanes = 4;                    // of 32 channels
  int64_t wide() const { return s_.kernel == 1 ? 8 : 4; }  // blocks of 32 filters
  static constexpr int64_t kFour = 8 * kTileSums;          // sums of four tiles with one block

  struct Range {
    int64_t first, last;
  };

  // Some planes of channels, all taps.
  struct Chunk {
    int64_t plane, steps;
    bool last;
    int64_t prefetch_lines;  // cache lines of the next chunk's filters that a step prefetches
  };

  int64_t groups() const { return (tiles_.count() + kGroup - 1) / kGroup; }

  // The sums of two tiles with 32 filters stay in the tile registers during a chunk, while the
  // filters are read sequentially and the pixels come from the L1 cache, again for each block.
  void multiply(const ConvArrays& a, Range tiles, Range blocks, float* sums) const {
    const int64_t fours = (tiles.last - tiles.first + 3) / 4;
    for (int64_t plane = 0; plane < s_.planes(); plane += kPlanes) {
      const bool last = plane + kPlanes >= s_.planes();
      const int64_t lines = Parts * 2 * kTileElements / kCacheLineElements, calls = 2 * fours;
      const Chunk chunk{plane, std::min(kPlanes, s_.planes() - plane) * s_.taps(), last,
                        last ? 0 : (lines + calls - 1) / calls};
      for (int64_t four = 0; four < fours; ++four) {
        const int64_t tile = tiles.first + 4 * four,
                      count = std::min<int64_t>(4, tiles.last - tile);
        const uint16_t* left[4];  // the last tile repeated if there are fewer than four
        for (int64_t i = 0; i < 4; ++i) {
          left[i] = map_.at(tiles_.first(tile + std::min(i, count - 1))) + plane * map_.plane();
        }
        for (int64_t block = blocks.first; block < blocks.last; ++block) {
          multiply_block(a, chunk, four, left, tile, count, block,
                         sums + (four * wide() + block - blocks.first) * kFour);
        }
      }
    }
  }

  // Multiplies up to four tiles with up to 32 filters.
  void multiply_block(const ConvArrays& a, const Chunk& chunk, int64_t four,
                      const uint16_t* const* left, int64_t tile, int64_t count, int64_t block,
                      float* sums) const {
    constexpr int64_t kRight = Parts * 2 * kTileElements;
    const uint16_t* right = a.filters + (block * s_.planes() + chunk.plane) * s_.taps() * kRight;
    const int64_t share = chunk.prefetch_lines * chunk.steps * kCacheLineElements;
    const uint16_t* prefetch = right + chunk.steps * kRight + 2 * four * share;
    const bool first = chunk.plane == 0;
    TileOperands at{
        {left[0], left[1], left[2], left[3]},
        map_.stride() * kMapPixel,
        offsets_.data(),
        chunk.steps,
        right,
        prefetch,
        chunk.prefetch_lines};
    if (s_.filters - block * kBlock <= kTileRows) {  // one tile of filters
      tile_products<Parts, 4>(at, first, sums);
      for (int64_t i = 0; i < count && chunk.last; ++i) {
        finish(a, tile + i, block, sums + i * kTileSums);
      }
      return;
    }
    for (int64_t i = 0; i < count; i += 2) {
      float* own = sums + i * 2 * kTileSums;
      tile_products<Parts, 2>(at, first, own);
      for (int64_t j = i; j < std::min(i + 2, count) && chunk.last; ++j) {
        finish(a, tile + j, block, own + (j - i) * 2 * kTileSums);
      }
      std::copy(left + 2, left + 4, at.left);
      at.prefetch += share;
    }
  }

  // Writes the results of 16 pixels and up to 32 filters.
  void finish(const ConvArrays& a, int64_t tile, int64_t block, const float* sums) const {
    for (int64_t half = 0; half < 2; ++half, sums += kTileSums) {
      const int64_t k = block * kBlock + half * kLanes, filters = s_.filters - k;
      if (filters <= 0) return;
      const Lanes bias = a.bias ? load_some(a.bias + k, filters) : Lanes{};
      tiles_.rows(tile, [&](int64_t row, int64_t pixel) {
        const int64_t at = pixel * s_.filters + k;
        Lanes values = load<kLanes>(sums + row * kTileRows) + bias;
        if (a.residual) values += load_some(a.residual + at, filters);
        store_some(a.out + at, filters, a.relu ? relu(values) : values);
      });
    }
  }

  const ConvShape s_;
  SplitMap map_;
  const OutputTiles tiles_;
  std::vector<int64_t> offsets_;
};

}  // namespace wsss
