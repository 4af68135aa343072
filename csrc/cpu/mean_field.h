// Mean field of the dense CRF (Kraehenbuehl and Koltun 2011, algorithm 1) on lattices, for one
// image and S unaries.
//
// Labels with equal energies are merged into groups (merge.h); of the G groups of a unary, K = G-1
// are carried, because Q sums to 1. A channel is Q - 1/L: then the messages of all labels sum to 0,
// and the last group's is known without filtering it. The channels of all unaries lie side by side,
// cut into blocks of up to 16, one array of rows each. One pass over the pixels slices, adds the
// unary, takes the softmax and splats, 16 pixels (a tile) at a time.
#pragma once

#include <cmath>
#include <functional>
#include <memory>

#include "dense_crf.h"
#include "merge.h"
#include "rows.h"
#include "spatial_cache.h"

#include "../math/exp.h"

namespace wsss {

// One pairwise kernel: its lattice, whose weights include n * sqrt(weight * gain), so that splat
// and slice need no other factor; and two value arrays per block of channels. A pass slices one and
// splats into the other, and the blur goes back and forth between them, once per corner: where it
// ends, the next pass slices.
struct Term {
  std::shared_ptr<const Lattice> lattice;
  std::vector<Rows> values[2];  // by block: [rows, width]

  bool swaps() const { return lattice->corners % 2 != 0; }
  int splatted(int64_t step) const { return swaps() ? 0 : static_cast<int>(step & 1); }
  int blurred(int64_t step) const { return swaps() ? 1 : static_cast<int>(step & 1); }
};

// Mean field of images of one shape; every thread of the team calls run().
class MeanField {
 public:
  MeanField(const CrfShape& shape, const CrfParameters& parameters, int threads)
      : shape_(shape),
        parameters_(parameters),
        threads_(threads),
        bands_(band_count(shape.pixels())),
        merger_(shape.sets, shape.labels, shape.pixels(), threads),
        scratch_(threads),
        trouble_(bands_) {
    order_tiles();
  }

  // image [C, H, W] levels, unary [S, L, H, W] energies, q [S, L, H, W]. All three contiguous.
  void run(Team& team, int rank, const float* image, const float* unary, float* q) {
    merger_.merge(team, rank, unary);
    if (rank == 0) choose_channels();
    team.barrier();
    each_band(rank, [&](int b, int64_t first, int64_t last) {
      trouble_[b] = read_unary(first, last, unary);
    });
    if (parameters_.iterations > 0) prepare_terms(team, rank, image);
    team.barrier();
    for (const char* trouble : trouble_) {
      if (trouble != nullptr) throw std::invalid_argument(std::string("dense_crf: ") + trouble);
    }
    iterate(team, rank, q);
  }

 private:
  struct Block {
    int first, width;  // channels
  };

  // Calls work(std::integral_constant<int, W>) with W = width.
  template <class Work>
  static void with_width(int width, const Work& work) {
    switch (width) {
      case 1: return work(std::integral_constant<int, 1>());
      case 2: return work(std::integral_constant<int, 2>());
      case 4: return work(std::integral_constant<int, 4>());
      case 8: return work(std::integral_constant<int, 8>());
      default: return work(std::integral_constant<int, 16>());
    }
  }

  // Tiles are stored strip by strip, not line by line: then the vertices that a tile touches are
  // mostly those of the tile above it, still in cache.
  void order_tiles() {
    constexpr int64_t kStrip = 64;  // pixels
    const int64_t tiles = tile_count(shape_.pixels());
    const auto strip = [&](int64_t tile) { return tile * kLanes % shape_.width / kStrip; };
    std::vector<int64_t> at(shape_.width / kStrip + 2, 0);
    for (int64_t t = 0; t < tiles; ++t) ++at[strip(t) + 1];
    for (size_t i = 1; i < at.size(); ++i) at[i] += at[i - 1];
    pixel_.resize(tiles);
    for (int64_t t = 0; t < tiles; ++t) pixel_[at[strip(t)]++] = t * kLanes;
  }

  int count(int64_t pixel) const {
    return static_cast<int>(std::min<int64_t>(kLanes, shape_.pixels() - pixel));
  }

  // work(band, first tile, last tile) for this thread's bands
  template <class Work>
  void each_band(int rank, const Work& work) const {
    const auto [from, to] = Team::part(bands_, rank, threads_);
    for (int b = from; b < to; ++b) {
      const auto [first, last] = band_tiles(shape_.pixels(), b, bands_);
      work(b, first, last);
    }
  }

  void choose_channels() {
    carried_ = 0;
    for (const LabelGroups& g : merger_.groups()) {
      carried_ = std::max(carried_, static_cast<int>(g.first.size()) - 1);
    }
    channels_ = shape_.sets * carried_;
    blocks_.clear();
    for (int first = 0; first < channels_; first += blocks_.back().width) {
      const int left = channels_ - first;
      blocks_.push_back({first, left > 8 ? 16 : left > 4 ? 8 : left > 2 ? 4 : left});
    }
    padded_ = blocks_.empty() ? 0 : blocks_.back().first + blocks_.back().width;
    energy_.reserve(tile_count(shape_.pixels()) * kLanes * shape_.sets * (carried_ + 1));
    for (auto& lanes : scratch_) lanes.reserve(padded_);
  }

  // energy_ [tiles, S, K + 1, 16]: minus what the energies exceed each pixel's least by, the last
  // group's last. (Relative to any one group, a huge energy of that group would swallow the
  // others'.) Returns what is wrong with the unary.
  const char* read_unary(int64_t first, int64_t last, const float* unary) {
    const int64_t n = shape_.pixels();
    Lanes trouble{};
    for (int64_t t = first; t < last; ++t) {
      const int64_t p = pixel_[t];
      const int count = this->count(p);
      for (int s = 0; s < shape_.sets; ++s) {
        const LabelGroups& g = merger_.groups()[s];
        const int rest = static_cast<int>(g.first.size()) - 1;
        const float* set = unary + static_cast<int64_t>(s) * shape_.labels * n + p;
        float* energy = energy_of(t, s);
        Lanes least = load_some(set + g.first[rest] * n, count);
        store<kLanes>(energy + carried_ * kLanes, least);
        for (int k = 0; k < rest; ++k) {
          const Lanes e = load_some(set + g.first[k] * n, count);
          store<kLanes>(energy + k * kLanes, e);
          least = least < e ? least : e;
        }
        for (int k = 0; k <= carried_; ++k) {
          const bool real = k < rest || k == carried_;
          const Lanes d = real ? least - load<kLanes>(energy + k * kLanes) : Lanes{} + kNever;
          trouble += d - d;
          store<kLanes>(energy + k * kLanes, d);
        }
      }
    }
    float sum = 0.0f;
    for (int i = 0; i < kLanes; ++i) sum += trouble[i];
    return sum == 0.0f ? nullptr : "unary has NaN or infinite values";
  }

  static constexpr int kWritten = 8;  // tiles at a time
  float* energy_of(int64_t tile, int set) const {
    return energy_.get() + (tile * shape_.sets + set) * (carried_ + 1) * kLanes;
  }

  static constexpr float kNever = -1e30f;  // in place of an energy: the channel stands for no label

  static Lanes load_some(const float* from, int count) {
    if (count == kLanes) return load<kLanes>(from);
    Lanes v{};
    for (int i = 0; i < count; ++i) v[i] = from[i];
    return v;
  }

  void prepare_terms(Team& team, int rank, const float* image) {
    const CrfParameters& c = parameters_;
    const int64_t n = shape_.pixels();
    if (c.gaussian_weight > 0) {
      const SpatialCache::Key key{
          shape_.height, shape_.width, c.gaussian_sx, c.gaussian_sy, c.gaussian_weight};
      if (rank == 0 && !spatial_.lattice) spatial_.lattice = SpatialCache::instance().find(key);
      team.barrier();
      if (!spatial_.lattice) {
        const double from[2] = {}, to[2] = {last(shape_.width) / c.gaussian_sx,
                                            last(shape_.height) / c.gaussian_sy};
        build(team, rank, spatial_, 2, from, to, c.gaussian_weight, [&](int64_t t, Lanes* f) {
          return position(pixel_[t], c.gaussian_sx, c.gaussian_sy, f);
        });
        if (rank == 0) SpatialCache::instance().keep(key, spatial_.lattice);
      }
    }
    if (c.bilateral_weight > 0) {
      double from[kMaxDimensions] = {},
             to[kMaxDimensions] = {
                 last(shape_.width) / c.bilateral_sx, last(shape_.height) / c.bilateral_sy};
      const float lowest = static_cast<float>(c.lowest), highest = static_cast<float>(c.highest);
      for (int i = 0; i < shape_.image_channels; ++i) {
        from[2 + i] = lowest / c.bilateral_levels[i];
        to[2 + i] = highest / c.bilateral_levels[i];
      }
      // A value outside would wrap around in its key.
      std::atomic<bool> outside{false};
      build(team, rank, bilateral_, 2 + shape_.image_channels, from, to, c.bilateral_weight,
            [&](int64_t t, Lanes* f) {
              const int64_t p = pixel_[t];
              const int count = position(p, c.bilateral_sx, c.bilateral_sy, f);
              IntLanes good = IntLanes{} - 1;
              for (int i = 0; i < shape_.image_channels; ++i) {
                Lanes v = load_some(image + i * n + p, count);
                if (count < kLanes) {
                  for (int lane = count; lane < kLanes; ++lane) v[lane] = lowest;
                }
                const IntLanes inside = (v >= lowest) & (v <= highest);
                good &= inside;
                f[2 + i] = (inside ? v : Lanes{} + lowest) / c.bilateral_levels[i];
              }
              if (!all(good)) outside = true;
              return count;
            });
      if (outside) trouble_[0] = "image has NaN or values outside its levels";
    }
    if (rank == 0) {
      terms_.clear();
      if (c.gaussian_weight > 0) terms_.push_back(&spatial_);
      if (c.bilateral_weight > 0) terms_.push_back(&bilateral_);
      for (Term* t : terms_) {
        for (auto& values : t->values) {
          values.resize(blocks_.size());
          for (size_t i = 0; i < blocks_.size(); ++i) {
            values[i].reserve(t->lattice->rows * blocks_[i].width);
          }
        }
      }
    }
  }

  static double last(int64_t size) { return static_cast<double>(size - 1); }

  int position(int64_t pixel, float sx, float sy, Lanes* f) const {
    int64_t column = pixel % shape_.width, line = pixel / shape_.width;
    Lanes x, y;
    if (column + kLanes <= shape_.width) {
      for (int i = 0; i < kLanes; ++i) x[i] = static_cast<float>(i);
      x += static_cast<float>(column);
      y = Lanes{} + static_cast<float>(line);
    } else {
      for (int i = 0; i < kLanes; ++i) {
        x[i] = static_cast<float>(column);
        y[i] = static_cast<float>(std::min(line, shape_.height - 1));
        if (++column == shape_.width) column = 0, ++line;
      }
    }
    f[0] = x / sx;
    f[1] = y / sy;
    return count(pixel);
  }

  // The normalised lattice of one term. `features` in [from, to], d dimensions.
  template <class Features>
  void build(Team& team, int rank, Term& term, int d, const double* from, const double* to,
             float weight, const Features& features) {
    if (rank == 0) building_ = std::make_shared<Lattice>();
    team.barrier();
    build_lattice(team, rank, state_, *building_, d, shape_.pixels(), from, to, features);
    normalise(team, rank, *building_, weight * lattice_gain(d), lattice_gain(d));
    if (rank == 0) term.lattice = std::move(building_);
    team.barrier();
  }

  void normalise(Team& team, int rank, Lattice& lattice, float factor, float gain) {
    if (rank == 0) blurred_mass_.reserve(lattice.rows);
    const Rows* mass[2] = {&lattice.mass, &blurred_mass_};
    blur(team, rank, [&](const auto& work) {
      work(lattice, std::integral_constant<int, 1>(), *mass[0], *mass[1]);
    });
    const float* seen_mass = mass[lattice.corners % 2]->get();
    each_band(rank, [&](int, int64_t first, int64_t last) {
      for (int64_t tile = first; tile < last; ++tile) {
        Lanes seen{};
        RowOps<1>::slice(lattice, seen_mass, tile, &seen);
        seen = seen * gain + 1e-20f;
        Lanes n;
        for (int i = 0; i < kLanes; ++i) n[i] = std::sqrt(factor) / std::sqrt(seen[i]);
        float* weights = lattice.weight.get() + tile * lattice.corners * kLanes;
        for (int r = 0; r < lattice.corners; ++r) {
          store<kLanes>(weights + r * kLanes, load<kLanes>(weights + r * kLanes) * n);
        }
      }
    });
    team.barrier();
    if (rank == 0) lattice.mass = Rows();
  }

  // After the team's splats: sums the ghosts, blurs every direction, refreshes the ghosts. `each`
  // calls its argument with (lattice, width, splatted rows, other rows) for all arrays. Begins and
  // ends with a barrier.
  template <class Each>
  void blur(Team& team, int rank, const Each& each) {
    each([&](const Lattice&, auto width, const Rows& splatted, const Rows& other) {
      if (rank == 0) {
        for (const Rows* rows : {&splatted, &other}) {
          std::fill(rows->get() + kNone * width(), rows->get(), 0.0f);
        }
      }
    });
    team.barrier();
    if (bands_ > 1) {
      each([&](const Lattice& lattice, auto width, const Rows& splatted, const Rows&) {
        RowOps<width()>::add_ghosts(lattice, splatted.get(), rank, threads_);
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
        RowOps<width()>::blur(lattice, j, from, to, rank, threads_);
      });
      if (!any) break;
      team.barrier();
    }
    if (bands_ > 1) {
      each([&](const Lattice& lattice, auto width, const Rows& splatted, const Rows& other) {
        RowOps<width()>::refresh_ghosts(
            lattice, (lattice.corners % 2 == 0 ? splatted : other).get(), rank, threads_);
      });
      team.barrier();
    }
  }

  void iterate(Team& team, int rank, float* q) {
    const int64_t steps = terms_.empty() ? 0 : parameters_.iterations;
    for (int64_t step = 0; step <= steps; ++step) {
      each_band(rank, [&](int b, int64_t first, int64_t last) {
        if (step < steps) clear(b, step);
        Lanes* lanes = scratch_[rank].get();
        for (int64_t t = first; t < last; ++t) {
          pass(lanes, t, step, step == steps);
          const int64_t place = (t - first) % kWritten;
          if (step == steps && (place + 1 == kWritten || t + 1 == last)) write(t - place, t + 1, q);
        }
      });
      if (step == steps) break;
      blur(team, rank, [&](const auto& work) {
        for (Term* t : terms_) {
          const int from = t->splatted(step);
          for (size_t i = 0; i < blocks_.size(); ++i) {
            with_width(blocks_[i].width, [&](auto width) {
              work(*t->lattice, width, t->values[from][i], t->values[1 - from][i]);
            });
          }
        }
      });
    }
  }

  // Zeroes the rows that band b alone splats into.
  void clear(int b, int64_t step) {
    for (Term* t : terms_) {
      for (size_t i = 0; i < blocks_.size(); ++i) {
        float* values = t->values[t->splatted(step)][i].get();
        for (const auto* rows : {&t->lattice->vertex_rows, &t->lattice->ghost_rows}) {
          std::fill(values + (*rows)[b] * blocks_[i].width,
                    values + (*rows)[b + 1] * blocks_[i].width, 0.0f);
        }
      }
    }
  }

  // One tile. `lanes` [padded channels] hold messages, then Q - 1/L; on the last step Q takes the
  // place of the energies.
  void pass(Lanes* lanes, int64_t tile, int64_t step, bool is_last) {
    std::fill(lanes, lanes + padded_, Lanes{});
    for (size_t i = 0; i < blocks_.size() && step > 0; ++i) {
      with_width(blocks_[i].width, [&](auto width) {
        for (Term* t : terms_) {
          const float* values = t->values[t->blurred(step - 1)][i].get();
          RowOps<width()>::slice(*t->lattice, values, tile, lanes + blocks_[i].first);
        }
      });
    }
    for (int s = 0; s < shape_.sets; ++s) softmax(lanes + s * carried_, s, tile, is_last);
    if (is_last) return;
    for (size_t i = 0; i < blocks_.size(); ++i) {
      with_width(blocks_[i].width, [&](auto width) {
        for (Term* t : terms_) {
          float* values = t->values[t->splatted(step)][i].get();
          RowOps<width()>::splat(*t->lattice, values, tile, lanes + blocks_[i].first);
        }
      });
    }
  }

  // logit_k - m_last = d_k + m_k - m_last, where sum_k count_k m_k + count_last m_last = 0.
  void softmax(Lanes* z, int s, int64_t tile, bool is_last) const {
    const LabelGroups& g = merger_.groups()[s];
    const int last = static_cast<int>(g.first.size()) - 1;
    float* energy = energy_of(tile, s);
    Lanes shift{};
    for (int k = 0; k < last; ++k) shift += g.count[k] * z[k];
    shift /= g.count[last];
    const Lanes last_z = load<kLanes>(energy + carried_ * kLanes);
    Lanes top = last_z;
    for (int k = 0; k < last; ++k) {
      z[k] += load<kLanes>(energy + k * kLanes) + shift;
      top = top > z[k] ? top : z[k];
    }
    const Lanes last_share = exp_negative(last_z - top);
    Lanes total = g.count[last] * last_share;
    for (int k = 0; k < last; ++k) {
      z[k] = exp_negative(z[k] - top);
      total += g.count[k] * z[k];
    }
    const Lanes inverse = 1.0f / total;
    if (is_last) {
      for (int k = 0; k < last; ++k) store<kLanes>(energy + k * kLanes, z[k] * inverse);
      store<kLanes>(energy + carried_ * kLanes, last_share * inverse);
      return;
    }
    const float mean = 1.0f / static_cast<float>(shape_.labels);
    for (int k = 0; k < last; ++k) z[k] = z[k] * inverse - mean;
    for (int k = last; k < carried_; ++k) z[k] = Lanes{};
  }

  // Q from where the last step left it, plane by plane for some tiles at a time: stores to L planes
  // in turn stall the loads between them.
  void write(int64_t first, int64_t last, float* q) const {
    const int64_t n = shape_.pixels();
    for (int s = 0; s < shape_.sets; ++s) {
      const LabelGroups& g = merger_.groups()[s];
      const int rest = static_cast<int>(g.first.size()) - 1;
      for (int l = 0; l < shape_.labels; ++l) {
        const int k = g.group[l] < rest ? g.group[l] : carried_;
        float* plane = q + (static_cast<int64_t>(s) * shape_.labels + l) * n;
        for (int64_t t = first; t < last; ++t) {
          const float* from = energy_of(t, s) + k * kLanes;
          if (const int c = count(pixel_[t]); c == kLanes) {
            store<kLanes>(plane + pixel_[t], load<kLanes>(from));
          } else {
            std::memcpy(plane + pixel_[t], from, c * sizeof(float));
          }
        }
      }
    }
  }

  const CrfShape shape_;
  const CrfParameters parameters_;
  const int threads_, bands_;
  LabelMerger merger_;
  int carried_ = 0;             // K, the most that a unary carries
  int channels_ = 0;            // S * K
  int padded_ = 0;              // with the last block's padding
  std::vector<int64_t> pixel_;  // by tile: its first pixel, in the order of the image's lines
  std::vector<Block> blocks_;
  Term spatial_, bilateral_;
  std::vector<Term*> terms_;
  std::shared_ptr<Lattice> building_;
  BuildState state_;
  Rows blurred_mass_;
  Buffer<float> energy_;
  std::vector<Buffer<Lanes>> scratch_;  // per thread: [padded channels]
  std::vector<const char*> trouble_;    // per band
};

}  // namespace wsss
