// Mean field of the dense CRF (Kraehenbuehl and Koltun 2011, algorithm 1) on lattices, for one image and S unaries.
//
// Only L-1 of the L labels are carried: Q sums to 1, so the last label's message is the filtered constant 1 minus the
// others'. A lattice row holds the K = L-1 channels of all S unaries: packed while K <= kNarrow, else each unary padded
// to a multiple of 8. One pass over the pixels slices, adds the unary, takes the softmax and splats, tile by tile.
#pragma once

#include <cmath>
#include <memory>

#include "rows.h"

#include "../math/exp.h"

namespace wsss {

struct CrfShape {
  int64_t height, width;
  int sets, labels;  // S, L
  int64_t pixels() const { return height * width; }
};

struct CrfParameters {
  float gaussian_sxy, gaussian_weight;
  float bilateral_sxy, bilateral_srgb, bilateral_weight;
  int64_t iterations;
};

constexpr int kNarrow = 4;  // up to here the softmax runs over pixels as SIMD lanes, beyond over labels

// Mean field of images of one shape; every thread of the team calls run(). The spatial lattice is built once.
class MeanField {
 public:
  MeanField(const CrfShape& shape, const CrfParameters& parameters, int threads)
      : shape_(shape),
        parameters_(parameters),
        threads_(threads),
        last_(shape.labels - 1),
        bands_(band_count(shape.pixels())) {
    narrow_ = last_ <= kNarrow;
    stride_ = narrow_ ? last_ : (last_ + 7) / 8 * 8;
    const int channels = stride_ * shape.sets;
    width_ = channels <= 2 ? channels : channels <= 4 ? 4 : (channels + 7) / 8 * 8;
    const int64_t padded = (shape.pixels() + kLanes - 1) / kLanes * kLanes;
    energy_.reset(new float[padded * stride_ * shape.sets]);
    ones_.reset(new float[padded]());
    scratch_.resize(threads);
    for (auto& s : scratch_) s.assign((kLanes + 1) * static_cast<size_t>(width_), 0.0f);
    finite_.assign(bands_, 1);
  }

  // image [3, H, W] levels, unary [S, L, H, W] energies, q [S, L, H, W]. All three contiguous.
  void run(Team& team, int rank, const float* image, const float* unary, float* q) {
    each_band(rank, [&](int b, int64_t first, int64_t last) { finite_[b] = read_unary(first, last, unary); });
    if (parameters_.iterations > 0) prepare_terms(team, rank, image);
    team.barrier();
    for (int f : finite_) {
      if (!f) throw std::runtime_error("dense_crf: unary has NaN or infinite values");
    }
    switch (width_) {
      case 1: iterate<1, 1>(team, rank, q); break;
      case 2: iterate<2, 1>(team, rank, q); break;
      case 4: iterate<4, 1>(team, rank, q); break;
      case 8: iterate<8, 1>(team, rank, q); break;
      case 16: iterate<8, 2>(team, rank, q); break;
      case 24: iterate<8, 3>(team, rank, q); break;
      case 32: iterate<8, 4>(team, rank, q); break;
      default: iterate<8, 0>(team, rank, q);
    }
  }

 private:
  using Ones = RowOps<1, 1>;
  static constexpr float kOne = 1.0f;

  // work(band, first pixel, last pixel) for this thread's bands
  template <class Work>
  void each_band(int rank, const Work& work) const {
    const auto [from, to] = Team::part(bands_, rank, threads_);
    for (int b = from; b < to; ++b) {
      const auto [first, last] = band_pixels(shape_.pixels(), b, bands_);
      work(b, first, last);
    }
  }

  // Differences to the last label's energy, in the order the passes read them: narrow [tile, S, K, 16], else
  // [pixel, S, stride].
  // False when an energy is not finite.
  bool read_unary(int64_t first, int64_t last, const float* unary) {
    const int64_t n = shape_.pixels();
    float trouble = 0.0f;
    for (int64_t p = first; p < last; p += kLanes) {
      const int count = static_cast<int>(std::min<int64_t>(kLanes, last - p));
      for (int s = 0; s < shape_.sets; ++s) {
        const float* base = unary + (static_cast<int64_t>(s) * shape_.labels + last_) * n + p;
        for (int k = 0; k < stride_; ++k) {
          const float* own = unary + (static_cast<int64_t>(s) * shape_.labels + k) * n + p;
          for (int i = 0; i < count; ++i) {
            const float d = k < last_ ? base[i] - own[i] : -1e30f;
            trouble += d - d;
            const int64_t at = narrow_ ? (p * shape_.sets + s * kLanes) * stride_ + k * kLanes + i
                                       : ((p + i) * shape_.sets + s) * stride_ + k;
            energy_[at] = d;
          }
        }
      }
    }
    return trouble == 0.0f;
  }

  void prepare_terms(Team& team, int rank, const float* image) {
    const float sxy = parameters_.gaussian_sxy, bxy = parameters_.bilateral_sxy, srgb = parameters_.bilateral_srgb;
    const double right = static_cast<double>(shape_.width), down = static_cast<double>(shape_.height);
    const bool first_image = !spatial_ready_;
    team.barrier();
    if (parameters_.gaussian_weight > 0 && first_image) {
      const double span[2] = {right / sxy, down / sxy};
      build<2>(team, rank, spatial_, span, parameters_.gaussian_weight, [&](int64_t p, Lanes* f) { position(p, sxy, f); });
    }
    if (parameters_.bilateral_weight > 0) {
      const double span[5] = {right / bxy, down / bxy, 255.0 / srgb, 255.0 / srgb, 255.0 / srgb};
      build<5>(team, rank, bilateral_, span, parameters_.bilateral_weight, [&](int64_t p, Lanes* f) {
        position(p, bxy, f);
        const int64_t n = shape_.pixels();
        for (int c = 0; c < 3; ++c) {
          const float* level = image + c * n + p;
          Lanes v{};
          for (int i = 0; i < kLanes; ++i) v[i] = level[std::min<int64_t>(i, n - 1 - p)];
          f[2 + c] = v / srgb;
        }
      });
    }
    if (rank == 0) {
      terms_.clear();
      if (parameters_.gaussian_weight > 0) terms_.push_back(&spatial_);
      if (parameters_.bilateral_weight > 0) terms_.push_back(&bilateral_);
      for (Term* t : terms_) t->reserve(width_);
      spatial_ready_ = true;
    }
    team.barrier();
    filter_ones(team, rank);
  }

  void position(int64_t pixel, float sxy, Lanes* f) const {
    Lanes x, y;
    for (int i = 0; i < kLanes; ++i) {
      x[i] = static_cast<float>((pixel + i) % shape_.width);
      y[i] = static_cast<float>(std::min((pixel + i) / shape_.width, shape_.height - 1));
    }
    f[0] = x / sxy;
    f[1] = y / sxy;
  }

  // The lattice of one term; its weights times n * sqrt(weight * gain), so that splat and slice need no other factor.
  template <int D, class Features>
  void build(Team& team, int rank, Term& term, const double* span, float weight, const Features& features) {
    float scale[D];
    feature_scale(D, scale);
    if (rank == 0) {
      double scaled_span[D];
      for (int i = 0; i < D; ++i) scaled_span[i] = span[i] * scale[i];
      auto layout = std::make_shared<KeyLayout<D>>();
      if (!layout->fit(scaled_span)) throw std::runtime_error("dense_crf: sigmas are too small for 64-bit lattice keys");
      layout_ = layout;
      builder_ = std::make_shared<LatticeBuilder<D>>(term.lattice, *layout, shape_.pixels());
    }
    team.barrier();
    static_cast<LatticeBuilder<D>*>(builder_.get())->build(team, rank, [&](int64_t p, Lanes* f) {
      features(p, f);
      for (int i = 0; i < D; ++i) f[i] *= scale[i];
    });
    if (rank == 0) {
      builder_.reset();
      term.reserve(1);
    }
    team.barrier();
    Lattice& lattice = term.lattice;
    Term* only[] = {&term};
    splat_ones(team, rank, only, 1);
    const float gain = lattice_gain(D);
    each_band(rank, [&](int, int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        float mass = 0.0f;
        Ones::slice(lattice, term.values(0), 1, p, 1, &mass);
        const float factor = std::sqrt(weight * gain) / std::sqrt(mass * gain + 1e-20f);
        for (int r = 0; r <= D; ++r) lattice.weight[p * (D + 1) + r] *= factor;
      }
    });
    team.barrier();
  }

  // values(0), one channel wide: the blurred splat of Q = 1.
  void splat_ones(Team& team, int rank, Term* const* terms, size_t count) {
    each_band(rank, [&](int b, int64_t first, int64_t last) {
      clear(terms, count, b, 0, 1);
      for (size_t t = 0; t < count; ++t) {
        for (int64_t p = first; p < last; ++p) Ones::splat(terms[t]->lattice, terms[t]->values(0), 1, p, 1, &kOne);
      }
    });
    blur<1, 1>(team, rank, terms, count, 0, 1);
  }

  // ones_ [pixels]: what all terms make of Q = 1.
  void filter_ones(Team& team, int rank) {
    splat_ones(team, rank, terms_.data(), terms_.size());
    each_band(rank, [&](int, int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        ones_[p] = 0.0f;
        for (Term* t : terms_) Ones::slice(t->lattice, t->values(0), 1, p, 1, &ones_[p]);
      }
    });
    team.barrier();
  }

  // Zeroes the rows that band b alone splats into.
  void clear(Term* const* terms, size_t count, int b, int parity, int width) {
    for (size_t t = 0; t < count; ++t) {
      const Lattice& l = terms[t]->lattice;
      float* values = terms[t]->values(parity);
      for (const auto* rows : {&l.vertex_rows, &l.ghost_rows}) {
        std::fill(values + (*rows)[b] * width, values + (*rows)[b + 1] * width, 0.0f);
      }
    }
  }

  // After the team's splats: sums the ghosts, blurs every direction, refreshes the ghosts. Ends with a barrier.
  template <int V, int N>
  void blur(Team& team, int rank, Term* const* terms, size_t count, int parity, int width) {
    float* scratch = scratch_[rank].data() + static_cast<size_t>(kLanes) * width_;
    team.barrier();
    if (bands_ > 1) {
      for (size_t t = 0; t < count; ++t) {
        RowOps<V, N>::add_ghosts(terms[t]->lattice, terms[t]->values(parity), width, rank, threads_);
      }
      team.barrier();
    }
    for (int j = 0; j < 6; ++j) {
      for (size_t t = 0; t < count; ++t) {
        const Lattice& lattice = terms[t]->lattice;
        if (j >= lattice.corners) continue;
        const auto [first, last] = lattice.run_part(j, rank, threads_);
        RowOps<V, N>::blur(lattice.runs[j], first, last, terms[t]->values(parity), width, scratch);
      }
      team.barrier();
    }
    if (bands_ > 1) {
      for (size_t t = 0; t < count; ++t) {
        RowOps<V, N>::refresh_ghosts(terms[t]->lattice, terms[t]->values(parity), width, rank, threads_);
      }
      team.barrier();
    }
  }

  template <int V, int N>
  void iterate(Team& team, int rank, float* q) {
    const int64_t steps = terms_.empty() ? 0 : parameters_.iterations;
    for (int64_t step = 0; step <= steps; ++step) {
      const int from = static_cast<int>((step + 1) & 1), to = static_cast<int>(step & 1);
      each_band(rank, [&](int b, int64_t first, int64_t last) {
        if (step < steps) clear(terms_.data(), terms_.size(), b, to, width_);
        pass<V, N>(scratch_[rank].data(), first, last, step > 0, step == steps, from, to, q);
      });
      if (step < steps) blur<V, N>(team, rank, terms_.data(), terms_.size(), to, width_);
    }
  }

  // `tile` [16, width] holds messages, then Q.
  template <int V, int N>
  void pass(float* tile, int64_t first, int64_t last, bool has_message, bool is_last, int from, int to, float* q) {
    for (int64_t p = first; p < last; p += kLanes) {
      const int count = static_cast<int>(std::min<int64_t>(kLanes, last - p));
      std::fill(tile, tile + kLanes * width_, 0.0f);
      if (has_message) {
        for (Term* t : terms_) RowOps<V, N>::slice(t->lattice, t->values(from), width_, p, count, tile);
      }
      if (narrow_) {
        narrow_softmax(tile, p, has_message);
      } else {
        for (int i = 0; i < count; ++i) wide_softmax(tile + static_cast<size_t>(i) * width_, p + i, has_message);
      }
      if (is_last) {
        write(tile, p, count, q);
        continue;
      }
      for (Term* t : terms_) RowOps<V, N>::splat(t->lattice, t->values(to), width_, p, count, tile);
    }
  }

  // logit_k - logit_last = d_k + m_k - m_last with m_last = ones - sum_k m_k; the last logit is 0.
  void narrow_softmax(float* tile, int64_t pixel, bool has_message) const {
    const Lanes ones = has_message ? load<kLanes>(ones_.get() + pixel) : Lanes{};
    for (int s = 0; s < shape_.sets; ++s) {
      const float* energy = energy_.get() + (pixel * shape_.sets + s * kLanes) * last_;
      Lanes z[kNarrow], shift = -ones, top{};
      for (int k = 0; k < last_; ++k) {
        for (int i = 0; i < kLanes; ++i) z[k][i] = tile[i * width_ + s * last_ + k];
        shift += z[k];
      }
      for (int k = 0; k < last_; ++k) {
        z[k] += load<kLanes>(energy + k * kLanes) + shift;
        top = top > z[k] ? top : z[k];
      }
      Lanes total = exp_negative(-top);
      for (int k = 0; k < last_; ++k) total += z[k] = exp_negative(z[k] - top);
      for (int k = 0; k < last_; ++k) {
        z[k] /= total;
        for (int i = 0; i < kLanes; ++i) tile[i * width_ + s * last_ + k] = z[k][i];
      }
    }
  }

  void wide_softmax(float* row, int64_t pixel, bool has_message) const {
    const float ones = has_message ? ones_[pixel] : 0.0f;
    for (int s = 0; s < shape_.sets; ++s, row += stride_) {
      const float* energy = energy_.get() + (pixel * shape_.sets + s) * stride_;
      Row8 total{}, most{};
      for (int k = 0; k < stride_; k += 8) total += load<8>(row + k);
      const float shift = sum(total) - ones;
      for (int k = 0; k < stride_; k += 8) {
        const Row8 z = load<8>(row + k) + load<8>(energy + k) + shift;
        most = most > z ? most : z;
        store<8>(row + k, z);
      }
      const float top = maximum(most);
      total = Row8{};
      for (int k = 0; k < stride_; k += 8) {
        const Row8 e = exp_negative(load<8>(row + k) - top);
        total += e;
        store<8>(row + k, e);
      }
      const float inverse = 1.0f / (sum(total) + exp_negative(Row8{} - top)[0]);
      for (int k = 0; k < stride_; k += 8) store<8>(row + k, load<8>(row + k) * inverse);
    }
  }

  void write(const float* tile, int64_t pixel, int count, float* q) const {
    const int64_t n = shape_.pixels();
    for (int s = 0; s < shape_.sets; ++s) {
      float* out = q + static_cast<int64_t>(s) * shape_.labels * n + pixel;
      for (int i = 0; i < count; ++i) {
        float rest = 1.0f;
        for (int k = 0; k < last_; ++k) {
          const float value = tile[static_cast<size_t>(i) * width_ + s * stride_ + k];
          out[k * n + i] = value;
          rest -= value;
        }
        out[last_ * n + i] = std::max(rest, 0.0f);
      }
    }
  }

  const CrfShape shape_;
  const CrfParameters parameters_;
  const int threads_, last_, bands_;  // last_ = L-1 = K
  bool narrow_;
  int stride_;  // channels of one unary in a row
  int width_;   // floats of a row
  Term spatial_, bilateral_;
  bool spatial_ready_ = false;
  std::vector<Term*> terms_;
  std::shared_ptr<void> layout_, builder_;  // of the lattice under construction, shared by the team
  std::unique_ptr<float[]> energy_;
  std::unique_ptr<float[]> ones_;  // [pixels]
  std::vector<std::vector<float>> scratch_;  // per thread: a tile [16, width] and a row [width]
  std::vector<int> finite_;
};

// image [B, 3, H, W], unary and q [B, S, L, H, W]. Parallel over images when there are enough, else inside each.
inline void dense_crf_cpu(const float* image, const float* unary, float* q, int64_t batch, const CrfShape& shape,
                          const CrfParameters& parameters, int threads) {
  const int64_t pixels = shape.pixels(), values = pixels * shape.sets * shape.labels;
  if (batch == 0 || values == 0) return;
  if (shape.labels == 1) {
    std::fill(q, q + batch * values, 1.0f);
    return;
  }
  const int inside = std::min(threads, band_count(pixels));
  if (inside > 1 && batch < threads) {
    MeanField field(shape, parameters, inside);
    Team::run(inside, [&](Team& team, int rank) {
      for (int64_t b = 0; b < batch; ++b) {
        field.run(team, rank, image + b * 3 * pixels, unary + b * values, q + b * values);
        team.barrier();
      }
    });
    return;
  }
  threads = static_cast<int>(std::min<int64_t>(threads, batch));
  Team::run(threads, [&](Team&, int rank) {
    Team alone(1);
    MeanField field(shape, parameters, 1);
    for (int64_t b = rank; b < batch; b += threads) {
      field.run(alone, 0, image + b * 3 * pixels, unary + b * values, q + b * values);
    }
  });
}

}  // namespace wsss
