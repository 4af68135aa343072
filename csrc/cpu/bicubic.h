// Bicubic resizing of 8-bit images with C interleaved channels, row by row. Both passes load a
// vector of integers, and add the weighted bytes of each of their 4 places in a sum of its own: no
// bytes have to be unpacked or packed. An integer is a pixel of one of several rows in the
// horizontal pass, and any 4 bytes of a row in the vertical one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "../math/bicubic.h"

#include "buffer.h"
#include "simd.h"

namespace wsss {

// Integers of the target's vectors; GCC assembles scalar factors of longer ones in memory.
#if defined(__AVX512F__)
constexpr int kIntegers = 16;
#elif defined(__AVX2__)
constexpr int kIntegers = 8;
#else
constexpr int kIntegers = 4;
#endif

// Where the pixels of a resized side read the source, and their weights.
class SideTaps {
 public:
  explicit SideTaps(const ResizedSide& side) : side(side), taps_(side.taps()) {
    if (!side.changes()) return;
    ranges_.reserve(side.size);
    weights_.reserve(side.size * taps_);
    for (int64_t i = 0; i < side.size; ++i) {
      const PixelTaps pixel(side, i);
      const double total = pixel.total();
      for (int64_t j = pixel.first; j < pixel.last; ++j) {
        weights_.push_back(fixed_weight(pixel.weight(j), total));
      }
      weights_.resize((i + 1) * taps_);
      ranges_.push_back({pixel.first, pixel.last});
    }
  }

  struct Range {
    int64_t first, last;
    int64_t count() const { return last - first; }
  };
  const Range& range(int64_t i) const { return ranges_[i]; }
  const int32_t* weights(int64_t i) const { return weights_.data() + i * taps_; }
  // The source pixels that the pixels [first, last) read.
  Range sources(int64_t first, int64_t last) const {
    if (!side.changes()) return {first, last};
    return {ranges_[first].first, ranges_[last - 1].last};
  }

  const ResizedSide side;

 private:
  const int64_t taps_;
  std::vector<Range> ranges_;     // [size]
  std::vector<int32_t> weights_;  // [size, taps]
};

// Computes windows of resized images; each thread has its own object.
template <int C>
class BicubicRows {
 public:
  BicubicRows(const SideTaps& rows, const SideTaps& columns, bool vertical_first)
      : rows_(rows), columns_(columns), vertical_first_(vertical_first) {}

  // Calls use(y, row) for the rows of a window of the resized `image` [H, W, C]; `row` holds its
  // pixels [right - left, C] until the next call.
  template <class Use>
  void run(const uint8_t* image, const Window& window, const Use& use) {
    const bool vertical = rows_.side.changes(), horizontal = columns_.side.changes(),
               begin_wide = vertical && horizontal && !vertical_first_;
    Rows source{image, columns_.side.source * C, 0, 0};
    Range columns = columns_.sources(window.left, window.right);
    if (begin_wide) {
      source = stretch(source, rows_.sources(window.top, window.bottom), window);
      columns = {window.left, window.right};
    }
    for (int64_t y = window.top; y < window.bottom; y += kIntegers) {
      const Range block{y, std::min(y + kIntegers, window.bottom)};
      Rows result = source;
      if (vertical) result = shrink(result, block, columns);
      if (horizontal && !begin_wide) result = stretch(result, block, window);
      for (int64_t i = y; i < block.last; ++i) use(i, result.at(i, window.left));
    }
  }

 private:
  using Range = SideTaps::Range;
  using Integers = Vec<kIntegers>::Int;

  // Part of an image from pixel (row, column) on.
  struct Rows {
    const uint8_t* data;
    int64_t pitch, row, column;
    const uint8_t* at(int64_t y, int64_t x) const {
      return data + (y - row) * pitch + (x - column) * C;
    }
  };

  // Bytes of a row of pixels in a buffer: 4 bytes of a pixel may be read and written.
  static int64_t padded(int64_t pixels) { return (pixels * C + 4 + 63) / 64 * 64; }

  static Integers load_integers(const void* p) {
    Integers v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  // Sums of weighted bytes, rounded and clipped to 0..255.
  static Integers to_byte(Integers sum) {
    const Integers x = sum >> kWeightBits, positive = x & ~(x >> 31);
    return (positive | ((255 - positive) >> 31)) & 255;
  }

  // Horizontal pass of some rows, to the columns of a window.
  Rows stretch(const Rows& from, Range rows, const Window& window) {
    const Rows to{nullptr, padded(window.right - window.left), rows.first, window.left};
    stretched_.reserve(rows.count() * to.pitch);
    for (int64_t y = rows.first; y < rows.last; y += kIntegers) {
      stretch_block(from, {y, std::min(y + kIntegers, rows.last)}, window,
                    stretched_.get() + (y - rows.first) * to.pitch, to.pitch);
    }
    return {stretched_.get(), to.pitch, to.row, to.column};
  }

  void stretch_block(const Rows& from, Range rows, const Window& window, uint8_t* to,
                     int64_t pitch) {
    const Range read = columns_.sources(window.left, window.right);
    transpose(from, rows, read);
    for (int64_t x = window.left; x < window.right; ++x) {
      const Range range = columns_.range(x);
      const int32_t* weight = columns_.weights(x);
      const int32_t* pixel = transposed_.get() + (range.first - read.first) * kIntegers;
      Integers sum[C];
      for (Integers& s : sum) s = Integers{} + kHalfWeight;
      for (int64_t t = 0; t < range.count(); ++t) {
        const Integers value = load_integers(pixel + t * kIntegers);
        for (int c = 0; c < C; ++c) sum[c] += weight[t] * (value >> 8 * c & 255);
      }
      Integers packed = to_byte(sum[0]);
      for (int c = 1; c < C; ++c) packed |= to_byte(sum[c]) << 8 * c;
      int32_t lane[kIntegers];
      std::memcpy(lane, &packed, sizeof lane);
      uint8_t* at = to + (x - window.left) * C;
      for (int64_t i = 0; i < rows.count(); ++i) std::memcpy(at + i * pitch, &lane[i], 4);
    }
  }

  // transposed_ [columns, kIntegers] = a pixel of up to kIntegers rows, in the lowest C bytes of an
  // integer.
  void transpose(const Rows& from, Range rows, Range columns) {
    transposed_.reserve(columns.count() * kIntegers);
    const uint8_t* row[kIntegers];
    for (int64_t i = 0; i < kIntegers; ++i) {
      row[i] = from.at(std::min(rows.first + i, rows.last - 1), columns.first);
    }
    int32_t* to = transposed_.get();
    const auto take = [&](int64_t x, size_t bytes) {
      int32_t lane[kIntegers] = {};
      for (int i = 0; i < kIntegers; ++i) std::memcpy(&lane[i], row[i] + x * C, bytes);
      std::memcpy(to + x * kIntegers, lane, sizeof lane);
    };
    // 4 bytes of the last pixel may end beyond the image.
    const int64_t last = columns.count() - (4 + C - 1) / C + 1;
    for (int64_t x = 0; x < last; ++x) take(x, 4);
    for (int64_t x = std::max<int64_t>(last, 0); x < columns.count(); ++x) take(x, C);
  }

  // Vertical pass to rows of the result; `columns` of them.
  Rows shrink(const Rows& from, Range rows, Range columns) {
    const int64_t pitch = padded(columns.count());
    shrunk_.reserve(rows.count() * pitch);
    for (int64_t y = rows.first; y < rows.last; ++y) {
      shrink_row(from, y, columns, shrunk_.get() + (y - rows.first) * pitch);
    }
    return {shrunk_.get(), pitch, rows.first, columns.first};
  }

  void shrink_row(const Rows& from, int64_t y, Range columns, uint8_t* to) const {
    const Range range = rows_.range(y);
    const int32_t* weight = rows_.weights(y);
    const uint8_t* row = from.at(range.first, columns.first);
    const int64_t bytes = columns.count() * C;
    int64_t at = 0;
    for (; at + 4 * kIntegers <= bytes; at += 4 * kIntegers) {
      Integers sum[4];
      for (Integers& s : sum) s = Integers{} + kHalfWeight;
      for (int64_t t = 0; t < range.count(); ++t) {
        const Integers value = load_integers(row + t * from.pitch + at);
        for (int i = 0; i < 4; ++i) sum[i] += weight[t] * (value >> 8 * i & 255);
      }
      Integers packed = to_byte(sum[0]);
      for (int i = 1; i < 4; ++i) packed |= to_byte(sum[i]) << 8 * i;
      std::memcpy(to + at, &packed, sizeof packed);
    }
    for (; at < bytes; ++at) {
      int32_t sum = kHalfWeight;
      for (int64_t t = 0; t < range.count(); ++t) sum += weight[t] * row[t * from.pitch + at];
      to[at] = to_pixel(sum);
    }
  }

  const SideTaps &rows_, &columns_;
  const bool vertical_first_;
  Buffer<int32_t> transposed_;  // [columns, kIntegers]
  Buffer<uint8_t> stretched_;   // rows after the horizontal pass
  Buffer<uint8_t> shrunk_;      // up to kIntegers rows after the vertical pass
};

}  // namespace wsss
