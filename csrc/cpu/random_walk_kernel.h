// IRN's random walk on the CPU: sparse steps over the neighbours within a
// radius, for 32 cells at a time.
#pragma once

#include <atomic>
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "flush_denormals.h"
#include "simd.h"
#include "team.h"

#include "../math/random_walk.h"

namespace wsss {

// The walk on one image at a time; all threads of a team call run().
class RandomWalk {
 public:
  RandomWalk(const WalkShape& shape, int64_t maps, double beta)
      : shape_(shape),
        maps_(maps),
        beta_(beta),
        units_((shape.cells() + kUnit - 1) / kUnit),
        plane_(2 * shape.margin() + units_ * kUnit) {
    for (int y = -shape.reach(); y <= shape.reach(); ++y) {
      for (int x = -half_width(shape.radius, y); x <= half_width(shape.radius, y); ++x) {
        if (y == 0 && x == 0) continue;
        Neighbour n{y * shape.stride() + x, {}};
        for_each_on_path(y, x, [&](int v, int u) { n.path.push_back(v * shape.stride() + u); });
        neighbours_.push_back(n);
      }
    }
    wall_.assign(plane_, 1.0f);
    weights_.reset(new float[units_ * static_cast<int64_t>(neighbours_.size()) * kUnit]);
    for (auto& field : fields_) field.assign(maps * plane_, 0.0f);
  }

  // maps [K, h, w], edge [h, w] -> out [K, h, w]
  void run(Team& team, int rank, const float* maps, const float* edge, int64_t steps, float* out) {
    [[maybe_unused]] const FlushDenormals flush;
    const auto [first_row, last_row] = Team::part(shape_.height, rank, team.size());
    const auto [first, last] = Team::part(units_, rank, team.size());
    float doubt = 0;  // NaN if a value is not finite
    for (int64_t y = first_row; y < last_row; ++y) {
      for (int64_t x = 0; x < shape_.width; ++x) {
        const float wall = edge[y * shape_.width + x];
        wall_[place(y, x)] = wall;
        for (int64_t k = 0; k < maps_; ++k) {
          const float value = maps[(k * shape_.height + y) * shape_.width + x] * (1 - wall);
          fields_[0][k * plane_ + place(y, x)] = value;
          doubt += value - value;
        }
      }
      // Border cells stay 0, except after an image with a NaN.
      const int64_t border =
          y + 1 < shape_.height ? shape_.reach()
                                : units_ * kUnit - place(y, shape_.width) + place(0, 0);
      for (int64_t k = 0; k < maps_; ++k) {
        std::fill_n(fields_[0].data() + k * plane_ + place(y, shape_.width), border, 0.0f);
      }
    }
    if (doubt != 0) infinite_ = true;
    team.barrier();
    for (int64_t unit = first; unit < last; ++unit) compute_weights(unit);
    for (int64_t i = 0; i < steps; ++i) {
      step(first, last, fields_[i % 2].data(), fields_[(i + 1) % 2].data());
      if (infinite_) clear_border(first, last, fields_[(i + 1) % 2].data());
      team.barrier();
    }
    if (rank == 0) infinite_ = false;
    for (int64_t y = first_row; y < last_row; ++y) {
      for (int64_t k = 0; k < maps_; ++k) {
        std::copy_n(fields_[steps % 2].data() + k * plane_ + place(y, 0), shape_.width,
                    out + (k * shape_.height + y) * shape_.width);
      }
    }
    team.barrier();  // before the next image overwrites the fields
  }

 private:
  static constexpr int kParts = 2, kUnit = kParts * kLanes;
  struct Neighbour {
    int64_t shift;
    std::vector<int64_t> path;  // shifts of the cells on the path to the neighbour, ends included
  };

  int64_t place(int64_t y, int64_t x) const { return shape_.margin() + y * shape_.stride() + x; }

  Lanes power(Lanes a) const {
    const int whole = static_cast<int>(std::min<double>(beta_, kMaxIntegerPower));
    if (whole == beta_) return integer_power(a, whole);
    for (int i = 0; i < kLanes; ++i) a[i] = std::pow(a[i], static_cast<float>(beta_));
    return a;
  }

  // Transition weights of a unit's cells, [neighbours, kUnit]: affinities divided by their sum.
  void compute_weights(int64_t unit) {
    float* weights = weights_.get() + unit * neighbours_.size() * kUnit;
    for (int part = 0; part < kUnit; part += kLanes) {
      const float* wall = wall_.data() + shape_.margin() + unit * kUnit + part;
      Lanes sum = Lanes{} + 1.0f;  // a cell's affinity to itself
      for (size_t n = 0; n < neighbours_.size(); ++n) {
        Lanes highest{};
        for (int64_t shift : neighbours_[n].path) {
          const Lanes there = load<kLanes>(wall + shift);
          highest = there > highest ? there : highest;
        }
        const Lanes affinity = power(1 - highest);
        store<kLanes>(weights + n * kUnit + part, affinity);
        sum += affinity;
      }
      for (size_t n = 0; n < neighbours_.size(); ++n) {
        float* at = weights + n * kUnit + part;
        store<kLanes>(at, load<kLanes>(at) / sum);
      }
    }
  }

  void step(int64_t first, int64_t last, const float* from, float* to) const {
    int64_t k = 0;
    for (; k + 4 <= maps_; k += 4) step_maps<4>(first, last, from + k * plane_, to + k * plane_);
    from += k * plane_;
    to += k * plane_;
    if (maps_ - k == 3) step_maps<3>(first, last, from, to);
    if (maps_ - k == 2) step_maps<2>(first, last, from, to);
    if (maps_ - k == 1) step_maps<1>(first, last, from, to);
  }

  // Sets the border cells of units [first, last) to 0, which weights of 0 do for finite maps: a NaN
  // would reach the next row through them.
  void clear_border(int64_t first, int64_t last, float* to) const {
    for (int64_t cell = first * kUnit; cell < last * kUnit; ++cell) {
      if (cell < shape_.cells() && cell % shape_.stride() < shape_.width) continue;
      for (int64_t k = 0; k < maps_; ++k) to[k * plane_ + shape_.margin() + cell] = 0;
    }
  }

  // Adds weighted differences to a cell instead of taking a weighted sum: that is exact
  // where a map is constant, while the rounding errors of a sum repeat in every step and
  // add up to 1e-3 in 256 steps.
  template <int K>
  void step_maps(int64_t first, int64_t last, const float* from, float* to) const {
    const float* weight = weights_.get() + first * neighbours_.size() * kUnit;
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t cell = shape_.margin() + unit * kUnit;
      Lanes here[K][kParts], sum[K][kParts] = {};
      for (int k = 0; k < K; ++k) {
        for (int part = 0; part < kParts; ++part) {
          here[k][part] = load<kLanes>(from + k * plane_ + cell + part * kLanes);
        }
      }
      for (const Neighbour& n : neighbours_) {
        const float* there = from + cell + n.shift;
        for (int part = 0; part < kParts; ++part) {
          const Lanes w = load<kLanes>(weight + part * kLanes);
          for (int k = 0; k < K; ++k) {
            sum[k][part] += w * (load<kLanes>(there + k * plane_ + part * kLanes) - here[k][part]);
          }
        }
        weight += kUnit;
      }
      for (int k = 0; k < K; ++k) {
        for (int part = 0; part < kParts; ++part) {
          store<kLanes>(to + k * plane_ + cell + part * kLanes, here[k][part] + sum[k][part]);
        }
      }
    }
  }

  const WalkShape shape_;
  const int64_t maps_;
  const double beta_;
  const int64_t units_, plane_;
  std::atomic<bool> infinite_{false};  // whether a value of this image's maps is not finite
  std::vector<Neighbour> neighbours_;
  std::vector<float> wall_;           // the edge map, with a border of ones
  std::unique_ptr<float[]> weights_;  // [units, neighbours, kUnit], read in this order by each step
  std::vector<float> fields_[2];      // [K, plane]
};

}  // namespace wsss
