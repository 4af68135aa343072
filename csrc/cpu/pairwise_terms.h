// The pairwise terms of the dense CRF for one image: their lattices, with normalised weights.
#pragma once

#include <atomic>
#include <cmath>
#include <memory>

#include "dense_crf.h"
#include "pixel_tiles.h"
#include "rows.h"
#include "spatial_cache.h"

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

// Adds the ghosts that the team has splatted into, blurs along every direction and refreshes the
// ghosts. `each` calls its argument with (lattice, width, splatted rows, other rows) for all
// arrays. Every thread of the team calls; starts and ends with a barrier.
template <class Each>
void blur(Team& team, int rank, int bands, const Each& each) {
  const int threads = team.size();
  each([&](const Lattice&, auto width, const Rows& splatted, const Rows& other) {
    if (rank == 0) {
      for (const Rows* rows : {&splatted, &other}) {
        std::fill(rows->get() + kNone * width(), rows->get(), 0.0f);
      }
    }
  });
  team.barrier();
  if (bands > 1) {
    each([&](const Lattice& lattice, auto width, const Rows& splatted, const Rows&) {
      RowOps<width()>::add_ghosts(lattice, splatted.get(), rank, threads);
    });
    team.barrier();
  }
  for (int j = 0; j < kMaxCorners; ++j) {
    bool any = false;
    each([&](const Lattice& lattice, auto width, const Rows& splatted, const Rows& other) {
      if (j >= lattice.corners) return;
      any = true;
      const float* from = (j % 2 == 0 ? splatted : other).get();
      float* to = (j % 2 == 0 ? other : splatted).get();
      RowOps<width()>::blur(lattice, j, from, to, rank, threads);
    });
    if (!any) break;
    team.barrier();
  }
  if (bands > 1) {
    each([&](const Lattice& lattice, auto width, const Rows& splatted, const Rows& other) {
      RowOps<width()>::refresh_ghosts(
          lattice, (lattice.corners % 2 == 0 ? splatted : other).get(), rank, threads);
    });
    team.barrier();
  }
}

class PairwiseTerms {
 public:
  PairwiseTerms(const CrfShape& shape, const CrfParameters& parameters, const PixelTiles& tiles)
      : channels_(shape.image_channels),
        parameters_(parameters),
        tiles_(tiles),
        outside_(tiles.threads()) {
    if (parameters.gaussian_weight > 0) terms_.push_back(&spatial_);
    if (parameters.bilateral_weight > 0) terms_.push_back(&bilateral_);
  }

  // The terms whose weight is not 0.
  const std::vector<Term*>& terms() const { return terms_; }

  // image [C, H, W]. Every thread of the team calls.
  void build(Team& team, int rank, const float* image) {
    if (parameters_.gaussian_weight > 0) build_spatial(team, rank);
    if (parameters_.bilateral_weight > 0) build_bilateral(team, rank, image);
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
    build_term(team, rank, spatial_, 2, from, to, c.gaussian_weight, [&](int64_t t, Lanes* f) {
      return tiles_.position(tiles_.first_pixel(t), c.gaussian_sx, c.gaussian_sy, f);
    });
    if (rank == 0) SpatialCache::instance().insert(key, spatial_.lattice);
  }

  void build_bilateral(Team& team, int rank, const float* image) {
    const CrfParameters& c = parameters_;
    const int64_t n = tiles_.pixels();
    double from[kMaxDimensions] = {},
           to[kMaxDimensions] = {
               last(tiles_.width()) / c.bilateral_sx, last(tiles_.height()) / c.bilateral_sy};
    const float lowest = static_cast<float>(c.lowest), highest = static_cast<float>(c.highest);
    for (int i = 0; i < channels_; ++i) {
      from[2 + i] = lowest / c.bilateral_levels[i];
      to[2 + i] = highest / c.bilateral_levels[i];
    }
    bool outside = false;
    build_term(team, rank, bilateral_, 2 + channels_, from, to, c.bilateral_weight,
               [&](int64_t t, Lanes* f) {
                 const int64_t p = tiles_.first_pixel(t);
                 const int count = tiles_.position(p, c.bilateral_sx, c.bilateral_sy, f);
                 IntLanes valid = IntLanes{} - 1;
                 for (int i = 0; i < channels_; ++i) {
                   Lanes v = load_some(image + i * n + p, count);
                   for (int lane = count; lane < kLanes; ++lane) v[lane] = lowest;
                   // The key of a value outside would wrap around.
                   const IntLanes inside = (v >= lowest) & (v <= highest);
                   valid &= inside;
                   f[2 + i] = (inside ? v : Lanes{} + lowest) / c.bilateral_levels[i];
                 }
                 outside = outside || !all(valid);
                 return count;
               });
    outside_[rank] = outside;
  }

  // Builds the normalised lattice of one term. `features` in [from, to], d dimensions.
  template <class Features>
  void build_term(Team& team, int rank, Term& term, int d, const double* from, const double* to,
                  float weight, const Features& features) {
    if (rank == 0) building_ = std::make_shared<Lattice>();
    team.barrier();
    build_lattice(team, rank, state_, *building_, d, tiles_.pixels(), from, to, features);
    normalise(team, rank, *building_, weight * lattice_gain(d), lattice_gain(d));
    if (rank == 0) term.lattice = std::move(building_);
    team.barrier();
  }

  void normalise(Team& team, int rank, Lattice& lattice, float factor, float gain) {
    if (rank == 0) blurred_mass_.reserve(lattice.rows);
    const Rows* mass[2] = {&lattice.mass, &blurred_mass_};
    blur(team, rank, tiles_.bands(), [&](const auto& work) {
      work(lattice, std::integral_constant<int, 1>(), *mass[0], *mass[1]);
    });
    const float* blurred = mass[lattice.corners % 2]->get();
    tiles_.for_each_band(rank, [&](int, int64_t first, int64_t last) {
      for (int64_t tile = first; tile < last; ++tile) {
        Lanes sliced{};
        RowOps<1>::slice(lattice, blurred, tile, &sliced);
        sliced = sliced * gain + 1e-20f;
        Lanes n;
        for (int i = 0; i < kLanes; ++i) n[i] = std::sqrt(factor) / std::sqrt(sliced[i]);
        float* weights = lattice.weight.get() + tile * lattice.corners * kLanes;
        for (int r = 0; r < lattice.corners; ++r) {
          store<kLanes>(weights + r * kLanes, load<kLanes>(weights + r * kLanes) * n);
        }
      }
    });
    team.barrier();
    if (rank == 0) lattice.mass = Rows();
  }

  const int channels_;  // of the image
  const CrfParameters parameters_;
  const PixelTiles& tiles_;
  Term spatial_, bilateral_;
  std::vector<Term*> terms_;
  std::shared_ptr<Lattice> building_;
  BuildState state_;
  Rows blurred_mass_;
  std::vector<char> outside_;  // by thread: whether it found invalid values
};

}  // namespace wsss
