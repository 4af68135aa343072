// The per-pixel losses, as both backends compute them.
#pragma once

#include <cstdint>

#include "scalar.h"

namespace wsss {

// Softmax over the classes, or a sigmoid for each.
enum class PixelLossKind { kCrossEntropy, kBinary };

struct PixelLossShape {
  int64_t images, classes, height, width;  // of the logits; class 0 is background
  int64_t label_height, label_width;
  // true: logits are resized to the labels' size (bilinear); false: labels to the logits' (nearest)
  bool upsample;

  // Whether labels are resized.
  WSSS_HD bool downsample() const {
    return !upsample && (height != label_height || width != label_width);
  }
  // The size at which the loss is computed.
  WSSS_HD int64_t rows() const { return upsample ? label_height : height; }
  WSSS_HD int64_t columns() const { return upsample ? label_width : width; }
  WSSS_HD int64_t pixels() const { return rows() * columns(); }
};

// What the loss is a mean of: all pixels of the batch; or half of the mean over background and half
// of that over foreground pixels of the batch; or the sum of both means in each image, of which
// that over the images is taken.
enum class PixelBalance : int { kNone, kBatch, kImage };

struct PixelLossOptions {
  double smoothing;
  PixelBalance balance;
  int64_t ignore;
};

// The number of groups of images, equally large, in each of which labels are counted together.
WSSS_HD int64_t count_groups(const PixelLossShape& shape, PixelBalance balance) {
  return balance == PixelBalance::kImage ? shape.images : 1;
}

// The target distribution with label smoothing: `own` for the label, `other` for every other class.
struct SmoothedTarget {
  double own, other;
};
WSSS_HD SmoothedTarget smoothed_target(int64_t classes, double smoothing) {
  if (classes < 2) return {1.0, 0.0};
  return {1.0 - smoothing, smoothing / static_cast<double>(classes - 1)};
}

// The weight of a background and of a foreground pixel in the mean, from the numbers of them that
// are counted together; where there are none, they contribute nothing.
struct PixelWeights {
  double background, foreground;
};
WSSS_HD PixelWeights pixel_weights(int64_t background, int64_t foreground, PixelBalance balance,
                                   int64_t images) {
  const auto weight = [](int64_t count) {
    return 1.0 / static_cast<double>(count > 0 ? count : 1);
  };
  if (balance == PixelBalance::kNone) {
    return {weight(background + foreground), weight(background + foreground)};
  }
  const double parts = balance == PixelBalance::kBatch ? 2.0 : static_cast<double>(images);
  return {weight(background) / parts, weight(foreground) / parts};
}

WSSS_HD bool is_valid_label(int64_t label, int64_t classes, int64_t ignore) {
  return label == ignore || (label >= 0 && label < classes);
}

}  // namespace wsss
