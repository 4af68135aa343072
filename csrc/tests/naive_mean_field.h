// The dense CRF's mean field by its definition, in double precision, on naive lattices.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "naive_lattice.h"

namespace wsss::testing {

struct Problem {
  int64_t batch, height, width;
  int image_channels, sets, labels;
  double gaussian[3], bilateral[3];  // sx, sy, weight
  double sigma, lowest, highest;     // of all image channels
  int64_t iterations;
  std::vector<float> image, unary;
  std::function<void(Problem&)> edit;  // of the random energies
  int64_t pixels() const { return height * width; }
};

inline std::vector<float> by_definition(const Problem& p, int64_t b, int64_t set) {
  const int64_t n = p.pixels(), labels = p.labels;
  std::vector<std::vector<double>> q(labels, std::vector<double>(n));
  struct Filter {
    NaiveLattice lattice;
    std::vector<double> norm;
    double weight;
  };
  std::vector<Filter> filters;
  for (int term = 0; term < 2; ++term) {
    const double* t = term ? p.bilateral : p.gaussian;
    if (t[2] <= 0) continue;
    const int d = term ? 2 + p.image_channels : 2;
    std::vector<float> features;
    for (int64_t i = 0; i < n; ++i) {
      features.push_back(static_cast<float>(i % p.width) / static_cast<float>(t[0]));
      features.push_back(static_cast<float>(i / p.width) / static_cast<float>(t[1]));
      for (int c = 2; c < d; ++c) {
        const float level = p.image[(b * p.image_channels + c - 2) * n + i];
        features.push_back(
            std::clamp(level, static_cast<float>(p.lowest), static_cast<float>(p.highest)) /
            static_cast<float>(p.sigma));
      }
    }
    Filter f{NaiveLattice(features, d), {}, t[2] * lattice_gain(d)};
    f.norm = f.lattice.filter(std::vector<double>(n, 1.0));
    for (double& x : f.norm) x = 1.0 / std::sqrt(x * lattice_gain(d) + 1e-20);
    filters.push_back(std::move(f));
  }
  const float* unary = p.unary.data() + (b * p.sets + set) * labels * n;
  for (int64_t step = 0; step <= p.iterations; ++step) {
    std::vector<std::vector<double>> z(labels, std::vector<double>(n));
    for (int64_t k = 0; k < labels; ++k) {
      for (int64_t i = 0; i < n; ++i) z[k][i] = -unary[k * n + i];
      for (const Filter& f : filters) {
        if (step == 0) break;
        std::vector<double> weighted(n);
        for (int64_t i = 0; i < n; ++i) weighted[i] = f.norm[i] * q[k][i];
        const auto message = f.lattice.filter(weighted);
        for (int64_t i = 0; i < n; ++i) z[k][i] += f.weight * f.norm[i] * message[i];
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      double top = z[0][i], sum = 0;
      for (auto& plane : z) top = std::max(top, plane[i]);
      for (auto& plane : z) sum += std::exp(plane[i] - top);
      for (int64_t k = 0; k < labels; ++k) q[k][i] = std::exp(z[k][i] - top) / sum;
    }
  }
  std::vector<float> all;
  for (const auto& plane : q) all.insert(all.end(), plane.begin(), plane.end());
  return all;
}

}  // namespace wsss::testing
