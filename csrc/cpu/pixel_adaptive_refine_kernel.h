// PAR and PAMR on the CPU, and their gradient in the masks: weights once for each image, then
// weighted sums over neighbours, for a group of masks at a time.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "buffer.h"
#include "flush_denormals.h"
#include "neighbour_weights.h"
#include "team.h"

namespace wsss {

// What the result and the gradient share. Masks are processed in groups of equal size, each through
// all iterations, so that two copies of a group are the only other arrays besides the weights.
class RefineGroups {
 public:
  explicit RefineGroups(int64_t masks)
      : masks_(masks), groups_((masks + kRefineGroup - 1) / kRefineGroup) {}

  // Number of masks in the largest group.
  int64_t largest() const { return (masks_ + groups_ - 1) / groups_; }

  // Calls run(first mask, integral constant of the number of masks) for each group.
  template <class Run>
  void each(const Run& run) const {
    for (int64_t g = 0; g < groups_; ++g) {
      const int64_t first = masks_ * g / groups_, last = masks_ * (g + 1) / groups_;
      with_group(last - first, [&](auto size) { run(first, size); });
    }
  }

 private:
  const int64_t masks_, groups_;
};

// The result of one image at a time; all threads of a team call run().
class PixelAdaptiveRefine {
 public:
  explicit PixelAdaptiveRefine(const RefineShape& shape)
      : shape_(shape),
        offsets_(shape),
        groups_(shape.masks),
        planes_(shape.height, shape.width, shape.reach_x()),
        tiles_((shape.width + kRefineTile - 1) / kRefineTile) {
    weights_.reserve(shape.height * row_weights());
    masks_[0].reserve(planes_.size(groups_.largest()));
    // The image is only needed before the first iteration writes here.
    masks_[1].reserve(planes_.size(std::max(groups_.largest(), shape.channels)));
  }

  // masks [K, H, W], image [C, H, W] -> out [K, H, W]; iterations >= 1
  void run(Team& team, int rank, const float* masks, const float* image, int64_t iterations,
           float* out) {
    [[maybe_unused]] const FlushDenormals flush;
    const auto rows = Team::part(shape_.height, rank, team.size());
    copy(rows, image, shape_.channels, masks_[1].get());
    team.barrier();
    compute_weights(rows);
    groups_.each([&](int64_t first, auto size) {
      copy(rows, masks + first * shape_.pixels(), size, masks_[0].get());
      team.barrier();
      for (int64_t i = 0; i < iterations; ++i) {
        const bool padded = i + 1 < iterations;
        step<size>(
            rows, masks_[i % 2].get(),
            padded ? masks_[(i + 1) % 2].get() + planes_.left : out + first * shape_.pixels(),
            padded);
        team.barrier();
      }
    });
  }

 private:
  using Rows = std::pair<int64_t, int64_t>;

  int64_t row_weights() const { return tiles_ * offsets_.size() * kRefineTile; }

  // Copies rows of [count, H, W] into padded planes.
  void copy(Rows rows, const float* from, int64_t count, float* to) const {
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t y = rows.first; y < rows.second; ++y) {
        float* row = to + k * planes_.plane + planes_.at(y);
        std::copy_n(from + (k * shape_.height + y) * shape_.width, shape_.width, row);
        planes_.repeat_border(row);
      }
    }
  }

  void compute_weights(Rows rows) {
    NeighbourWeights one(shape_, offsets_);
    float* to = weights_.get() + rows.first * row_weights();
    for (int64_t y = rows.first; y < rows.second; ++y) {
      one.select_row(planes_, masks_[1].get(), y);
      for (int64_t t = 0; t < tiles_; ++t, to += offsets_.size() * kRefineTile) {
        one.compute(t * kRefineTile, to);
      }
    }
  }

  // One iteration of G masks. to: column 0 of row 0 of the first one, in padded planes, or in those
  // of the result.
  template <int G>
  void step(Rows rows, const float* from, float* to, bool padded) const {
    const int64_t plane = padded ? planes_.plane : shape_.pixels();
    const int64_t stride = padded ? planes_.stride : shape_.width;
    const int64_t whole = padded ? planes_.width : shape_.width - kRefineTile;  // last whole tile
    std::vector<int64_t> where(offsets_.size());
    for (int64_t y = rows.first; y < rows.second; ++y) {
      offsets_.locate(planes_, y, where.data());
      float* row = to + y * stride;
      add_neighbours<G>(weights_.get() + y * row_weights(), tiles_, where, from, planes_.plane,
                        [&](int k, int64_t x, TileVec sum) {
                          float* at = row + k * plane + x;
                          if (x <= whole) {
                            store<kRefineTile>(at, sum);
                          } else {
                            std::memcpy(at, &sum, sizeof(float) * (shape_.width - x));
                          }
                        });
      for (int k = 0; padded && k < G; ++k) planes_.repeat_border(row + k * plane);
    }
  }

  const RefineShape& shape_;
  const NeighbourOffsets offsets_;
  const RefineGroups groups_;
  const PaddedPlanes planes_;
  const int64_t tiles_;     // of a row
  Buffer<float> weights_;   // [H, tiles, neighbours, kRefineTile]
  Buffer<float> masks_[2];  // [largest group, plane]
};

// The gradient in the masks of one image at a time; all threads of a team call run().
//
// An iteration sends weight * gradient from each pixel to its neighbours, of which some are outside
// of the image, where the border is repeated. Computed as sums over the pixels that each place,
// also outside of the image, receives from; then what is outside is added to the border.
class PixelAdaptiveRefineGradient {
 public:
  explicit PixelAdaptiveRefineGradient(const RefineShape& shape)
      : shape_(shape),
        offsets_(shape),
        groups_(shape.masks),
        above_(shape.reach_y()),
        before_(shape.reach_x()),
        rows_(shape.height + 2 * above_),
        tiles_((shape.width + 2 * before_ + kRefineTile - 1) / kRefineTile),
        image_(shape.height, shape.width, before_),
        planes_(shape.height + 1, shape.width, 2 * before_) {
    weights_.reserve(rows_ * row_weights());
    const int64_t size = planes_.size(groups_.largest());
    grads_[0].reserve(size);
    grads_[1].reserve(std::max(size, image_.size(shape.channels)));
  }

  // grad [K, H, W], image [C, H, W] -> out [K, H, W]; iterations >= 1
  void run(Team& team, int rank, const float* grad, const float* image, int64_t iterations,
           float* out) {
    [[maybe_unused]] const FlushDenormals flush;
    const auto rows = Team::part(shape_.height, rank, team.size());
    copy_image(rows, image);
    const auto places = Team::part(rows_, rank, team.size());
    std::fill(weights_.get() + places.first * row_weights(),
              weights_.get() + places.second * row_weights(), 0.0f);
    team.barrier();
    compute_weights(rows);
    team.barrier();
    clear(rank, team.size());
    team.barrier();
    groups_.each([&](int64_t first, auto size) {
      copy_rows(rows, grad + first * shape_.pixels(), size);
      team.barrier();
      for (int64_t i = 0; i < iterations; ++i) {
        const bool last = i + 1 == iterations;
        float* to = last ? out + first * shape_.pixels() : grads_[(i + 1) % 2].get() + planes_.left;
        step<size>(places, grads_[i % 2].get(), to, last ? shape_.pixels() : planes_.plane,
                   last ? shape_.width : planes_.stride);
        team.barrier();
      }
    });
  }

 private:
  using Rows = std::pair<int64_t, int64_t>;

  int64_t row_weights() const { return tiles_ * offsets_.size() * kRefineTile; }

  void copy_image(Rows rows, const float* from) {
    for (int64_t c = 0; c < shape_.channels; ++c) {
      for (int64_t y = rows.first; y < rows.second; ++y) {
        float* row = grads_[1].get() + c * image_.plane + image_.at(y);
        std::copy_n(from + (c * shape_.height + y) * shape_.width, shape_.width, row);
        image_.repeat_border(row);
      }
    }
  }

  // Stores each weight at the place that receives by it. Others remain 0.
  void compute_weights(Rows rows) {
    NeighbourWeights one(shape_, offsets_);
    const int64_t count = offsets_.size();
    std::vector<float> tile(count * kRefineTile);
    for (int64_t y = rows.first; y < rows.second; ++y) {
      one.select_row(image_, grads_[1].get(), y);
      for (int64_t x = 0; x < shape_.width; x += kRefineTile) {
        one.compute(x, tile.data());
        const int64_t pixels = std::min<int64_t>(kRefineTile, shape_.width - x);
        for (int64_t n = 0; n < count; ++n) {
          float* row = weights_.get() + (above_ + y + offsets_.y[n]) * row_weights();
          const int64_t column = before_ + x + offsets_.x[n], shift = column % kRefineTile;
          const int64_t fitting = std::min<int64_t>(pixels, kRefineTile - shift);
          float* to = row + (column / kRefineTile * count + n) * kRefineTile;
          std::copy_n(&tile[n * kRefineTile], fitting, to + shift);
          std::copy_n(&tile[n * kRefineTile + fitting], pixels - fitting, to + count * kRefineTile);
        }
      }
    }
  }

  // Zeros around the gradients, which stay there.
  void clear(int rank, int parts) {
    for (auto& grads : grads_) {
      const auto part = Team::part(planes_.size(groups_.largest()), rank, parts);
      std::fill(grads.get() + part.first, grads.get() + part.second, 0.0f);
    }
  }

  void copy_rows(Rows rows, const float* from, int64_t count) {
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t y = rows.first; y < rows.second; ++y) {
        std::copy_n(from + (k * shape_.height + y) * shape_.width, shape_.width,
                    grads_[0].get() + k * planes_.plane + planes_.at(y));
      }
    }
  }

  // to: column 0 of row 0 of the first of G planes; computes the rows whose places begin in
  // [first, last).
  template <int G>
  void step(Rows places, const float* from, float* to, int64_t plane, int64_t stride) const {
    const int64_t columns = tiles_ * kRefineTile;
    std::vector<int64_t> where(offsets_.size());
    std::vector<float> line(G * columns);
    for (int64_t y = 0; y < shape_.height; ++y) {
      const int64_t begin = y == 0 ? 0 : above_ + y;
      const int64_t end = y + 1 == shape_.height ? rows_ : above_ + y + 1;
      if (begin < places.first || begin >= places.second) continue;
      std::fill(line.begin(), line.end(), 0.0f);
      for (int64_t row = begin; row < end; ++row) {
        locate(row, where.data());
        add_neighbours<G>(weights_.get() + row * row_weights(), tiles_, where, from, planes_.plane,
                          [&](int k, int64_t x, TileVec sum) {
                            float* at = &line[k * columns + x];
                            store<kRefineTile>(at, load<kRefineTile>(at) + sum);
                          });
      }
      for (int k = 0; k < G; ++k) fold(&line[k * columns], to + k * plane + y * stride);
    }
  }

  // Where the pixels from which a row of places receives are.
  void locate(int64_t row, int64_t* where) const {
    for (int64_t n = 0; n < offsets_.size(); ++n) {
      const int64_t y = row - above_ - offsets_.y[n];
      const bool inside = y >= 0 && y < shape_.height;
      where[n] = planes_.at(inside ? y : shape_.height, -before_ - offsets_.x[n]);
    }
  }

  // Adds what a line has outside of the image to the border.
  void fold(const float* line, float* to) const {
    const float* inside = line + before_;
    std::copy_n(inside, shape_.width, to);
    for (int64_t x = 0; x < before_; ++x) {
      to[0] += line[x];
      to[shape_.width - 1] += inside[shape_.width + x];
    }
  }

  const RefineShape& shape_;
  const NeighbourOffsets offsets_;
  const RefineGroups groups_;
  const int64_t above_, before_;  // rows and columns of places on each side of the image
  const int64_t rows_, tiles_;    // of places
  const PaddedPlanes image_;
  const PaddedPlanes planes_;  // of gradients: zeros around them, and in the last row
  Buffer<float> weights_;      // [rows, tiles, neighbours, kRefineTile], of places
  Buffer<float> grads_[2];     // [largest group, plane]
};

}  // namespace wsss
