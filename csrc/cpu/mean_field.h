// Mean field of the dense CRF (Kraehenbuehl and Koltun 2011, algorithm 1) on lattices,
// for one image and S unaries.
//
// Labels with equal energies are merged into groups (merge.h). Of the G groups of a unary, only
// K = G-1 are carried through the lattices, because Q sums to 1. A channel is Q - 1/L: then the
// messages of all labels sum to 0, and the last group's is known without filtering it. The channels
// of all unaries are adjacent, cut into blocks of up to 16, one array of rows each. One pass over
// the pixels slices, adds the unary, takes the softmax and splats, 16 pixels (a tile) at a time.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>

#include "dense_crf.h"
#include "merge.h"
#include "pairwise_terms.h"

#include "../math/exp.h"

namespace wsss {

// Mean field of images of one shape; every thread of the team calls run().
class MeanField {
 public:
  // `stored`: the bilateral lattices of the images; must outlive this.
  MeanField(const CrfShape& shape, const CrfParameters& parameters, int threads,
            const StoredLattices* stored = nullptr)
      : shape_(shape),
        iterations_(parameters.iterations),
        tiles_(shape.height, shape.width, threads),
        pairwise_(parameters, tiles_, stored),
        merger_(shape.sets, shape.labels, shape.pixels(), threads),
        scratch_(threads),
        is_unary_invalid_(tiles_.bands()) {}

  // image [C, H, W] levels, the one with number `b`; unary [S, L, H, W] energies, q [S, L, H, W].
  // All three contiguous.
  void run(Team& team, int rank, const float* image, const float* unary, float* q, int64_t b = 0) {
    merger_.merge(team, rank, unary);
    if (rank == 0) choose_channels();
    team.barrier();
    tiles_.for_each_band(rank, [&](int b, int64_t first, int64_t last) {
      is_unary_invalid_[b] = !read_unary(first, last, unary);
    });
    if (iterations_ > 0) {
      pairwise_.build(team, rank, image, b);
      if (rank == 0) allocate_values();
    }
    team.barrier();
    check_values();
    iterate(team, rank, q);
  }

 private:
  struct Block {
    int first, width;  // channels
  };

  // Raises what the threads found in the image and the unary.
  void check_values() const {
    if (pairwise_.is_image_invalid()) {
      throw std::invalid_argument("dense_crf: image has NaN or values outside its levels");
    }
    for (char invalid : is_unary_invalid_) {
      if (invalid) throw std::invalid_argument("dense_crf: unary has NaN or infinite values");
    }
  }

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

  // Fills energy_ [tiles, S, K + 1, 16]: each pixel's lowest energy minus the energy of each group,
  // the last group's at the end. (Relative to the energy of a fixed group, a huge energy of that
  // group would cancel the others.) Returns whether all energies are finite.
  bool read_unary(int64_t first, int64_t last, const float* unary) {
    const int64_t n = shape_.pixels();
    Lanes not_finite{};
    for (int64_t t = first; t < last; ++t) {
      const int64_t p = tiles_.first_pixel(t);
      const int count = tiles_.count(p);
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
          const Lanes d = real ? least - load<kLanes>(energy + k * kLanes) : Lanes{} + kNoLabel;
          not_finite += d - d;
          store<kLanes>(energy + k * kLanes, d);
        }
      }
    }
    float sum = 0.0f;
    for (int i = 0; i < kLanes; ++i) sum += not_finite[i];
    return sum == 0.0f;
  }

  void allocate_values() {
    for (Term* t : pairwise_.terms()) {
      for (auto& values : t->values) {
        values.resize(blocks_.size());
        for (size_t i = 0; i < blocks_.size(); ++i) {
          values[i].reserve(t->lattice->rows * blocks_[i].width);
        }
      }
    }
  }

  float* energy_of(int64_t tile, int set) const {
    return energy_.get() + (tile * shape_.sets + set) * (carried_ + 1) * kLanes;
  }

  void iterate(Team& team, int rank, float* q) {
    const int64_t steps = pairwise_.terms().empty() ? 0 : iterations_;
    for (int64_t step = 0; step <= steps; ++step) {
      tiles_.for_each_band(rank, [&](int b, int64_t first, int64_t last) {
        if (step < steps) clear(b, step);
        Lanes* lanes = scratch_[rank].get();
        for (int64_t t = first; t < last; ++t) {
          pass(lanes, t, step, step == steps);
          const int64_t place = (t - first) % kWriteTiles;
          if (step == steps && (place + 1 == kWriteTiles || t + 1 == last)) {
            write(t - place, t + 1, q);
          }
        }
      });
      if (step == steps) break;
      blur(team, rank, tiles_.bands(), [&](const auto& work) {
        for (Term* t : pairwise_.terms()) {
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
    for (Term* t : pairwise_.terms()) {
      for (size_t i = 0; i < blocks_.size(); ++i) {
        float* values = t->values[t->splatted(step)][i].get();
        for (const auto* rows : {&t->lattice->vertex_rows, &t->lattice->ghost_rows}) {
          std::fill(values + (*rows)[b] * blocks_[i].width,
                    values + (*rows)[b + 1] * blocks_[i].width, 0.0f);
        }
      }
    }
  }

  // One tile. `lanes` [padded channels] hold messages, then Q - 1/L; on the last step Q
  // takes the place of the energies.
  void pass(Lanes* lanes, int64_t tile, int64_t step, bool is_last) {
    std::fill(lanes, lanes + padded_, Lanes{});
    for (size_t i = 0; i < blocks_.size() && step > 0; ++i) {
      with_width(blocks_[i].width, [&](auto width) {
        for (Term* t : pairwise_.terms()) {
          const float* values = t->values[t->blurred(step - 1)][i].get();
          RowOps<width()>::slice(*t->lattice, values, tile, lanes + blocks_[i].first);
        }
      });
    }
    for (int s = 0; s < shape_.sets; ++s) softmax(lanes + s * carried_, s, tile, is_last);
    if (is_last) return;
    for (size_t i = 0; i < blocks_.size(); ++i) {
      with_width(blocks_[i].width, [&](auto width) {
        for (Term* t : pairwise_.terms()) {
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
    Lanes last_share, total;
    if (last == 1) {  // the larger share is 1: only the other needs its exponential
      const Lanes d = z[0] - last_z, least = exp_negative(d < Lanes{} ? d : -d);
      last_share = d < Lanes{} ? Lanes{} + 1.0f : least;
      z[0] = d < Lanes{} ? least : Lanes{} + 1.0f;
      total = g.count[1] * last_share + g.count[0] * z[0];
    } else {
      last_share = exp_negative(last_z - top);
      total = g.count[last] * last_share;
      for (int k = 0; k < last; ++k) {
        z[k] = exp_negative(z[k] - top);
        total += g.count[k] * z[k];
      }
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

  // Writes Q from where the last step left it, plane by plane for some tiles at a time: alternating
  // stores to L planes would stall the loads between them.
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
          const int64_t p = tiles_.first_pixel(t);
          if (const int count = tiles_.count(p); count == kLanes) {
            store<kLanes>(plane + p, load<kLanes>(from));
          } else {
            std::memcpy(plane + p, from, count * sizeof(float));
          }
        }
      }
    }
  }

  static constexpr int kWriteTiles = 8;      // tiles at a time in write()
  static constexpr float kNoLabel = -1e30f;  // in place of an energy, for channels without a label

  const CrfShape shape_;
  const int64_t iterations_;
  const PixelTiles tiles_;
  PairwiseTerms pairwise_;
  LabelMerger merger_;
  int carried_ = 0;   // K, the most that a unary carries
  int channels_ = 0;  // S * K
  int padded_ = 0;    // with the last block's padding
  std::vector<Block> blocks_;
  Buffer<float> energy_;
  std::vector<Buffer<Lanes>> scratch_;  // by thread: [padded channels]
  std::vector<char> is_unary_invalid_;  // by band
};

}  // namespace wsss
