// Labels whose energies are equal everywhere have equal Q: the mean field carries one of them and
// counts it. (With image tags most labels are absent, and absent ones get the same energy.)
#pragma once

#include <cstring>
#include <unordered_map>
#include <vector>

#include "team.h"

namespace wsss {

// The labels of one unary: label l belongs to group[l]; groups in order of their first label.
struct LabelGroups {
  std::vector<int> group;    // [L]
  std::vector<int> first;    // [G] the label that stands for the group
  std::vector<float> count;  // [G]
};

// Every thread of a team calls merge(); the groups of all S unaries are ready when it returns.
class LabelMerger {
 public:
  LabelMerger(int sets, int labels, int64_t pixels, int threads)
      : labels_(labels),
        pixels_(pixels),
        twin_(static_cast<size_t>(sets) * labels),
        differs_(threads),
        groups_(sets) {}

  const std::vector<LabelGroups>& groups() const { return groups_; }

  // unary [S, L, pixels]
  void merge(Team& team, int rank, const float* unary) {
    if (rank == 0) guess(unary);
    team.barrier();
    compare(team, rank, unary);
    team.barrier();
    if (rank == 0) number();
    team.barrier();
  }

 private:
  // A label's twin: the first label that has the same energy at a few pixels; itself if there is
  // none.
  void guess(const float* unary) {
    for (size_t plane = 0; plane < twin_.size(); ++plane) {
      const size_t set = plane / labels_;
      twin_[plane] = static_cast<int>(plane);
      for (size_t other = set * labels_; other < plane; ++other) {
        if (twin_[other] == static_cast<int>(other) &&
            seem_equal(unary + plane * pixels_, unary + other * pixels_)) {
          twin_[plane] = static_cast<int>(other);
          break;
        }
      }
    }
  }

  bool seem_equal(const float* a, const float* b) const {
    constexpr int64_t kSamples = 7;
    for (int64_t i = 0; i < kSamples; ++i) {
      const int64_t at = (pixels_ - 1) * i / (kSamples - 1);
      if (std::memcmp(a + at, b + at, sizeof(float)) != 0) return false;
    }
    return true;
  }

  // Thread `rank` compares its share of the pixels, a piece at a time that stays in cache.
  void compare(Team& team, int rank, const float* unary) {
    constexpr int64_t kPiece = 4096;
    auto& differs = differs_[rank];
    differs.assign(twin_.size(), 0);
    const auto [first, last] = Team::part(pixels_, rank, team.size());
    for (int64_t p = first; p < last; p += kPiece) {
      const size_t bytes = sizeof(float) * static_cast<size_t>(std::min(kPiece, last - p));
      for (size_t plane = 0; plane < twin_.size(); ++plane) {
        if (twin_[plane] == static_cast<int>(plane) || differs[plane]) continue;
        differs[plane] = std::memcmp(unary + plane * pixels_ + p,
                                     unary + twin_[plane] * pixels_ + p, bytes) != 0;
      }
    }
  }

  void number() {
    for (size_t set = 0; set < groups_.size(); ++set) {
      LabelGroups& g = groups_[set];
      g = {std::vector<int>(labels_), {}, {}};
      for (int l = 0; l < labels_; ++l) {
        const size_t plane = set * labels_ + l;
        bool alone = twin_[plane] == static_cast<int>(plane);
        for (const auto& differs : differs_) alone = alone || differs[plane];
        if (alone) {
          g.group[l] = static_cast<int>(g.first.size());
          g.first.push_back(l);
          g.count.push_back(0.0f);
        } else {
          g.group[l] = g.group[twin_[plane] - set * labels_];
        }
        g.count[g.group[l]] += 1.0f;
      }
    }
  }

  const int labels_;
  const int64_t pixels_;
  std::vector<int> twin_;                      // [S * L]
  std::vector<std::vector<uint8_t>> differs_;  // per thread: [S * L]
  std::vector<LabelGroups> groups_;
};

}  // namespace wsss
