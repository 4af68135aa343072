// The neighbours and affinities of PAR and PAMR, as both backends compute them.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "scalar.h"

namespace wsss {

constexpr int64_t kMaxDilation = 1000000;

// The neighbours of a pixel at one dilation, row by row without the pixel itself, in multiples of
// the dilation.
constexpr int kRing = 8;
WSSS_HD int ring_y(int k) { return (k + (k >= kRing / 2)) / 3 - 1; }
WSSS_HD int ring_x(int k) { return (k + (k >= kRing / 2)) % 3 - 1; }

// What |neighbour - pixel| of a channel is multiplied by; `deviation` is the channel's standard
// deviation around the pixel.
template <class F>
WSSS_HD F colour_scale(F deviation, bool pamr) {
  return 1.0f / (pamr ? 0.1f * deviation + 1e-8f : 0.3f * (deviation + 1e-8f));
}

// A channel's part of the distance in colour, whose mean over the channels is the negative
// logarithm of a neighbour's weight; `scaled` is (neighbour - pixel) colour_scale.
template <class F>
WSSS_HD F colour_distance(F scaled, bool pamr) {
  if (!pamr) return scaled * scaled;
  return scaled < 0 ? -scaled : scaled;
}

// Of a neighbour at one dilation: beside, above or below the pixel, or diagonal from it.
struct PositionWeights {
  float straight, diagonal;

  WSSS_HD float at(int k) const { return ring_y(k) * ring_x(k) == 0 ? straight : diagonal; }
};

// 0.01 softmax(-(distance / deviation / 0.3)^2) over all neighbours.
inline std::vector<PositionWeights> position_weights(const std::vector<int64_t>& dilations) {
  const double root2 = std::sqrt(2.0), count = kRing * static_cast<double>(dilations.size());
  double mean = 0, squares = 0, nearest = INFINITY, sum = 0;
  for (const int64_t d : dilations)
    mean += kRing / 2 * (1 + root2) * static_cast<double>(d) / count;
  for (const int64_t d : dilations) {
    const double straight = static_cast<double>(d) - mean,
                 diagonal = root2 * static_cast<double>(d) - mean;
    squares += kRing / 2 * (straight * straight + diagonal * diagonal);
    nearest = std::fmin(nearest, static_cast<double>(d));
  }
  const double deviation = std::sqrt(squares / (count - 1)) + 1e-8;
  const auto weight = [&](double distance) {
    const double by = 1 / (0.3 * deviation);
    return std::exp((nearest * nearest - distance * distance) * by * by);
  };
  for (const int64_t d : dilations) {
    const auto straight = static_cast<double>(d);
    sum += kRing / 2 * (weight(straight) + weight(root2 * straight));
  }
  std::vector<PositionWeights> weights;
  for (const int64_t d : dilations) {
    const auto straight = static_cast<double>(d);
    weights.push_back({static_cast<float>(0.01 * weight(straight) / sum),
                       static_cast<float>(0.01 * weight(root2 * straight) / sum)});
  }
  return weights;
}

}  // namespace wsss
