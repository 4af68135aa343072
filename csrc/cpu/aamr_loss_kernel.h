// The activation-aware mask refinement loss and its gradient on the CPU. Which pixels count needs
// whole images, and how many they are the whole batch; after that, loss and gradient in one pass
// over tasks in any order on any thread.
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
        marks_(shape.images),
        losses_(tasks()) {}

  int64_t tasks() const { return s_.images * chunks_; }

  // The region of images, first of all.
  void mark(int64_t first, int64_t last) {
    SalientRegions regions;
    std::vector<Real> values(2 * s_.width);
    std::vector<uint8_t> flags(2 * s_.width);
    Real *saliency = values.data(), *response = saliency + s_.width;
    uint8_t *salient = flags.data(), *active = salient + s_.width;
    for (int64_t image = first; image < last; ++image) {
      uint8_t* region = out_.region + image * s_.pixels();
      int64_t inside = 0;
      int32_t right = 1;
      regions.clear();
      for (int64_t y = 0; y < s_.height; ++y) {
        saliency_.read(image, y * s_.width, s_.width, saliency);
        response_.read(image, y * s_.width, s_.width, response);
        int32_t quiet = 0;
        for (int64_t x = 0; x < s_.width; ++x) {
          right &= (saliency[x] >= 0) & (saliency[x] <= 1) & (response[x] == response[x]);
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
      marks_[image] = {inside, right == 0};
    }
  }

  // Between the passes: how many pixels share the loss.
  void settle() {
    inside_ = 0;
    wrong_ = false;
    for (const Mark& mark : marks_) {
      inside_ += mark.inside;
      wrong_ = wrong_ || mark.wrong;
    }
  }

  void compare(int64_t first, int64_t last) {
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

  // Summed in the tasks' order, so that threads do not matter; 0 without a region, NaN if saliency
  // left 0..1 or the response is NaN somewhere.
  double loss() const {
    double sum = 0;
    for (double loss : losses_) sum += loss;
    return wrong_ ? NAN : inside_ ? sum / static_cast<double>(inside_) : 0;
  }

 private:
  using V = typename Together<Real>::V;
  static constexpr int64_t kTile = ClassTile<Real>::kPixels, kChunk = 16 * kTile;
  struct Mark {
    int64_t inside = 0;
    bool wrong = false;
  };

  // Logits become their gradients; pixels outside the region have none, whatever their logits are.
  void differentiate(ClassTile<Real>& classes, const Real* saliency, const Real* inside,
                     Real* background, Real* terms) const {
    const V share = V{} + static_cast<Real>(1 / static_cast<double>(inside_));
    for (int64_t x = 0; x < kTile; x += ClassTile<Real>::kStep) {
      const auto [top, sum] = classes.exponentiate(x);
      // log_of knows no NaN; its sum here is NaN or at least 1.
      const V odds = top - read<V>(background + x) + (log_of(sum) + (sum - sum));
      const V small = exp_of(odds > V{} ? -odds : odds);
      const AamrTerm<V> term = aamr_term(odds, read<V>(saliency + x), small, log_of(1 + small));
      const V counts = read<V>(inside + x), pull = term.pull * share, inverse = 1 / sum;
      write(terms + x, counts > V{} ? term.loss : V{});
      write(background + x, counts > V{} ? -pull : V{});
      for (int64_t k = 0; k < classes.classes; ++k) {
        Real* row = classes.row(k) + x;
        write(row, counts > V{} ? pull * (read<V>(row) * inverse) : V{});
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
  std::vector<Mark> marks_;     // of the images
  std::vector<double> losses_;  // of the tasks
  int64_t inside_ = 0;          // pixels of the region, in the whole batch
  bool wrong_ = false;
};

}  // namespace wsss
