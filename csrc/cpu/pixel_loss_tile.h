// The two losses of a tile of pixels.
#pragma once

#include <cmath>
#include <limits>

#include "class_tile.h"

#include "../math/pixel_loss.h"

namespace wsss {

// Each method writes 64 losses before weighting to `loss`, and replaces the tile's logits by
// weighted gradients if those are needed.
template <class Real>
struct PixelLossTile {
  using Tile = ClassTile<Real>;
  using V = typename Tile::V;
  static constexpr int64_t kTile = Tile::kPixels;
  static constexpr Real kFar = 4096;

  SmoothedTarget target;
  bool need_grad;

  // log sum_k e^(z_k - top) + sum_k t_k (top - z_k): no term is negative.
  void cross_entropy(Tile& tile, const Real* weight, const int32_t* own, Real* loss) const {
    const Real other = static_cast<Real>(target.other),
               more = static_cast<Real>(target.own - target.other);
    const Real infinity = std::numeric_limits<Real>::infinity();
    const int64_t classes = tile.classes;
    Real own_logit[kTile];
    for (int64_t x = 0; x < kTile; ++x) own_logit[x] = tile.row(own[x])[x];
    for (int64_t x = 0; x < kTile; x += Tile::kStep) {
      Real* const first = tile.row(0) + x;
      V below{}, top = read<V>(first);
      if (other > 0) {
        for (int64_t k = 1; k < classes; ++k) {
          const V z = read<V>(first + k * kTile);
          top = top > z ? top : z;
        }
        for (int64_t k = 0; k < classes; ++k) below += top - read<V>(first + k * kTile);
      }
      const auto sums = tile.exponentiate(x);
      // Where a logit is -infinity, `below` is infinite, and so is the loss, whatever `more` is.
      const V distance = sums.top - read<V>(own_logit + x),
              behind = below < infinity ? distance : V{};
      // sum - sum: log_of does not propagate NaN.
      const V total = log_of(sums.exponentials) + (sums.exponentials - sums.exponentials);
      write(loss + x, total + more * behind + other * below);
      if (!need_grad) continue;
      const V w = read<V>(weight + x), scale = w / sums.exponentials, least = w * other;
      for (int64_t k = 0; k < classes; ++k) {
        write(first + k * kTile, read<V>(first + k * kTile) * scale - least);
      }
    }
    if (!need_grad) return;
    for (int64_t x = 0; x < kTile; ++x) tile.row(own[x])[x] -= weight[x] * more;
  }

  // sum_k max(z_k, 0) - t_k z_k + log(1 + e^-|z_k|); not finite where the caller must compute it
  // again: a logit is not finite, or the label's is so large that the other classes' terms are
  // lost.
  void binary(Tile& tile, const uint8_t* present, const Real* weight, const int32_t* own,
              Real* loss) const {
    const Real other = static_cast<Real>(target.other),
               more = static_cast<Real>(target.own - target.other);
    Real more_here[kTile];
    bool far[kTile];
    for (int64_t x = 0; x < kTile; ++x) {
      more_here[x] = present == nullptr || present[own[x]] ? more : Real(0);
      loss[x] = -more_here[x] * (more_here[x] != 0 ? tile.row(own[x])[x] : Real(0));
      far[x] = std::fabs(loss[x]) > kFar;
    }
    for (int64_t k = 0; k < tile.classes; ++k) {
      Real* const row = tile.row(k);
      if (present != nullptr && !present[k]) {
        std::fill(row, row + kTile, Real(0));
        continue;
      }
      for (int64_t x = 0; x < kTile; x += Tile::kStep) {
        const V z = read<V>(row + x), zero{};
        const V positive = z > zero ? z : zero;
        const V e = exp_of(z > zero ? -z : z);
        write(loss + x, read<V>(loss + x) + (positive - other * z + log_of(1 + e)));
        const V sigmoid = (z > zero ? 1 + zero : e) / (1 + e);
        write(row + x, read<V>(weight + x) * (sigmoid - other));
      }
    }
    for (int64_t x = 0; x < kTile; ++x) {
      if (far[x]) loss[x] = std::numeric_limits<Real>::quiet_NaN();
    }
    if (!need_grad) return;
    for (int64_t x = 0; x < kTile; ++x) tile.row(own[x])[x] -= weight[x] * more_here[x];
  }
};

}  // namespace wsss
