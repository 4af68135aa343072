// Argument checks of pixel_cross_entropy and pixel_bce, and both ops as one function,
// pixel_loss, which each backend defines.
#pragma once

#include <tuple>

#include "../math/pixel_loss.h"
#include "arguments.h"

namespace wsss {

// logits [B, K, h, w], labels [B, H, W] uint8 or int64
inline PixelLossShape pixel_loss_shape(const char* op, const Tensor& logits, const Tensor& labels,
                                       bool resize_logits) {
  check(logits.dim() == 4 && labels.dim() == 3 && labels.size(0) == logits.size(0), op,
        ": logits is ", logits, " but labels is ", labels, "; must be [B, K, h, w] and [B, H, W]");
  check(logits.numel() == 0 || labels.numel() > 0, op, ": labels is empty");
  const auto dtype = labels.scalar_type();
  check(dtype == ScalarType::Byte || dtype == ScalarType::Long, op,
        ": labels must be uint8 or int64");
  const bool same = logits.size(2) == labels.size(1) && logits.size(3) == labels.size(2);
  const bool upsample = resize_logits && !same && logits.numel() > 0;
  return {logits.size(0), logits.size(1), logits.size(2), logits.size(3),
          labels.size(1), labels.size(2), upsample};
}

// present [B, K] uint8, made contiguous
inline std::optional<Tensor> presence(const char* op, const Tensor& logits,
                                      const std::optional<Tensor>& present) {
  if (!present) return std::nullopt;
  check(present->scalar_type() == ScalarType::Byte && present->dim() == 2 &&
            present->size(0) == logits.size(0) && present->size(1) == logits.size(1),
        op, ": present is ", *present, "; must be uint8 [B, K]");
  return contiguous_input(*present);
}

// balance: 0 none, 1 batch, 2 image
inline PixelLossOptions pixel_loss_options(const char* op, double smoothing, int64_t balance,
                                           int64_t ignore_index) {
  check(0 <= balance && balance <= 2, op, ": balance is ", balance, "; must be 0, 1 or 2");
  return {smoothing, static_cast<PixelBalance>(balance), ignore_index};
}

// logits [B, K, h, w], labels [B, H, W] uint8 or int64, present [B, K] uint8
// -> loss [], d loss / d logits or empty
std::tuple<Tensor, Tensor> pixel_loss(const char* op, PixelLossKind kind, const Tensor& logits,
                                      const Tensor& labels, const std::optional<Tensor>& present,
                                      double smoothing, int64_t balance, int64_t ignore_index,
                                      bool resize_logits, bool need_grad);

inline std::tuple<Tensor, Tensor> pixel_cross_entropy(
    const Tensor& logits, const Tensor& labels, double smoothing, int64_t balance,
    int64_t ignore_index, bool resize_logits, bool need_grad) {
  return pixel_loss("pixel_cross_entropy", PixelLossKind::kCrossEntropy, logits, labels,
                    std::nullopt, smoothing, balance, ignore_index, resize_logits, need_grad);
}
WSSS_IMPL(pixel_cross_entropy)

inline std::tuple<Tensor, Tensor> pixel_bce(
    const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& present,
    double smoothing, int64_t balance, int64_t ignore_index, bool resize_logits, bool need_grad) {
  return pixel_loss("pixel_bce", PixelLossKind::kBinary, logits, labels, present, smoothing,
                    balance, ignore_index, resize_logits, need_grad);
}
WSSS_IMPL(pixel_bce)

}  // namespace wsss
