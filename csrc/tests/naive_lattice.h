// A naive permutohedral lattice for tests: vertices by their coordinates, in double. Of the kernels
// it only uses the location of a point in its simplex.
#pragma once

#include <map>
#include <vector>

#include "../math/lattice.h"

namespace wsss::testing {

class NaiveLattice {
 public:
  // features: N points of d floats, divided by the standard deviations
  NaiveLattice(const std::vector<float>& features, int d) : d_(d) {
    const size_t points = features.size() / d;
    for (size_t p = 0; p < points; ++p) add(features.data() + p * d);
    if (points % 4 != 0) {
      add(std::vector<float>(d, 0.0f).data());
      corner_.resize(points * (d + 1));
      weight_.resize(points * (d + 1));
    }
  }

  size_t vertices() const { return number_.size(); }

  // [N], without the gain
  std::vector<double> filter(const std::vector<double>& in, bool reverse = false) const {
    std::vector<double> values(vertices(), 0.0), out(in.size(), 0.0);
    for (size_t e = 0; e < corner_.size(); ++e) values[corner_[e]] += weight_[e] * in[e / (d_ + 1)];
    for (int step = 0; step <= d_; ++step) {
      const int j = reverse ? d_ - step : step;
      std::vector<double> blurred = values;
      for (const auto& [at, v] : number_) {
        std::vector<int> next = at;  // -1 on every coordinate, then d+1 on coordinate j
        for (int& x : next) --x;
        next[j] += d_ + 1;
        const auto found = number_.find(next);
        if (found == number_.end()) continue;
        blurred[v] += 0.5 * values[found->second];
        blurred[found->second] += 0.5 * values[v];
      }
      values = blurred;
    }
    for (size_t e = 0; e < corner_.size(); ++e) {
      out[e / (d_ + 1)] += weight_[e] * values[corner_[e]];
    }
    return out;
  }

 private:
  void add(const float* features) {
    switch (d_) {
      case 1: return add_as<1>(features);
      case 2: return add_as<2>(features);
      case 3: return add_as<3>(features);
      case 4: return add_as<4>(features);
      case 5: return add_as<5>(features);
      case 6: return add_as<6>(features);
      case 7: return add_as<7>(features);
      default: return add_as<8>(features);
    }
  }

  template <int D>
  void add_as(const float* features) {
    float scale[D], scaled[D];
    feature_scale(D, scale);
    for (int i = 0; i < D; ++i) scaled[i] = features[i] * scale[i];
    Simplex<D, float, int> simplex;
    locate<D>(scaled, simplex);
    for (int r = 0; r <= D; ++r) {
      std::vector<int> at(D + 1);
      for (int j = 0; j <= D; ++j) {
        at[j] = (D + 1) * (simplex.quotient[j] - (simplex.rank[j] > D - r)) + r;
      }
      corner_.push_back(number_.try_emplace(at, number_.size()).first->second);
      weight_.push_back(simplex.weight[r]);
    }
  }

  const int d_;
  std::map<std::vector<int>, size_t> number_;
  std::vector<size_t> corner_;
  std::vector<double> weight_;
};

}  // namespace wsss::testing
