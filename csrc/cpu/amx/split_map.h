// Maps as sums of two bfloat16 parts, with a border of zeros, so that each tap of a kernel
// is a fixed offset in memory.
//
// A batch of maps [B, H, W, C] becomes planes of 32 channels, [C / 32][pixel][part][32], so that
// the 16 pixels of a tile are adjacent. Lines are `pitch` pixels apart: the zeros after one line
// are also those before the next, and the lines of zeros below one image those above the next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../buffer.h"
#include "../simd.h"
#include "amx_conv2d.h"
#include "tiles.h"

namespace wsss {

constexpr int64_t kMapParts = 2;
constexpr int64_t kBlock = 2 * kTileRows;  // filters
static_assert(kBlock == kConvFilters && kTileDepth == kConvDepth);
constexpr int64_t kMapPixel = kMapParts * kTileDepth;  // elements of a pixel in a plane

struct OutputPixel {
  int64_t image, y, x;
};

// Nearest bfloat16 of a finite number, ties to even.
inline uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

typedef uint32_t BitLanes __attribute__((vector_size(4 * kLanes)));
typedef uint16_t HalfLanes __attribute__((vector_size(2 * kLanes)));

// The same for 16 numbers, from which it is subtracted.
inline HalfLanes take_bf16(Lanes& values) {
  const BitLanes bits = reinterpret_cast<BitLanes>(values),
                 rounded = bits + 0x7fff + (bits >> 16 & 1);
  values -= reinterpret_cast<Lanes>(rounded & 0xffff0000);
  return __builtin_convertvector(rounded >> 16, HalfLanes);
}

// Loads the first `count` of 16 values, zeros for the others; stores the first `count`.
inline Lanes load_some(const float* p, int64_t count) {
  if (count >= kLanes) return load<kLanes>(p);
  float values[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) values[i] = p[i];
  return load<kLanes>(values);
}
inline void store_some(float* p, int64_t count, Lanes values) {
  if (count >= kLanes) return store<kLanes>(p, values);
  for (int64_t i = 0; i < count; ++i) p[i] = values[i];
}

inline Lanes relu(Lanes x) { return x < Lanes{} ? Lanes{} : x; }  // NaN stays NaN

class SplitMap {
 public:
  // With a 1x1 kernel only the pixels that contribute to the result are stored.
  explicit SplitMap(const ConvShape& shape)
      : s_(shape),
        every_(s_.kernel == 1 ? s_.stride : 1),
        height_((s_.height - 1) / every_ + 1),
        width_((s_.width - 1) / every_ + 1) {
    // The rows of the last tile may extend beyond the last plane; their sums are dropped.
    parts_.reserve_large((s_.planes() * plane_pixels() + kTileRows * stride()) * kMapPixel);
  }

  int64_t stride() const { return s_.stride / every_; }
  int64_t pitch() const { return width_ + s_.padding(); }
  int64_t plane() const { return plane_pixels() * kMapPixel; }  // elements

  // The pixel at the kernel's first tap for pixel `p` of the result.
  const uint16_t* at(const OutputPixel& p) const {
    return parts_.get() +
           ((p.image * (height_ + s_.padding()) + p.y * stride()) * pitch() + p.x * stride()) *
               kMapPixel;
  }

  // The offset of a tap from the first one, in elements.
  int64_t shift(int64_t tap) const {
    return (tap / s_.kernel * pitch() + tap % s_.kernel) * s_.dilation * kMapPixel;
  }

  // The number of lines of all images, the units of parallel work.
  int64_t lines() const { return s_.batch * height_; }

  // Splits lines [first, last) and writes the zeros around them.
  void split(const MapArrays& a, int64_t first, int64_t last) {
    for (int64_t line = first; line < last; ++line) {
      const int64_t image = line / height_, y = line % height_;
      const bool within = !a.inside || y * every_ < a.inside[2 * image];
      const int64_t end =
          !a.inside ? s_.width : std::clamp<int64_t>(a.inside[2 * image + 1], 0, s_.width);
      for (int64_t plane = 0; plane < s_.planes(); ++plane) {
        split_line(a, plane, image, y, within ? (end + every_ - 1) / every_ : 0);
      }
    }
  }

 private:
  int64_t plane_pixels() const {
    return (s_.padding() + s_.batch * (height_ + s_.padding())) * pitch() + s_.padding();
  }

  // Splits the first `width` pixels of a line; zeros follow.
  void split_line(const MapArrays& a, int64_t plane, int64_t image, int64_t y, int64_t width) {
    const int64_t frame = s_.padding(), around = frame * pitch() + frame;
    uint16_t* to = parts_.get() + plane * plane_pixels() * kMapPixel;
    if (image == 0 && y == 0) std::memset(to, 0, around * kMapPixel * sizeof(uint16_t));
    to += (around + (image * (height_ + frame) + y) * pitch()) * kMapPixel;
    const float* from =
        a.maps + (image * s_.height + y * every_) * s_.width * s_.channels + plane * kTileDepth;
    const int64_t channels = std::min(kTileDepth, s_.channels - plane * kTileDepth);
    const float* scale = a.scale ? a.scale + plane * kTileDepth : nullptr;
    const float* shift = a.scale ? a.shift + plane * kTileDepth : nullptr;
    const int64_t ahead = 16 * every_ * s_.channels;  // hardware does not prefetch such strides
    for (int64_t x = 0; x < width; ++x, from += every_ * s_.channels, to += kMapPixel) {
      __builtin_prefetch(from + ahead);
      __builtin_prefetch(from + ahead + 16);
      for (int64_t c = 0; c < kTileDepth; c += kLanes) {
        Lanes values = load_some(from + c, channels - c);
        if (scale) {
          values = relu(
              values * load_some(scale + c, channels - c) + load_some(shift + c, channels - c));
        }
        for (int64_t part = 0; part < kMapParts; ++part) {
          const HalfLanes taken = take_bf16(values);
          std::memcpy(to + part * kTileDepth + c, &taken, sizeof(taken));
        }
      }
    }
    const int64_t below = y + 1 < height_ ? 0 : frame * pitch();
    std::memset(to, 0, (width_ - width + frame + below) * kMapPixel * sizeof(uint16_t));
  }

  const ConvShape s_;
  const int64_t every_, height_, width_;
  Buffer<uint16_t> parts_;
};

}  // namespace wsss
