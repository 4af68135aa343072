// Labels whose energies are equal everywhere have equal Q: the mean field computes one of them
// and counts it several times. (With image-level labels most labels are absent, and all absent
// labels get the same energy.)
#pragma once

#include <cstring>
#include <unordered_map>
#include <vector>

#include "team.h"

namespace wsss {

// The groups of equal labels of one unary, in order of their first label.
struct LabelGroups {
  std::vector<int> group;    // [L] the group of each label
  std::vector<int> first;    // [G] the first label of each group, which represents it
  std::vector<float> count;  // [G] labels in each group
};

// Every thread of a team calls merge(); when it returns, the groups of all S unaries are complete.
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
    if (rank == 0) find_candidates(unary);
    team.barrier();
    compare(team, rank, unary);
    team.barrier();
    if (rank == 0) assign_groups();
    team.barrier();
  }

 private:
  // A label's twin is the first label with the same energy at a few pixels; itself if there is
  // none.
  void find_candidates(const float* unary) {
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

  // Thread `rank` compares its part of the pixels, in chunks that stay in cache.
  void compare(Team& team, int rank, const float* unary) {
    constexpr int64_t kChunk = 4096;
    auto& differs = differs_[rank];
    differs.assign(twin_.size(), 0);
    const auto [first, last] = Team::part(pixels_, rank, team.size());
    for (int64_t p = first; p < last; p += kChunk) {
      const size_t bytes = sizeof(float) * static_cast<size_t>(std::min(kChunk, last - p));
      for (size_t plane = 0; plane < twin_.size(); ++plane) {
        if (twin_[plane] == static_cast<int>(plane) || differs[plane]) continue;
        differs[plane] = std::memcmp(unary + plane * pixels_ + p,
                                     unary + twin_[plane] * pixels_ + p, bytes) != 0;
      }
    }
  }

  void assign_groups() {
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
