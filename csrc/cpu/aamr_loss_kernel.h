// The activation-aware mask refinement loss and its gradient on the CPU. Finding the labelled
// region needs whole images, and its size the whole batch; loss and gradient follow in one pass
// over tasks, in any order on any thread.
#pragma once

#include <vector>

#include "class_tile.h"
#include "nearest_map.h"
#include "salient_regions.h"

#include "../math/aamr_loss.h"

namespace wsss {

template <class Real>
class AamrLossCpu {
 public:
  struct Inputs {
    const Real* logits;    // [B, K, h, w]
    const Real* saliency;  // [B, H, W]
    const Real* response;  // [B, H', W']
  };
  struct Outputs {
    uint8_t* region;  // [B, h, w]: 1 where the loss is taken
    Real* grad;       // [B, K, h, w]
  };

  AamrLossCpu(const AamrShape& shape, double salient, double active, double overlap,
              const Inputs& in, const Outputs& out)
      : s_(shape),
        salient_(static_cast<Real>(salient)),
        active_(static_cast<Real>(active)),
        overlap_(overlap),
        in_(in),
        out_(out),
        chunks_((shape.pixels() + kChunk - 1) / kChunk),
        saliency_(
            in.saliency, shape.saliency_height, shape.saliency_width, shape.height, shape.width),
        response_(
            in.response, shape.response_height, shape.response_width, shape.height, shape.width),
        counts_(shape.images),
        losses_(tasks()) {}

  int64_t tasks() const { return s_.images * chunks_; }

  // First: finds the regions of images [first, last).
  void mark_regions(int64_t first, int64_t last) {
    SalientRegions regions;
    std::vector<Real> values(2 * s_.width);
    std::vector<uint8_t> flags(2 * s_.width);
    Real *saliency = values.data(), *response = saliency + s_.width;
    uint8_t *salient = flags.data(), *active = salient + s_.width;
    for (int64_t image = first; image < last; ++image) {
      uint8_t* region = out_.region + image * s_.pixels();
      int64_t inside = 0;
      int32_t valid = 1;
      regions.clear();
      for (int64_t y = 0; y < s_.height; ++y) {
        saliency_.read(image, y * s_.width, s_.width, saliency);
        response_.read(image, y * s_.width, s_.width, response);
        int32_t quiet = 0;
        for (int64_t x = 0; x < s_.width; ++x) {
          valid &= (saliency[x] >= 0) & (saliency[x] <= 1) & (response[x] == response[x]);
          salient[x] = saliency[x] >= salient_;
          active[x] = response[x] >= active_;
          region[y * s_.width + x] = !salient[x] & !active[x];
          quiet += !salient[x] & !active[x];
        }
        inside += quiet;
        regions.add_row(y, salient, active, s_.width);
      }
      regions.finish();
      for (const auto& run : regions.runs()) {
        const auto& whole = regions.region(run);
        if (!is_labelled(whole.area, whole.active, overlap_)) continue;
        std::fill(region + run.y * s_.width + run.first, region + run.y * s_.width + run.last,
                  uint8_t{1});
        inside += run.last - run.first;
      }
      counts_[image] = {inside, valid == 0};
    }
  }

  // Then: sums the counts of all images.
  void reduce_counts() {
    inside_ = 0;
    invalid_ = false;
    for (const Count& count : counts_) {
      inside_ += count.inside;
      invalid_ = invalid_ || count.invalid;
    }
  }

  // Last: losses and gradients of tasks [first, last).
  void compute_losses(int64_t first, int64_t last) {
    ClassTile<Real> classes(s_.channels - 1);
    Real background[kTile], saliency[kTile], inside[kTile], terms[kTile];
    for (int64_t task = first; task < last; ++task) {
      const int64_t image = task / chunks_, begin = task % chunks_ * kChunk,
                    end = std::min(begin + kChunk, s_.pixels());
      double loss = 0;
      for (int64_t at = begin; at < end; at += kTile) {
        const int64_t pixels = std::min(kTile, end - at), plane = s_.pixels();
        const uint8_t* region = out_.region + image * plane + at;
        const Real* logits = in_.logits + image * s_.channels * plane + at;
        Real* grad = out_.grad + image * s_.channels * plane + at;
        if (std::find(region, region + pixels, uint8_t{1}) == region + pixels) {
          for (int64_t k = 0; k < s_.channels; ++k) {
            std::fill(grad + k * plane, grad + k * plane + pixels, Real(0));
          }
          continue;
        }
        classes.load(logits + plane, plane, pixels);
        for (Real* row : {background, saliency, inside}) {
          std::fill(row + pixels, row + kTile, Real(0));
        }
        ClassTile<Real>::copy(background, logits, pixels);
        saliency_.read(image, at, pixels, saliency);
        for (int64_t x = 0; x < pixels; ++x) inside[x] = region[x];
        differentiate(classes, saliency, inside, background, terms);
        ClassTile<Real>::copy(grad, background, pixels);
        classes.store(grad + plane, plane, pixels);
        loss += ClassTile<Real>::sum(terms);
      }
      losses_[task] = loss;
    }
  }

  // Summed in the tasks' order, so that the result does not depend on the threads; 0 without a
  // region, NaN if a saliency is outside 0..1 or a response is NaN.
  double loss() const {
    double sum = 0;
    for (double loss : losses_) sum += loss;
    return invalid_ ? NAN : inside_ ? sum / static_cast<double>(inside_) : 0;
  }

 private:
  using V = typename SimdOf<Real>::V;
  static constexpr int64_t kTile = ClassTile<Real>::kPixels, kChunk = 16 * kTile;
  struct Count {
    int64_t inside = 0;    // pixels of the region
    bool invalid = false;  // whether there are invalid inputs
  };

  // Replaces logits by their gradients, which are 0 outside the region, whatever the logits are.
  void differentiate(ClassTile<Real>& classes, const Real* saliency, const Real* inside,
                     Real* background, Real* terms) const {
    const V weight = V{} + static_cast<Real>(1 / static_cast<double>(inside_));
    for (int64_t x = 0; x < kTile; x += ClassTile<Real>::kStep) {
      const auto [top, sum] = classes.exponentiate(x);
      // sum - sum: log_of does not propagate NaN.
      const V log_odds = top - read<V>(background + x) + (log_of(sum) + (sum - sum));
      const V small = exp_of(log_odds > V{} ? -log_odds : log_odds);
      const AamrTerm<V> term = aamr_term(log_odds, read<V>(saliency + x), small, log_of(1 + small));
      const V counts = read<V>(inside + x), slope = term.slope * weight, inverse = 1 / sum;
      write(terms + x, counts > V{} ? term.loss : V{});
      write(background + x, counts > V{} ? -slope : V{});
      for (int64_t k = 0; k < classes.classes; ++k) {
        Real* row = classes.row(k) + x;
        write(row, counts > V{} ? slope * (read<V>(row) * inverse) : V{});
      }
    }
  }

  const AamrShape s_;
  const Real salient_, active_;
  const double overlap_;
  const Inputs in_;
  const Outputs out_;
  const int64_t chunks_;
  const NearestMap<Real> saliency_, response_;
  std::vector<Count> counts_;   // by image
  std::vector<double> losses_;  // by task
  int64_t inside_ = 0;          // pixels of the regions of all images
  bool invalid_ = false;
};

}  // namespace wsss
