// The neighbourhood and the affinities of IRN's random walk, as both backends compute them.
#pragma once

#include <cstdint>

#include "scalar.h"

namespace wsss {

constexpr int64_t kMaxWalkRadius = 32;  // 3,204 neighbours

struct WalkShape {
  int64_t height, width;
  int radius;

  WSSS_HD int reach() const { return radius - 1; }
  // Each row is followed by `reach` border cells, which also border the next row on its left.
  WSSS_HD int64_t stride() const { return width + reach(); }
  WSSS_HD int64_t cells() const { return height * stride(); }
  // The largest distance of a neighbour before the first cell or after the last one.
  WSSS_HD int64_t margin() const { return reach() * (stride() + 1); }
};

// Neighbours of row offset `y` are x in -half_width..half_width: those with x^2 + y^2 < radius^2.
WSSS_HD int half_width(int radius, int y) {
  int x = radius - 1;
  while (x > 0 && x * x + y * y >= radius * radius) --x;
  return x;
}

WSSS_HD int neighbours(int radius) {
  int count = -1;  // without the cell itself
  for (int y = 1 - radius; y < radius; ++y) count += 2 * half_width(radius, y) + 1;
  return count;
}

// Whether (y, x), in the rectangle spanned by (0, 0) and (to_y, to_x), is closer than
// 1 to the line between these.
WSSS_HD bool on_path(int to_y, int to_x, int y, int x) {
  const int cross = to_y * x - to_x * y;
  return cross * cross < to_y * to_y + to_x * to_x;
}

// Calls visit(y, x) for the cells of the path from (0, 0) to (to_y, to_x), both ends included.
template <class Visit>
WSSS_HD void for_each_on_path(int to_y, int to_x, Visit visit) {
  const int top = to_y < 0 ? to_y : 0, bottom = to_y < 0 ? 0 : to_y;
  const int left = to_x < 0 ? to_x : 0, right = to_x < 0 ? 0 : to_x;
  for (int y = top; y <= bottom; ++y) {
    for (int x = left; x <= right; ++x) {
      if (on_path(to_y, to_x, y, x)) visit(y, x);
    }
  }
}

// a^n for n >= 1 by squaring, with the same roundings on every device.
template <class T>
WSSS_HD T integer_power(T a, int n) {
  while (n % 2 == 0) {
    a = a * a;
    n /= 2;
  }
  T product = a;
  for (n /= 2; n > 0; n /= 2) {
    a = a * a;
    if (n % 2) product = product * a;
  }
  return product;
}
constexpr int kMaxIntegerPower = 1024;

}  // namespace wsss
