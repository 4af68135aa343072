// Per-pixel losses and their gradient on the CPU, in tiles of 64 pixels with all classes. Three
// passes over tasks that may run in any order on any thread: labels are counted, losses and
// gradients computed, and, where logits were upsampled, gradients reduced.
//
// Upsampled logits exist only tile by tile. All rows of the result between the same two rows of
// logits are one task: its gradients are summed along the columns first, so that the horizontal
// part of the transposed interpolation runs once for all of them.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "pixel_loss_tile.h"

#include "../math/bilinear.h"
#include "../math/binary_term.h"
#include "../math/nearest.h"
#include "../math/pixel_loss.h"

namespace wsss {

template <class Real, class Label>
class PixelLossCpu {
 public:
  // logits [B, K, h, w], labels [B, H, W]; present [B, K]: 0 for classes that do not count, or
  // null; grad [B, K, h, w], or null if it is not needed.
  PixelLossCpu(PixelLossKind kind, const PixelLossShape& shape, const PixelLossOptions& options,
               const Real* logits, const Label* labels, const uint8_t* present, Real* grad)
      : kind_(kind),
        s_(shape),
        options_(options),
        logits_(logits),
        labels_(labels),
        present_(present),
        grad_(grad),
        target_(smoothed_target(shape.classes, options.smoothing)),
        parts_(s_.upsample ? s_.height : (s_.pixels() + kChunk - 1) / kChunk),
        counts_(tasks()),
        losses_(tasks()) {
    if (s_.upsample) {
      find_sources();
    } else if (s_.downsample()) {
      label_rows_.resize(s_.height);
      label_columns_.resize(s_.width);
      nearest_centres(s_.label_height, s_.height, label_rows_.data());
      nearest_centres(s_.label_width, s_.width, label_columns_.data());
    }
  }

  int64_t tasks() const { return s_.images * parts_; }

  // First: counts the labels of tasks [first, last).
  void count_labels(int64_t first, int64_t last) {
    Label labels[kTile];
    for (int64_t task = first; task < last; ++task) {
      Count& count = counts_[task];
      for_each_tile(task, [&](int64_t image, int64_t y, int64_t at, int64_t pixels) {
        const Label* found = read_labels(image, y, at, pixels, labels);
        const auto ignore = static_cast<int64_t>(options_.ignore);
        int32_t background = 0, ignored = 0, invalid = 0;
        for (int64_t x = 0; x < pixels; ++x) {
          const int64_t label = found[x];
          ignored += label == ignore;
          background += (label == 0) & (label != ignore);
          invalid += !is_valid_label(label, s_.classes, ignore);
        }
        count.background += background;
        count.foreground += pixels - background - ignored;
        for (int64_t x = 0; invalid > 0 && x < pixels; ++x) {
          if (!is_valid_label(found[x], s_.classes, ignore)) count.invalid = found[x];
        }
      });
    }
  }

  // After count_labels: a label that is not a class, if there is one.
  std::optional<int64_t> invalid_label() const {
    for (const Count& c : counts_) {
      if (c.invalid) return c.invalid;
    }
    return std::nullopt;
  }

  // Then: the weights of pixels.
  void compute_weights() {
    const int64_t groups = count_groups(s_, options_.balance);
    weights_.clear();
    for (int64_t group = 0; group < groups; ++group) {
      int64_t background = 0, foreground = 0;
      for (int64_t task = tasks() / groups * group; task < tasks() / groups * (group + 1); ++task) {
        background += counts_[task].background;
        foreground += counts_[task].foreground;
      }
      weights_.push_back(pixel_weights(background, foreground, options_.balance, s_.images));
    }
    if (s_.upsample && grad_ != nullptr) partial_.resize(tasks() * 2 * s_.classes * s_.width);
  }

  // Then: losses and gradients of tasks [first, last).
  void compute_losses(int64_t first, int64_t last) {
    Work work(s_.classes);
    if (s_.upsample) {
      work.row.resize(s_.classes * s_.width);
      if (grad_ != nullptr) {
        for (auto& gathered : work.gathered) gathered.resize(s_.classes * padded_);
      }
    }
    for (int64_t task = first; task < last; ++task) {
      double loss = 0;
      int64_t current_row = -1;  // the row that work.row holds
      if (s_.upsample) {
        for (auto& gathered : work.gathered) std::fill(gathered.begin(), gathered.end(), Real(0));
      }
      for_each_tile(task, [&](int64_t image, int64_t y, int64_t at, int64_t pixels) {
        if (!s_.upsample) {
          const int64_t place = image * s_.classes * s_.pixels() + at;
          work.tile.load(logits_ + place, s_.pixels(), pixels);
          loss += tile_loss(work, image, y, at, pixels);
          if (grad_ != nullptr) work.tile.store(grad_ + place, s_.pixels(), pixels);
          return;
        }
        if (current_row != y) interpolate_row(image, current_row = y, work.row.data());
        interpolate_tile(work, at);
        loss += tile_loss(work, image, y, at, pixels);
        if (grad_ != nullptr) add_gradients(work, y, at);
      });
      losses_[task] = loss;
      if (s_.upsample && grad_ != nullptr) reduce_columns(work, task);
    }
  }

  // Last, for upsampled logits: the gradients of images [first, last) from those of their tasks.
  void reduce_gradients(int64_t first, int64_t last) {
    const int64_t plane = s_.classes * s_.width;
    for (int64_t image = first; image < last; ++image) {
      for (int64_t y = 0; y < s_.height; ++y) {
        for (int64_t k = 0; k < s_.classes; ++k) {
          Real* to = grad_ + ((image * s_.classes + k) * s_.height + y) * s_.width;
          std::fill(to, to + s_.width, Real(0));
          const auto add = [&](int64_t low, int half) {
            const Real* from =
                partial_.data() + ((image * s_.height + low) * 2 + half) * plane + k * s_.width;
            for (int64_t x = 0; x < s_.width; ++x) to[x] += from[x];
          };
          if (y > 0) add(y - 1, 1);
          add(y, 0);
          if (y + 1 == s_.height) add(y, 1);
        }
      }
    }
  }

  // Summed in the tasks' order, so that the result does not depend on the threads.
  double loss() const {
    double sum = 0;
    for (double loss : losses_) sum += loss;
    return sum;
  }

 private:
  static constexpr int64_t kTile = ClassTile<Real>::kPixels, kChunk = 16 * kTile;
  using Tile = ClassTile<Real>;
  using V = typename Tile::V;
  struct Count {
    int64_t background = 0, foreground = 0;
    std::optional<int64_t> invalid;
  };
  // The working memory of a thread.
  struct Work {
    explicit Work(int64_t classes) : tile(classes) {}
    Tile tile;
    std::vector<Real> row;  // [K, w]: logits interpolated between two rows
    // [K, padded_]: gradients for the upper and the lower of the two rows
    std::vector<Real> gathered[2];
  };

  // Calls visit(image, row, first pixel, pixels) for each tile. The first pixel is an index into
  // the plane, or into the row of an upsampled result.
  template <class Visit>
  void for_each_tile(int64_t task, Visit visit) const {
    const int64_t image = task / parts_, part = task % parts_;
    if (s_.upsample) {
      for (int64_t y = first_row_[part]; y < first_row_[part + 1]; ++y) {
        for (int64_t x = 0; x < s_.columns(); x += kTile) {
          visit(image, y, x, std::min(kTile, s_.columns() - x));
        }
      }
      return;
    }
    const int64_t end = std::min((part + 1) * kChunk, s_.pixels());
    for (int64_t at = part * kChunk; at < end; at += kTile) {
      visit(image, at / s_.width, at, std::min(kTile, end - at));
    }
  }

  const Label* read_labels(int64_t image, int64_t y, int64_t at, int64_t pixels, Label* to) const {
    const Label* from = labels_ + image * s_.label_height * s_.label_width;
    if (s_.upsample) return from + y * s_.label_width + at;
    if (!s_.downsample()) return from + at;
    int64_t x = at % s_.width;
    for (int64_t i = 0; i < pixels; ++y, x = 0) {
      const Label* row = from + label_rows_[y] * s_.label_width;
      for (; x < s_.width && i < pixels; ++x) to[i++] = row[label_columns_[x]];
    }
    return to;
  }

  // Returns the weighted loss of a tile and replaces its logits by their gradients.
  double tile_loss(Work& work, int64_t image, int64_t y, int64_t at, int64_t pixels) {
    Label labels[kTile];
    const Label* found = read_labels(image, y, at, pixels, labels);
    const uint8_t* present = present_ == nullptr ? nullptr : present_ + image * s_.classes;
    int64_t classes = s_.classes;
    if (present != nullptr) {
      classes = 0;
      for (int64_t k = 0; k < s_.classes; ++k) classes += present[k] != 0;
    }
    const double mean = kind_ == PixelLossKind::kBinary
                            ? 1.0 / static_cast<double>(std::max<int64_t>(classes, 1))
                            : 1.0;
    const PixelWeights& weights = weights_[weights_.size() > 1 ? image : 0];
    const Real background = static_cast<Real>(weights.background * mean);
    const Real foreground = static_cast<Real>(weights.foreground * mean);
    Real weight[kTile] = {}, loss[kTile];
    int32_t own[kTile] = {};
    for (int64_t x = 0; x < pixels; ++x) {
      if (found[x] == static_cast<int64_t>(options_.ignore)) continue;
      own[x] = static_cast<int32_t>(found[x]);
      weight[x] = found[x] == 0 ? background : foreground;
    }
    const PixelLossTile<Real> losses{target_, grad_ != nullptr};
    if (kind_ == PixelLossKind::kCrossEntropy) {
      losses.cross_entropy(work.tile, weight, own, loss);
    } else {
      losses.binary(work.tile, present, weight, own, loss);
      for (int64_t x = 0; x < pixels; ++x) {
        if (std::isfinite(loss[x]) || weight[x] == 0) continue;
        loss[x] = loss_of_any_logits(work, present, own[x], image, at, x);
      }
    }
    // A pixel that is not used adds nothing, whatever its logits are.
    for (int64_t x = 0; x < kTile; ++x) loss[x] = weight[x] != 0 ? loss[x] * weight[x] : Real(0);
    return Tile::sum(loss);
  }

  // A pixel's binary cross-entropy, whatever its logits are; `x` is its place in the tile at `at`.
  Real loss_of_any_logits(const Work& work, const uint8_t* present, int64_t own, int64_t image,
                          int64_t at, int64_t x) const {
    Real loss = 0;
    for (int64_t k = 0; k < s_.classes; ++k) {
      if (present != nullptr && !present[k]) continue;
      const Real z = s_.upsample ? at_column(work.row.data() + k * s_.width, at + x)
                                 : logits_[(image * s_.classes + k) * s_.pixels() + at + x];
      const Real target = static_cast<Real>(k == own ? target_.own : target_.other);
      loss += std::isfinite(z)
                  ? (z > 0 ? z : Real(0)) - target * z + std::log1p(std::exp(z > 0 ? -z : z))
                  : binary_term_of_infinity(z, target);
    }
    return loss;
  }

  // Column `x` of the result, from an interpolated row.
  Real at_column(const Real* row, int64_t x) const {
    return columns_stay_ ? row[x] : interpolate(row[low_[x]], row[high_[x]], fraction_[x]);
  }

  void find_sources() {
    columns_stay_ = s_.width == s_.columns();
    padded_ = (s_.columns() + kTile - 1) / kTile * kTile;
    low_.assign(padded_, 0);
    high_.assign(padded_, 0);
    fraction_.assign(padded_, Real(0));
    first_column_.assign(s_.width + 1, s_.columns());
    for (int64_t x = s_.columns(); x-- > 0;) {
      const auto source = bilinear_source<Real>(x, s_.width, s_.columns());
      low_[x] = static_cast<int32_t>(source.low);
      high_[x] = static_cast<int32_t>(source.high);
      fraction_[x] = source.fraction;
      first_column_[source.low] = x;
    }
    first_row_.assign(s_.height + 1, s_.rows());
    for (int64_t y = s_.rows(); y-- > 0;) {
      first_row_[bilinear_source<Real>(y, s_.height, s_.rows()).low] = y;
    }
    // A cell that no pixel starts at ends where it starts: at the next one's start.
    for (int64_t c = s_.width; c-- > 0;) {
      first_column_[c] = std::min(first_column_[c], first_column_[c + 1]);
    }
    for (int64_t c = s_.height; c-- > 0;) {
      first_row_[c] = std::min(first_row_[c], first_row_[c + 1]);
    }
  }

  void interpolate_row(int64_t image, int64_t y, Real* row) const {
    const auto source = bilinear_source<Real>(y, s_.height, s_.rows());
    for (int64_t k = 0; k < s_.classes; ++k) {
      const Real* plane = logits_ + (image * s_.classes + k) * s_.height * s_.width;
      const Real* upper = plane + source.low * s_.width;
      const Real* lower = plane + source.high * s_.width;
      for (int64_t x = 0; x < s_.width; ++x) {
        row[k * s_.width + x] =
            source.resized ? interpolate(upper[x], lower[x], source.fraction) : upper[x];
      }
    }
  }

  void interpolate_tile(Work& work, int64_t at) const {
    const int32_t* low = low_.data() + at;
    const int32_t* high = high_.data() + at;
    const Real* fraction = fraction_.data() + at;
    const int64_t pixels = std::min(kTile, s_.columns() - at);
    for (int64_t k = 0; k < s_.classes; ++k) {
      const Real* row = work.row.data() + k * s_.width;
      Real* to = work.tile.row(k);
      if (columns_stay_) {
        std::copy(row + at, row + at + pixels, to);
        std::fill(to + pixels, to + kTile, Real(0));
        continue;
      }
      for (int64_t x = 0; x < kTile; ++x) {
        to[x] = interpolate(row[low[x]], row[high[x]], fraction[x]);
      }
    }
  }

  void add_gradients(Work& work, int64_t y, int64_t at) const {
    const auto source = bilinear_source<Real>(y, s_.height, s_.rows());
    const Real lower = source.fraction, upper = 1 - lower;
    for (int64_t k = 0; k < s_.classes; ++k) {
      const Real* from = work.tile.row(k);
      Real* to[2] = {
          work.gathered[0].data() + k * padded_ + at, work.gathered[1].data() + k * padded_ + at};
      if (!source.resized) {
        for (int64_t x = 0; x < kTile; ++x) to[0][x] += from[x];
        continue;
      }
      for (int64_t x = 0; x < kTile; ++x) {
        to[0][x] += upper * from[x];
        to[1][x] += lower * from[x];
      }
    }
  }

  void reduce_columns(const Work& work, int64_t task) {
    for (int half = 0; half < 2; ++half) {
      for (int64_t k = 0; k < s_.classes; ++k) {
        const Real* from = work.gathered[half].data() + k * padded_;
        Real* to = partial_.data() + ((task * 2 + half) * s_.classes + k) * s_.width;
        Real carried = 0;
        for (int64_t c = 0; c < s_.width; ++c) {
          Real here = 0, next = 0;
          for (int64_t x = first_column_[c]; x < first_column_[c + 1]; ++x) {
            here += (1 - fraction_[x]) * from[x];
            if (!columns_stay_) next += fraction_[x] * from[x];
          }
          to[c] = carried + here + (c + 1 == s_.width ? next : Real(0));
          carried = next;
        }
      }
    }
  }

  const PixelLossKind kind_;
  const PixelLossShape s_;
  const PixelLossOptions options_;
  const Real* const logits_;
  const Label* const labels_;
  const uint8_t* const present_;
  Real* const grad_;
  const SmoothedTarget target_;
  const int64_t parts_;                // tasks per image: chunks of pixels, or rows of logits
  std::vector<PixelWeights> weights_;  // of each group of images
  // By row and column of the logits: the row and column of the labels, if those are resized.
  std::vector<int32_t> label_rows_, label_columns_;
  bool columns_stay_ = false;        // upsampled along the rows only
  int64_t padded_ = 0;               // columns of the result, padded to whole tiles
  std::vector<int32_t> low_, high_;  // [padded_]
  std::vector<Real> fraction_;       // [padded_]
  // By column and row of the logits: the first column and row of the result that start there.
  std::vector<int64_t> first_column_, first_row_;
  std::vector<Count> counts_;
  std::vector<double> losses_;
  std::vector<Real> partial_;  // [tasks, 2, K, w]
};

}  // namespace wsss
