// EPS' saliency loss and its gradient on the CPU. Two passes over tasks that may run in
// any order on any thread: first probabilities and overlap counts, then, when an image's
// counts are complete, the loss.
#pragma once

#include <vector>

#include "class_tile.h"
#include "nearest_map.h"

#include "../math/saliency_loss.h"

namespace wsss {

template <class Real>
class SaliencyLossCpu {
 public:
  struct Inputs {
    const Real* logits;      // [B, K, h, w]
    const Real* saliency;    // [B, H, W]
    const uint8_t* present;  // [B, K - 1]
  };
  struct Outputs {
    Real *foreground, *background, *estimate;  // [B, h, w]
    // [B, K, h, w]. Between the passes it holds probabilities, and `estimate` the saliency.
    Real* grad;
  };

  SaliencyLossCpu(const SaliencyShape& shape, double tau, double lam, bool adaptive,
                  const std::vector<int64_t>& always_background, const Inputs& in,
                  const Outputs& out)
      : s_(shape),
        tau_(tau),
        lam_(lam),
        adaptive_(adaptive),
        in_(in),
        out_(out),
        chunks_((shape.pixels() + kChunk - 1) / kChunk),
        saliency_(
            in.saliency, shape.saliency_height, shape.saliency_width, shape.height, shape.width),
        roles_(shape.images * shape.channels, Role::kNeither),
        counts_(tasks() * shape.channels),
        losses_(tasks()) {
    for (int64_t b = 0; b < s_.images; ++b) {
      Role* roles = roles_.data() + b * s_.channels;
      roles[0] = Role::kBackground;
      for (int64_t k = 1; k < s_.channels; ++k) {
        if (in_.present[b * (s_.channels - 1) + k - 1]) roles[k] = Role::kForeground;
      }
      for (int64_t k : always_background) {
        if (roles[k] == Role::kForeground) roles[k] = Role::kBackground;
      }
    }
  }

  int64_t tasks() const { return s_.images * chunks_; }

  // Both passes for whole images, whose probabilities stay in the cache of one thread.
  void run_images(int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      count_overlap(b * chunks_, (b + 1) * chunks_);
      assign_roles(b);
      compute_losses(b * chunks_, (b + 1) * chunks_);
    }
  }

  void count_overlap(int64_t first, int64_t last) {
    ClassTile<Real> tile(s_.channels);
    for (int64_t task = first; task < last; ++task) {
      const Role* roles = roles_.data() + task / chunks_ * s_.channels;
      Count* counts = counts_.data() + task * s_.channels;
      for_each_tile(task, [&](int64_t image, int64_t at, int64_t pixels) {
        const int64_t place = image * s_.channels * s_.pixels() + at;
        saliency_.prefetch(image, at, pixels);
        tile.load(in_.logits + place, s_.pixels(), pixels);
        const int64_t next = std::min(kTile, s_.pixels() - at - pixels);
        tile.prefetch(in_.logits + place + pixels, s_.pixels(), next);
        tile.prefetch(out_.grad + place, s_.pixels(), pixels);
        tile.softmax(out_.grad + place, s_.pixels(), pixels);
        Real* salient = out_.estimate + image * s_.pixels() + at;
        saliency_.read(image, at, pixels, salient);
        int32_t valid = 1;
        for (int64_t x = 0; x < pixels; ++x) valid &= (salient[x] >= 0) & (salient[x] <= 1);
        counts[0].area += !valid;
        if (!adaptive_) return;
        int32_t undefined = 0;
        for (int64_t x = 0; x < pixels; ++x) undefined += tile.row(0)[x] != tile.row(0)[x];
        counts[0].both += undefined;
        for (int64_t k = 1; k < s_.channels; ++k) {
          if (roles[k] != Role::kForeground) continue;
          int32_t area = 0, both = 0;
          for (int64_t x = 0; x < pixels; ++x) {
            const int32_t wins = tile.row(k)[x] > Real(0.5);
            area += wins;
            both += wins & (salient[x] > Real(0.5));
          }
          counts[k].area += area;
          counts[k].both += both;
        }
      });
    }
  }

  // Between the passes, for each image.
  void assign_roles(int64_t image) {
    int64_t undefined = 0;
    for (int64_t task = image * chunks_; task < (image + 1) * chunks_; ++task) {
      undefined += counts_[task * s_.channels].both;
    }
    for (int64_t k = 1; adaptive_ && k < s_.channels; ++k) {
      Role& role = roles_[image * s_.channels + k];
      if (role != Role::kForeground) continue;
      int64_t area = 0, both = 0;
      for (int64_t task = image * chunks_; task < (image + 1) * chunks_; ++task) {
        area += counts_[task * s_.channels + k].area;
        both += counts_[task * s_.channels + k].both;
      }
      if (undefined > 0 || !is_salient(area, both, s_.pixels(), tau_)) role = Role::kBackground;
    }
  }

  void compute_losses(int64_t first, int64_t last) {
    Real maps[2][kTile], estimate[kTile], slope[kTile], level[kTile], squares[kTile] = {};
    const Real lam = static_cast<Real>(lam_), rest = static_cast<Real>(1 - lam_);
    const Real scale = Real(2) / static_cast<Real>(s_.images * s_.pixels());
    for (int64_t task = first; task < last; ++task) {
      const Role* roles = roles_.data() + task / chunks_ * s_.channels;
      double loss = 0;
      for_each_tile(task, [&](int64_t image, int64_t at, int64_t pixels) {
        const int64_t plane = s_.pixels(), place = image * plane + at;
        Real* p = out_.grad + image * s_.channels * plane + at;
        for (auto& map : maps) std::fill(map, map + kTile, Real(0));
        for (int64_t k = 0; k < s_.channels; ++k) {
          if (roles[k] == Role::kNeither) continue;
          Real* map = maps[roles[k] == Role::kBackground];
          for (int64_t x = 0; x < pixels; ++x) map[x] += p[k * plane + x];
        }
        const Real* salient = out_.estimate + place;
        for (int64_t x = 0; x < pixels; ++x) {
          estimate[x] = lam * maps[0][x] + rest * (1 - maps[1][x]);
          const Real error = estimate[x] - salient[x];
          squares[x] = error * error;
          slope[x] = error * scale;
          level[x] = lam * maps[0][x] - rest * maps[1][x];  // mean slope under the probabilities
        }
        std::fill(squares + pixels, squares + kTile, Real(0));
        loss += ClassTile<Real>::sum(squares);
        ClassTile<Real>::copy(out_.foreground + place, maps[0], pixels);
        ClassTile<Real>::copy(out_.background + place, maps[1], pixels);
        ClassTile<Real>::copy(out_.estimate + place, estimate, pixels);
        for (int64_t k = 0; k < s_.channels; ++k) {
          const Real role_slope = roles[k] == Role::kNeither      ? Real(0)
                                  : roles[k] == Role::kForeground ? lam
                                                                  : -rest;
          Real* to = p + k * plane;
          for (int64_t x = 0; x < pixels; ++x) to[x] *= slope[x] * (role_slope - level[x]);
        }
      });
      losses_[task] = loss;
    }
  }

  // Summed in the tasks' order, so that the result does not depend on the threads; 0 without
  // pixels, NaN if a saliency is outside 0..1.
  double loss() const {
    double sum = 0;
    for (int64_t task = 0; task < tasks(); ++task) {
      if (counts_[task * s_.channels].area > 0) return NAN;
      sum += losses_[task];
    }
    return losses_.empty() ? 0 : sum / static_cast<double>(s_.images * s_.pixels());
  }

 private:
  static constexpr int64_t kTile = ClassTile<Real>::kPixels, kChunk = 16 * kTile;
  struct Count {
    int64_t area = 0, both = 0;
  };

  template <class Visit>
  void for_each_tile(int64_t task, Visit visit) const {
    const int64_t first = task % chunks_ * kChunk, last = std::min(first + kChunk, s_.pixels());
    for (int64_t at = first; at < last; at += kTile) {
      visit(task / chunks_, at, std::min(kTile, last - at));
    }
  }

  const SaliencyShape s_;
  const double tau_, lam_;
  const bool adaptive_;
  const Inputs in_;
  const Outputs out_;
  const int64_t chunks_;
  const NearestMap<Real> saliency_;
  std::vector<Role> roles_;  // [B, K]
  // [tasks, K]; for the background: tiles with invalid saliency, and pixels whose probabilities are
  // NaN. These make every ratio NaN, which is not above tau.
  std::vector<Count> counts_;
  std::vector<double> losses_;
};

}  // namespace wsss
