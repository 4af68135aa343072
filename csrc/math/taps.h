// The taps of a sum of dilated convolutions:
//   logits[y, x] += weight[t] . features[y + dy[t], x + dx[t]]
//
// Equal shifts of different branches are merged into one tap (as for all centres), and shifts that
// leave the map are dropped: AMN's 36 taps become 33 at 32x32 and 17 at 16x16. Taps are sorted by
// dy, so that those which read a given row of features are a contiguous range.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "scalar.h"

namespace wsss {

struct HeadShape {
  int64_t labels, channels, height, width, branches, cells;  // cells: k * k weights of a kernel
  WSSS_HD int64_t pixels() const { return height * width; }
};

// The labels [first, last): a share of all, processed together.
struct LabelShare {
  int64_t first, last;
  WSSS_HD int64_t count() const { return last - first; }
};

struct Taps {
  std::vector<int64_t> dy, dx;  // [T] shifts in cells, sorted by dy, then dx
  std::vector<int64_t> first;   // [T + 1] where a tap's sources start in `source`
  std::vector<int64_t> source;  // branch * k * k + position in the kernel
  int64_t count() const { return static_cast<int64_t>(dy.size()); }
};

// Kernel size `k` is 1 or 3.
inline Taps plan_taps(const std::vector<int64_t>& dilations, int64_t k, int64_t height,
                      int64_t width) {
  struct Shift {
    int64_t dy, dx, source;
  };
  std::vector<Shift> shifts;
  const int64_t cells = k * k;
  for (size_t r = 0; r < dilations.size(); ++r) {
    for (int64_t i = 0; i < cells; ++i) {
      const int64_t row = i / k - k / 2, column = i % k - k / 2;  // -1, 0, 1
      // Compared without multiplying: a dilation may be as large as an int64.
      if ((row && dilations[r] >= height) || (column && dilations[r] >= width)) continue;
      shifts.push_back(
          {row * dilations[r], column * dilations[r], static_cast<int64_t>(r) * cells + i});
    }
  }
  std::sort(shifts.begin(), shifts.end(), [](const Shift& a, const Shift& b) {
    return a.dy != b.dy ? a.dy < b.dy : a.dx != b.dx ? a.dx < b.dx : a.source < b.source;
  });
  Taps taps;
  for (const Shift& s : shifts) {
    if (taps.dy.empty() || taps.dy.back() != s.dy || taps.dx.back() != s.dx) {
      taps.first.push_back(static_cast<int64_t>(taps.source.size()));
      taps.dy.push_back(s.dy);
      taps.dx.push_back(s.dx);
    }
    taps.source.push_back(s.source);
  }
  taps.first.push_back(static_cast<int64_t>(taps.source.size()));
  return taps;
}

// Rows [y0, y1) of the features, and the taps [t0, t1) that read some of them.
struct Band {
  int64_t y0, y1, t0, t1;
};

// Bands of `rows` rows that cover the map. A tap reads row y when the row it
// adds to, y - dy, is on the map.
inline std::vector<Band> plan_bands(const Taps& taps, int64_t height, int64_t rows) {
  std::vector<Band> bands;
  for (int64_t y0 = 0; y0 < height; y0 += rows) {
    const int64_t y1 = std::min(y0 + rows, height);
    const auto begin = taps.dy.begin(), end = taps.dy.end();
    bands.push_back({y0, y1, std::upper_bound(begin, end, y0 - height) - begin,
                     std::lower_bound(begin, end, y1) - begin});
  }
  return bands;
}

}  // namespace wsss
