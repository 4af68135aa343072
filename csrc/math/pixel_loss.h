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

struct PixelLossOptions {
  double smoothing;
  bool balance;
  int64_t ignore;
};

// The target distribution with label smoothing: `own` for the label, `other` for every other class.
struct SmoothedTarget {
  double own, other;
};
WSSS_HD SmoothedTarget smoothed_target(int64_t classes, double smoothing) {
  if (classes < 2) return {1.0, 0.0};
  return {1.0 - smoothing, smoothing / static_cast<double>(classes - 1)};
}

// The weight of a background and of a foreground pixel in the mean; an
// empty group contributes nothing.
struct PixelWeights {
  double background, foreground;
};
WSSS_HD PixelWeights pixel_weights(int64_t background, int64_t foreground, bool balance) {
  const auto weight = [](int64_t count) {
    return 1.0 / static_cast<double>(count > 0 ? count : 1);
  };
  if (balance) return {weight(background) / 2, weight(foreground) / 2};
  return {weight(background + foreground), weight(background + foreground)};
}

WSSS_HD bool is_valid_label(int64_t label, int64_t classes, int64_t ignore) {
  return label == ignore || (label >= 0 && label < classes);
}

}  // namespace wsss
