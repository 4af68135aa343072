// The pairwise terms of the dense CRF for one image: their lattices, with normalised weights.
#pragma once

#include <atomic>
#include <cmath>
#include <memory>

#include "dense_crf.h"
#include "rows.h"
#include "spatial_cache.h"
#include "stored_lattice.h"

namespace wsss {

// One pairwise term: its lattice, whose weights include n * sqrt(weight * gain), so that splat and
// slice need no other factor; and two value arrays per block of channels. A pass over the pixels
// slices one and splats into the other, and the blur alternates between them, once per corner:
// where it ends, the next pass slices.
struct Term {
  std::shared_ptr<const Lattice> lattice;
  std::vector<Rows> values[2];  // by block: [rows, width]

  bool swaps() const { return lattice->corners % 2 != 0; }
  int splatted(int64_t step) const { return swaps() ? 0 : static_cast<int>(step & 1); }
  int blurred(int64_t step) const { return swaps() ? 1 : static_cast<int>(step & 1); }
};

class PairwiseTerms {
 public:
  // `stored`: the bilateral lattices of the images, or null.
  PairwiseTerms(const CrfParameters& parameters, const PixelTiles& tiles,
                const StoredLattices* stored)
      : parameters_(parameters),
        bilateral_parameters_(parameters.bilateral()),
        tiles_(tiles),
        stored_(stored),
        outside_(tiles.threads()) {
    if (parameters.gaussian_weight > 0) terms_.push_back(&spatial_);
    if (parameters.bilateral_weight > 0) terms_.push_back(&bilateral_);
  }

  // The terms whose weight is not 0.
  const std::vector<Term*>& terms() const { return terms_; }

  // image [C, H, W], the one with number `b`. Every thread of the team calls.
  void build(Team& team, int rank, const float* image, int64_t b) {
    if (parameters_.gaussian_weight > 0) build_spatial(team, rank);
    if (parameters_.bilateral_weight > 0) build_bilateral(team, rank, image, b);
  }

  // Whether the image had NaN or values outside its levels. All threads must have left build().
  bool is_image_invalid() const {
    return std::find(outside_.begin(), outside_.end(), true) != outside_.end();
  }

 private:
  static double last(int64_t size) { return static_cast<double>(size - 1); }

  void build_spatial(Team& team, int rank) {
    const CrfParameters& c = parameters_;
    const int64_t height = tiles_.height(), width = tiles_.width();
    const SpatialCache::Key key{height, width, c.gaussian_sx, c.gaussian_sy, c.gaussian_weight};
    if (rank == 0 && !spatial_.lattice) spatial_.lattice = SpatialCache::instance().find(key);
    team.barrier();
    if (spatial_.lattice) return;
    const double from[2] = {}, to[2] = {last(width) / c.gaussian_sx, last(height) / c.gaussian_sy};
    start(team, rank);
    build_lattice(
        team, rank, state_, *building_, 2, tiles_.pixels(), from, to, [&](int64_t t, Lanes* f) {
          return tiles_.position(tiles_.first_pixel(t), c.gaussian_sx, c.gaussian_sy, f);
        });
    finish(team, rank, spatial_, c.gaussian_weight, nullptr);
    if (rank == 0) SpatialCache::instance().insert(key, spatial_.lattice);
  }

  void build_bilateral(Team& team, int rank, const float* image, int64_t b) {
    start(team, rank);
    if (stored_ == nullptr) {
      outside_[rank] = !build_image_lattice(
          team, rank, state_, *building_, bilateral_parameters_, tiles_, image);
      return finish(team, rank, bilateral_, parameters_.bilateral_weight, nullptr);
    }
    if (rank == 0) {
      *building_ = stored_->view(b);
      stored_weight_ = std::exchange(building_->weight, {});
      building_->weight.reserve(tile_count(tiles_.pixels()) * kLanes * building_->corners);
      building_->mass.reserve(building_->rows);
      std::copy_n(stored_->mass(b), building_->rows, building_->mass.get());
    }
    team.barrier();
    finish(team, rank, bilateral_, parameters_.bilateral_weight, stored_weight_.get());
  }

  void start(Team& team, int rank) {
    if (rank == 0) building_ = std::make_shared<Lattice>();
    team.barrier();
  }

  // Normalises the lattice; `weights`: its own, or null if it has them already.
  void finish(Team& team, int rank, Term& term, float weight, const float* weights) {
    const float gain = lattice_gain(building_->corners - 1);
    normalise(team, rank, *building_, weights, weight * gain, gain);
    if (rank == 0) term.lattice = std::move(building_);
    team.barrier();
  }

  void normalise(Team& team, int rank, Lattice& lattice, const float* weights_in, float factor,
                 float gain) {
    if (rank == 0) blurred_mass_.reserve(lattice.rows);
    const Rows* mass[2] = {&lattice.mass, &blurred_mass_};
    blur(team, rank, tiles_.bands(), [&](const auto& work) {
      work(lattice, std::integral_constant<int, 1>(), *mass[0], *mass[1]);
    });
    const float* blurred = mass[lattice.corners % 2]->get();
    tiles_.for_each_band(rank, [&](int, int64_t first, int64_t last) {
      for (int64_t tile = first; tile < last; ++tile) {
        const int64_t entries = lattice.corners * kLanes, start = tile * entries;
        float* weights = lattice.weight.get() + start;
        if (weights_in != nullptr) std::copy_n(weights_in + start, entries, weights);
        Lanes sliced{};
        RowOps<1>::slice(lattice, blurred, tile, &sliced);
        sliced = sliced * gain + 1e-20f;
        Lanes n;
        for (int i = 0; i < kLanes; ++i) n[i] = std::sqrt(factor) / std::sqrt(sliced[i]);
        for (int r = 0; r < lattice.corners; ++r) {
          store<kLanes>(weights + r * kLanes, load<kLanes>(weights + r * kLanes) * n);
        }
      }
    });
    team.barrier();
    if (rank == 0) lattice.mass = Rows();
  }

  const CrfParameters parameters_;
  const BilateralParameters bilateral_parameters_;
  const PixelTiles& tiles_;
  const StoredLattices* stored_;
  Buffer<float> stored_weight_;  // a view
  Term spatial_, bilateral_;
  std::vector<Term*> terms_;
  std::shared_ptr<Lattice> building_;
  BuildState state_;
  Rows blurred_mass_;
  std::vector<char> outside_;  // by thread: whether it found invalid values
};

}  // namespace wsss
