// The dense energy loss of one image and its gradient, on one lattice.
//
// With p the reduced probabilities, S = roi p, and A the bilateral filter: a pass over the lines
// reduces probabilities and computes the gate. Then, for one block of classes after the other, S is
// splatted and blurred; where A S is sliced, loss and gradient are computed.
#pragma once

#include <cfloat>
#include <stdexcept>
#include <vector>

#include "dense_energy_loss.h"
#include "plane_filter.h"
#include "reduced_planes.h"

namespace wsss {

// Losses of images of one shape; every thread of the team calls run().
class EnergyLoss {
 public:
  EnergyLoss(const EnergyShape& shape, const EnergyParameters& parameters, const PixelTiles& tiles,
             bool needs_gradient)
      : shape_(shape),
        is_exact_(parameters.exact && needs_gradient),
        factor_(static_cast<float>(-parameters.weight / static_cast<double>(shape.images))),
        tiles_(tiles),
        planes_({shape.full_height, shape.height, parameters.row_step},
                {shape.full_width, shape.width, parameters.column_step}),
        filter_(tiles),
        energy_(tile_count(shape.pixels())),
        is_invalid_(tiles.threads()) {
    const int64_t values = shape.classes * shape.pixels();
    gate_.reserve(shape.pixels());
    if (planes_.are_resized()) reduced_.reserve(values);
    if (planes_.are_resized() && is_exact_) filtered_.reserve(values);
  }

  // `arrays` of one image; `energy` becomes the sum of S gate A S over classes and pixels. Starts
  // and ends with a barrier.
  void run(Team& team, int rank, const Lattice& lattice, const EnergyArrays& arrays,
           double* energy) {
    prepare(team, rank, arrays);
    team.barrier();
    if (std::find(is_invalid_.begin(), is_invalid_.end(), true) != is_invalid_.end()) {
      throw std::invalid_argument(
          "dense_energy_loss: probabilities has values that are NaN, infinite or below 0");
    }
    const bool resized = planes_.are_resized();
    const Planes planes{
        resized ? reduced_.get() : arrays.probabilities, arrays.roi,
        arrays.gradient == nullptr ? nullptr
        : !resized                 ? arrays.gradient
        : is_exact_                ? filtered_.get()
                                   : reduced_.get()};
    const int classes = static_cast<int>(shape_.classes);
    if (is_exact_) {
      filter_.run(
          team, rank, lattice, classes, true,
          [&](const PlaneBlock& block) { load(block, planes, true); },
          StorePlanes(tiles_, planes.gradient, 0));
    }
    filter_.run(
        team, rank, lattice, classes, false,
        [&](const PlaneBlock& block) { load(block, planes, false); },
        [&](const PlaneBlock& block) { take(block, planes); });
    if (resized && arrays.gradient != nullptr) {
      const auto [first, last] = Team::part(shape_.classes * shape_.full_height, rank, team.size());
      planes_.expand(planes.gradient, first, last, arrays.gradient);
    }
    if (rank == 0) {
      *energy = 0.0;
      for (const double e : energy_) *energy += e;
    }
    team.barrier();
  }

 private:
  struct Planes {
    const float* probabilities;  // [K, h, w], reduced
    const float* roi;            // [h, w]
    // [K, h, w] or null; the same memory as the probabilities if these are reduced and the gradient
    // needs one filter only
    float* gradient;
  };

  // Fills reduced_ and gate_, and finds invalid values, in this thread's part of the lines.
  void prepare(const Team& team, int rank, const EnergyArrays& arrays) {
    const int64_t width = shape_.width, n = shape_.pixels();
    const auto [first, last] = Team::part(shape_.height, rank, team.size());
    bool bad = false;
    for (int64_t y = first; y < last; ++y) {
      float* gate = gate_.get() + y * width;
      std::fill(gate, gate + width, 0.0f);
      for (int64_t k = 0; k < shape_.classes; ++k) {
        const float* line = arrays.probabilities + k * n + y * width;
        if (planes_.are_resized()) {
          float* to = reduced_.get() + k * n + y * width;
          planes_.reduce(arrays.probabilities + k * shape_.full_pixels(), y, to);
          line = to;
        }
        bad |= raise_to_largest(line, width, gate);
      }
      set_gate(arrays, y * width, gate);
    }
    is_invalid_[rank] = bad;
  }

  // top = max(top, line); returns whether a value of the line is NaN, infinite or negative.
  static bool raise_to_largest(const float* line, int64_t width, float* top) {
    int32_t bad = 0;
    for (int64_t x = 0; x < width; ++x) {
      const float v = line[x];
      bad |= static_cast<int32_t>(!(v >= 0.0f)) | static_cast<int32_t>(!(v <= FLT_MAX));
      top[x] = v > top[x] ? v : top[x];
    }
    return bad != 0;
  }

  // The largest probabilities of a line become its gate.
  void set_gate(const EnergyArrays& arrays, int64_t start, float* gate) const {
    const float* roi = arrays.roi + start;
    const uint8_t* labels = arrays.labels == nullptr ? nullptr : arrays.labels + start;
    for (int64_t x = 0; x < shape_.width; ++x) {
      const float rest = roi[x] - gate[x];
      gate[x] = labels == nullptr || labels[x] == kUnknown ? 1.0f : rest > 0.0f ? rest : 0.0f;
    }
  }

  // S, or gate S if `gated`.
  void load(const PlaneBlock& block, const Planes& planes, bool gated) const {
    LoadPlanes{tiles_, planes.probabilities}(block);
    for (int i = 0; i < block.tiles; ++i) {
      const int64_t p = tiles_.first_pixel(block.tile + i);
      const int count = tiles_.count(p);
      Lanes factor = load_some(planes.roi + p, count);
      if (gated) factor *= load_some(gate_.get() + p, count);
      for (int k = 0; k < block.channels; ++k) block.at(i, k) *= factor;
    }
  }

  // The loss of tiles, and their gradient, from A S. All loads precede all stores: the planes of
  // both arrays are often a multiple of the page size apart, and such a load waits for the store.
  void take(const PlaneBlock& block, const Planes& planes) {
    Lanes own[PlaneBlock::kTiles * PlaneBlock::kChannels];
    PlaneBlock probabilities = block;
    probabilities.lanes = own;
    LoadPlanes{tiles_, planes.probabilities}(probabilities);
    PlaneBlock others = block;  // what is added to T
    Lanes transposed[PlaneBlock::kTiles * PlaneBlock::kChannels];
    if (is_exact_) {
      others.lanes = transposed;
      LoadPlanes{tiles_, planes.gradient}(others);
    }
    for (int i = 0; i < block.tiles; ++i) {
      const int64_t p = tiles_.first_pixel(block.tile + i);
      const int count = tiles_.count(p);
      const Lanes roi = load_some(planes.roi + p, count), gate = load_some(gate_.get() + p, count);
      const Lanes factor = factor_ * roi;
      Lanes energy{};
      for (int k = 0; k < block.channels; ++k) {
        const Lanes t = gate * block.at(i, k);
        energy += roi * probabilities.at(i, k) * t;
        block.at(i, k) = factor * (t + (is_exact_ ? others.at(i, k) : t));
      }
      double& sum = energy_[block.tile + i];
      if (block.channel == 0) sum = 0.0;
      for (int lane = 0; lane < count; ++lane) sum += static_cast<double>(energy[lane]);
    }
    if (planes.gradient == nullptr) return;
    // A reduced gradient is read again soon.
    const int64_t bytes = planes_.are_resized() ? 0 : 4 * shape_.classes * shape_.pixels();
    StorePlanes(tiles_, planes.gradient, bytes)(block);
  }

  static constexpr uint8_t kUnknown = 255;  // label of pixels without a pseudo label

  const EnergyShape shape_;
  const bool is_exact_;
  const float factor_;
  const PixelTiles& tiles_;
  const ReducedPlanes planes_;
  PlaneFilter filter_;
  Buffer<float> gate_;          // [h, w]
  Buffer<float> reduced_;       // [K, h, w] probabilities
  Buffer<float> filtered_;      // [K, h, w] by the transposed filter, then the gradient
  std::vector<double> energy_;  // by tile: partial sums, whose order does not depend on the threads
  std::vector<char> is_invalid_;  // by thread: whether it found invalid probabilities
};

}  // namespace wsss
