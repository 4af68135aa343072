// Checks of arguments that the CPU and the CUDA binding share.
#pragma once

#include <cmath>

#include "../math/aamr.h"
#include "../math/bilinear.h"
#include "../math/pixel_loss.h"
#include "../math/saliency.h"
#include "../math/walk.h"
#include "stable_abi.h"

namespace wsss {

// image [B, C, H, W], unary [B, S, L, H, W]
inline void check_crf_arguments(
    const Tensor& image, const Tensor& unary, const std::vector<double>& gaussian,
    const std::vector<double>& bilateral, const std::vector<double>& levels) {
  check(image.size(0) == unary.size(0) && image.size(2) == unary.size(3) &&
            image.size(3) == unary.size(4),
        "dense_crf: image is " + shape_text(image) + " but unary is " + shape_text(unary));
  check(gaussian.empty() || gaussian.size() == 3,
        "dense_crf: gaussian must be [] or [sx, sy, weight]");
  check(bilateral.empty() || static_cast<int64_t>(bilateral.size()) == image.size(1) + 3,
        "dense_crf: bilateral must be [] or [sx, sy, a deviation per channel, weight]");
  check(levels.size() == 2, "dense_crf: levels must be [lowest, highest]");
}

// An int32 tensor, made contiguous.
inline Tensor int_input(const char* op, const char* name, const Tensor& t) {
  check(t.scalar_type() == torch::headeronly::ScalarType::Int,
        std::string(op) + ": " + name + " must be int32");
  return torch::stable::contiguous(t);
}

// The arrays of permutohedral_lattice, and values [N, c].
inline void check_lattice_filter(const Tensor& row, const Tensor& weight, const Tensor& entry,
                                 const Tensor& first, const Tensor& next, const Tensor& previous,
                                 const Tensor& values) {
  check(values.dim() == 2, "lattice_filter: values is " + shape_text(values) + "; must be [N, c]");
  check(row.dim() == 2 && row.size(1) >= 2 && row.size(1) < 64,
        "lattice_filter: row is " + shape_text(row) + "; must be [N, d+1]");
  const int64_t points = row.size(0), corners = row.size(1), vertices = first.numel() - 1;
  check(values.size(0) == points && weight.size(0) == points && weight.size(1) == corners &&
            entry.numel() == points * corners && vertices >= (points > 0 ? 1 : 0) &&
            next.numel() == corners * vertices && previous.numel() == corners * vertices,
        "lattice_filter: the tensors are not of one lattice with " +
            std::to_string(values.size(0)) + " points");
}

// logits [B, K, h, w], size [H, W]
inline ResizeShape resize_shape(const Tensor& logits, const std::vector<int64_t>& size) {
  check(logits.dim() == 4 && size.size() == 2,
        "resized_activation: logits is " + shape_text(logits) +
            "; must be [B, K, h, w], size two numbers");
  return {logits.size(1), logits.size(2), logits.size(3), size[0], size[1]};
}

// logits [B, K, h, w], labels [B, H, W] uint8 or int64
inline PixelLossShape pixel_loss_shape(const char* op, const Tensor& logits, const Tensor& labels,
                                       bool resize_logits) {
  using torch::headeronly::ScalarType;
  const std::string name = op;
  check(logits.dim() == 4 && labels.dim() == 3 && labels.size(0) == logits.size(0),
        name + ": logits is " + shape_text(logits) + " but labels is " + shape_text(labels));
  check(logits.numel() == 0 || labels.numel() > 0, name + ": labels is empty");
  const auto dtype = labels.scalar_type();
  check(dtype == ScalarType::Byte || dtype == ScalarType::Long,
        name + ": labels must be uint8 or int64");
  const bool same = logits.size(2) == labels.size(1) && logits.size(3) == labels.size(2);
  return {logits.size(0),
          logits.size(1),
          logits.size(2),
          logits.size(3),
          labels.size(1),
          labels.size(2),
          resize_logits && !same && logits.numel() > 0};
}

// present [B, K] uint8, made contiguous
inline std::optional<Tensor> presence(const char* op, const Tensor& logits,
                                      const std::optional<Tensor>& present) {
  if (!present) return std::nullopt;
  check(present->scalar_type() == torch::headeronly::ScalarType::Byte && present->dim() == 2 &&
            present->size(0) == logits.size(0) && present->size(1) == logits.size(1),
        std::string(op) + ": present is " + shape_text(*present) + "; must be uint8 [B, K]");
  return torch::stable::contiguous(*present);
}

// logits [B, K, h, w], saliency [B, H, W], response [B, H', W']
inline AamrShape aamr_shape(const Tensor& logits, const Tensor& saliency, const Tensor& response) {
  check(logits.dim() == 4 && logits.size(1) >= 2, "aamr_loss: logits is " + shape_text(logits));
  for (const Tensor* map : {&saliency, &response}) {
    check(map->dim() == 3 && map->size(0) == logits.size(0) &&
              (logits.numel() == 0 || map->numel() > 0),
          "aamr_loss: logits is " + shape_text(logits) + " but a map is " + shape_text(*map));
  }
  return {logits.size(0),   logits.size(1),   logits.size(2),   logits.size(3),
          saliency.size(1), saliency.size(2), response.size(1), response.size(2)};
}

// maps [B, K, h, w], edge [B, h, w]. Callers of the op itself come past the public function's
// checks.
inline WalkShape walk_shape(const Tensor& maps, const Tensor& edge, int64_t radius, double beta,
                            int64_t steps) {
  check(
      edge.size(0) == maps.size(0) && edge.size(1) == maps.size(2) && edge.size(2) == maps.size(3),
      "random_walk: maps is " + shape_text(maps) + " but edge is " + shape_text(edge));
  check(radius >= 1 && radius <= kMaxWalkRadius,
        "random_walk: radius is " + std::to_string(radius) + "; must be in 1.." +
            std::to_string(kMaxWalkRadius));
  check(beta > 0 && std::isfinite(beta),
        "random_walk: beta is " + std::to_string(beta) + "; must be finite and > 0");
  check(steps >= 0, "random_walk: steps is " + std::to_string(steps) + "; must be >= 0");
  return {maps.size(2), maps.size(3), static_cast<int>(radius)};
}

// logits [B, K, h, w], saliency [B, H, W] or [B, 1, H, W], present [B, K - 1] uint8
inline SaliencyShape saliency_shape(const Tensor& logits, const Tensor& saliency,
                                    const Tensor& present,
                                    const std::vector<int64_t>& always_background) {
  const int64_t dims = saliency.dim();
  check(logits.dim() == 4 && (dims == 3 || (dims == 4 && saliency.size(1) == 1)) &&
            saliency.size(0) == logits.size(0),
        "saliency_loss: logits is " + shape_text(logits) + " but saliency is " +
            shape_text(saliency));
  check(present.scalar_type() == torch::headeronly::ScalarType::Byte && present.dim() == 2 &&
            present.size(0) == logits.size(0) && present.size(1) == logits.size(1) - 1,
        "saliency_loss: labels is " + shape_text(present) + "; must be uint8 [B, K - 1]");
  for (int64_t k : always_background) {
    check(k >= 1 && k < logits.size(1), "saliency_loss: no such background class");
  }
  check(logits.numel() == 0 || saliency.numel() > 0, "saliency_loss: saliency is empty");
  return {logits.size(0), logits.size(1),          logits.size(2),
          logits.size(3), saliency.size(dims - 2), saliency.size(dims - 1)};
}

// The sizes of the maps that are returned: the saliency's dimensions, the logits' height and width.
inline std::vector<int64_t> saliency_map_sizes(const SaliencyShape& s, const Tensor& saliency) {
  return saliency.dim() == 3 ? std::vector<int64_t>{s.images, s.height, s.width}
                             : std::vector<int64_t>{s.images, 1, s.height, s.width};
}

}  // namespace wsss
