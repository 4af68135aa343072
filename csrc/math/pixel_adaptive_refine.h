// PAR and PAMR: a pixel's neighbours and what their weights are made of.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "scalar.h"

namespace wsss {

constexpr int kNeighbours = 8;                    // of a pixel, for each dilation
constexpr int64_t kMaxRefineDilation = 1'000'000;  // the same as in ops/pixel_adaptive_refine.py

// Direction (y, x) of neighbours 0..7: row by row, without the pixel itself.
WSSS_HD int neighbour_y(int n) { return n < 3 ? -1 : n < 5 ? 0 : 1; }
WSSS_HD int neighbour_x(int n) { return n < 3 ? n - 1 : n < 5 ? 2 * n - 7 : n - 6; }

// masks [images, masks, height, width], image [images, channels, height, width]
struct RefineShape {
  int64_t images, masks, channels, height, width;
  std::vector<int64_t> dilations;
  bool pamr;

  int64_t pixels() const { return height * width; }
  int neighbours() const { return static_cast<int>(dilations.size()) * kNeighbours; }

  // Distance to the neighbours of a dilation in rows and columns. The border is repeated, so a step
  // across the whole image already reaches it.
  int64_t step_y(int64_t dilation) const { return std::min(dilation, height - 1); }
  int64_t step_x(int64_t dilation) const { return std::min(dilation, width - 1); }

  int64_t largest() const { return *std::max_element(dilations.begin(), dilations.end()); }
  int64_t reach_y() const { return step_y(largest()); }
  int64_t reach_x() const { return step_x(largest()); }

  // Number of values of which a channel's standard deviation is taken: those of the neighbours, and
  // in PAMR the pixel's own for each dilation.
  int samples() const { return static_cast<int>(dilations.size()) * (kNeighbours + pamr); }
};

// What a difference of colours is multiplied by before refine_term, given the standard deviation.
template <class F>
WSSS_HD F refine_scale(F deviation, bool pamr) {
  return pamr ? 1.0f / (1e-8f + 0.1f * deviation) : 1.0f / ((deviation + 1e-8f) * 0.3f);
}

// The negative exponent that a channel contributes.
template <class F>
WSSS_HD F refine_term(F scaled_difference, bool pamr) {
  const F x = scaled_difference;
  return pamr ? (x < 0.0f ? -x : x) : x * x;
}

// The part of the weights that depends on the distance alone, [neighbours]; PAMR has none.
inline std::vector<float> position_weights(const RefineShape& shape) {
  std::vector<float> weights(shape.neighbours(), 0.0f);
  if (shape.pamr) return weights;
  std::vector<double> terms;
  double sum = 0, squares = 0, total = 0;
  for (const int64_t d : shape.dilations) {
    for (int n = 0; n < kNeighbours; ++n) {
      terms.push_back(d * std::hypot(neighbour_y(n), neighbour_x(n)));
      sum += terms.back();
    }
  }
  const double count = static_cast<double>(terms.size()), mean = sum / count;
  for (const double t : terms) squares += (t - mean) * (t - mean);
  const double scale = 1 / ((std::sqrt(squares / (count - 1)) + 1e-8) * 0.3);
  for (double& t : terms) t = -(t * scale) * (t * scale);
  const double highest = *std::max_element(terms.begin(), terms.end());
  for (double& t : terms) total += t = std::exp(t - highest);
  for (size_t n = 0; n < terms.size(); ++n) weights[n] = static_cast<float>(0.01 * terms[n] / total);
  return weights;
}

}  // namespace wsss
