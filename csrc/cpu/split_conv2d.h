// A convolution of float32 maps whose products are made of bfloat16 parts, by the matrix unit, which does several of them in
// the time of one float32 product. A map's number is taken as the sum of two parts (16 bits), a filter's of two or three (24).
//
// Maps lie as [h, w, channel]. An image is first written as parts, framed by its zero padding, so that each tap of the
// kernel is a shift of addresses and no patches are made: [Hp, Wp, C / 32, part, 32]. The filters come packed as
// [K / 32, taps, C / 32, part, 2, 16, 16, 2], in the order in which they are read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>

#include "amx.h"
#include "buffer.h"

namespace wsss {

constexpr int64_t kMapParts = 2;

struct ConvShape {
  int64_t height, width, channels, filters, kernel, stride, dilation;

  int64_t padding() const { return dilation * (kernel / 2); }
  int64_t out_height() const { return (height - 1) / stride + 1; }  // of an odd kernel with that padding
  int64_t out_width() const { return (width - 1) / stride + 1; }
  int64_t framed_height() const { return height + 2 * padding(); }
  int64_t framed_width() const { return width + 2 * padding(); }
  int64_t depth() const { return channels / kTileDepth; }
  int64_t blocks() const { return filters / (2 * kTileRows); }
};

// What happens to a map before and to the result behind the products; null: nothing.
struct ConvArrays {
  const float* maps;         // [H, W, C]
  const float *scale, *shift;  // [C]: relu(maps * scale + shift) is convolved
  const uint16_t* filters;
  const float* bias;      // [K]
  const float* residual;  // [H', W', K]
  bool relu;
  float* out;  // [H', W', K]
};

// Nearest bfloat16 of a finite number, ties to even.
inline uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <int Parts>
class SplitConv {
 public:
  explicit SplitConv(const ConvShape& shape) : s_(shape) {
    // A tile's rows may run over the end of the last line; those sums are dropped.
    parts_.reserve((s_.framed_height() * s_.framed_width() + kTileRows * s_.stride) * pixel());
  }

  // Lines [first, last) of the framed image.
  void split(const ConvArrays& a, int64_t first, int64_t last) {
    const int64_t frame = s_.padding();
    for (int64_t y = first; y < last; ++y) {
      uint16_t* line = parts_.get() + y * s_.framed_width() * pixel();
      if (y < frame || y >= frame + s_.height) {
        std::memset(line, 0, s_.framed_width() * pixel() * sizeof(uint16_t));
        continue;
      }
      std::memset(line, 0, frame * pixel() * sizeof(uint16_t));
      std::memset(line + (frame + s_.width) * pixel(), 0, frame * pixel() * sizeof(uint16_t));
      const float* from = a.maps + (y - frame) * s_.width * s_.channels;
      for (int64_t x = 0; x < s_.width; ++x) split_pixel(a, from + x * s_.channels, line + (frame + x) * pixel());
    }
  }

  // Groups of tiles of 16 neighbouring pixels, which share what is read of the filters.
  int64_t groups() const { return (tiles() + kGroup - 1) / kGroup; }

  // Groups [first, last).
  void run_groups(const ConvArrays& a, int64_t first, int64_t last) const {
#if defined(WSSS_AMX)
    std::optional<TileConfiguration> configured;
    if (has_tiles()) configured.emplace();
#endif
    Buffer<float> sums;
    sums.reserve(kGroup / 2 * kWide * 4 * kTileSums);
    for (int64_t tile = first * kGroup; tile < std::min(last * kGroup, tiles()); tile += kGroup) {
      const int64_t count = std::min(kGroup, tiles() - tile);
      for (int64_t block = 0; block < s_.blocks(); block += kWide) {
        const int64_t wide = std::min(kWide, s_.blocks() - block);
        products(a.filters, tile, count, block, wide, sums.get());
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t j = 0; j < wide; ++j) {
            finish(a, tile + i, (block + j) * 2 * kTileRows, sums.get() + place(i / 2, j) + i % 2 * 2 * kTileSums);
          }
        }
      }
    }
  }

 private:
  // Tiles of a group, and blocks of 32 filters that they meet while they are in the second cache: 512 channels of 256 pixels
  // take 512 KiB, the sums 256 KiB, a chunk of filters 64 or 96 KiB.
  static constexpr int64_t kGroup = 16, kWide = 8;
  static constexpr int64_t kChunk = 16;  // steps of 32 channels

  static int64_t place(int64_t pair, int64_t block) { return (pair * kWide + block) * 4 * kTileSums; }

  int64_t pixel() const { return s_.channels * kMapParts; }  // elements
  int64_t tiles_across() const { return (s_.out_width() + kTileRows - 1) / kTileRows; }
  int64_t tiles() const { return s_.out_height() * tiles_across(); }

  void split_pixel(const ConvArrays& a, const float* from, uint16_t* to) const {
    for (int64_t block = 0; block < s_.channels; block += kTileDepth, to += kMapParts * kTileDepth) {
      for (int64_t i = 0; i < kTileDepth; ++i) {
        float value = from[block + i];
        if (a.scale) {
          value = value * a.scale[block + i] + a.shift[block + i];
          value = value > 0 ? value : 0;
        }
        for (int p = 0; p < kMapParts; ++p) {
          const uint16_t part = to_bf16(value);
          to[p * kTileDepth + i] = part;
          value -= bf16_value(part);
        }
      }
    }
  }

  const uint16_t* corner(int64_t tile) const {
    const int64_t y = tile / tiles_across() * s_.stride, x = tile % tiles_across() * kTileRows * s_.stride;
    return parts_.get() + (y * s_.framed_width() + x) * pixel();
  }

  void products(const uint16_t* filters, int64_t first, int64_t count, int64_t block, int64_t wide, float* sums) const {
    constexpr int64_t kLeft = kMapParts * kTileDepth, kRight = Parts * 2 * kTileElements;
    const int64_t taps = s_.kernel * s_.kernel;
    for (int64_t step = 0; step < s_.depth(); step += kChunk) {
      const int64_t steps = std::min(kChunk, s_.depth() - step);
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t shift = (tap / s_.kernel * s_.framed_width() + tap % s_.kernel) * s_.dilation * pixel() + step * kLeft;
        for (int64_t j = 0; j < wide; ++j) {
          const uint16_t* right = filters + (((block + j) * taps + tap) * s_.depth() + step) * kRight;
          for (int64_t i = 0; i < count; i += 2) {
            // A single last tile is computed twice.
            const int64_t other = std::min(i + 1, count - 1);
            const TileStep at{{corner(first + i) + shift, corner(first + other) + shift}, s_.stride * pixel(), right};
            tile_products<Parts>(at, steps, kLeft, kRight, step == 0 && tap == 0, sums + place(i / 2, j));
          }
        }
      }
    }
  }

  // 16 pixels, 32 filters from `k` on.
  void finish(const ConvArrays& a, int64_t tile, int64_t k, const float* sums) const {
    const int64_t y = tile / tiles_across(), x = tile % tiles_across() * kTileRows;
    const int64_t rows = std::min(kTileRows, s_.out_width() - x);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t place = (y * s_.out_width() + x + row) * s_.filters + k;
      for (int64_t half = 0; half < 2; ++half) {
        const float* sum = sums + half * kTileSums + row * kTileRows;
        const int64_t at = place + half * kTileRows;
        float values[kTileRows];
        std::memcpy(values, sum, sizeof(values));
        if (a.bias) {
          for (int64_t i = 0; i < kTileRows; ++i) values[i] += a.bias[k + half * kTileRows + i];
        }
        if (a.residual) {
          for (int64_t i = 0; i < kTileRows; ++i) values[i] += a.residual[at + i];
        }
        if (a.relu) {
          for (int64_t i = 0; i < kTileRows; ++i) values[i] = values[i] > 0 ? values[i] : 0;
        }
        std::memcpy(a.out + at, values, sizeof(values));
      }
    }
  }

  const ConvShape s_;
  Buffer<uint16_t> parts_;
};

}  // namespace wsss
