// The 8-connected regions of an image's salient pixels, with the number of active pixels in each,
// found row by row: runs of salient pixels are joined where they touch a run of the row above
// (union-find, Rosenfeld and Pfaltz 1966).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace wsss {

class SalientRegions {
 public:
  struct Run {
    int64_t y, first, last;  // pixels [first, last) of row y
    int64_t parent;          // an earlier run of the same region, or itself: the region's root
    int64_t area, active;    // pixels of the run; after finish(), a root's are those of its region
  };

  // Rows must be added in order; salient and active [width] are 0 or 1.
  void add_row(int64_t y, const uint8_t* salient, const uint8_t* active, int64_t width) {
    size_t above = row_, above_end = runs_.size();
    row_ = runs_.size();
    for (int64_t x = 0; x < width; ++x) {
      if (!salient[x]) continue;
      Run run{y, x, x, static_cast<int64_t>(runs_.size()), 0, 0};
      for (; x < width && salient[x]; ++x) run.active += active[x];
      run.last = x;
      run.area = run.last - run.first;
      runs_.push_back(run);
      // Diagonal neighbours touch: a run above may end where this one begins, or begin where it
      // ends.
      while (above < above_end && runs_[above].last < run.first) ++above;
      for (size_t i = above; i < above_end && runs_[i].first <= run.last; ++i) {
        join(i, runs_.size() - 1);
      }
    }
  }

  void finish() {
    for (size_t i = 0; i < runs_.size(); ++i) {
      const int64_t top = root(i);
      if (top == static_cast<int64_t>(i)) continue;
      runs_[top].area += runs_[i].area;
      runs_[top].active += runs_[i].active;
    }
  }

  const std::vector<Run>& runs() const { return runs_; }
  const Run& region(const Run& run) { return runs_[root(run.parent)]; }

  void clear() {
    runs_.clear();
    row_ = 0;
  }

 private:
  int64_t root(int64_t i) {
    while (runs_[i].parent != i) i = runs_[i].parent = runs_[runs_[i].parent].parent;
    return i;
  }

  void join(int64_t a, int64_t b) {
    a = root(a), b = root(b);
    runs_[std::max(a, b)].parent = std::min(a, b);
  }

  std::vector<Run> runs_;
  size_t row_ = 0;  // the first run of the last row
};

}  // namespace wsss
