// Runs the CUDA lattice and dense CRF on the CPU (cuda_on_cpu.h) and compares them with naive
// lattices written here, which share only the location of a point in its simplex with them.
#include "cuda_on_cpu.h"

#include <array>
#include <map>

#include "../cuda/dense_crf.cuh"
#include "../cuda/point_lattice.cuh"

namespace {

using namespace wsss;

uint32_t state = 1;
float uniform() {
  return static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / 16777216.0f;
}

// ---- the naive lattice: vertices by their coordinates, everything in double

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

// ---- the naive mean field

struct Problem {
  int64_t batch, height, width;
  int image_channels, sets, labels;
  double gaussian[3], bilateral[3];  // sx, sy, weight
  double sigma, lowest, highest;     // of all image channels
  int64_t iterations;
  std::vector<float> image, unary;
  int64_t pixels() const { return height * width; }
};

std::vector<float> softmax_of_one(const Problem& p, int64_t b, int64_t set) {
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

// ---- the CUDA code

// Memory whose unset values are not zero: a large negative number as float, an index out of range
// as integer.
struct Pieces {
  std::vector<std::unique_ptr<char[]>> held;
  char* take(int64_t bytes) {
    held.emplace_back(new char[bytes]);
    std::memset(held.back().get(), 0xcd, bytes);
    return held.back().get();
  }
};

// with_arena of the CUDA code: pieces apart, or in one allocation.
auto arenas(bool apart) {
  return [apart](int64_t bytes, const auto& use) {
    Pieces pieces;
    cuda::Arena arena = apart ? cuda::Arena([&](int64_t piece) { return pieces.take(piece); })
                              : cuda::Arena(pieces.take(std::max<int64_t>(bytes, 1)), bytes);
    use(arena);
  };
}

std::vector<float> run_cuda(const Problem& p, int64_t first, int64_t batch, bool apart,
                            int64_t workspace) {
  const int64_t n = p.pixels(), plane = static_cast<int64_t>(p.sets) * p.labels * n;
  // Exactly as large as needed, so that the sanitizer sees reads past the end.
  const std::vector<float> image(p.image.begin() + first * p.image_channels * n,
                                 p.image.begin() + (first + batch) * p.image_channels * n);
  const std::vector<float> unary(
      p.unary.begin() + first * plane, p.unary.begin() + (first + batch) * plane);
  std::vector<float> q(batch * plane, -1.0f);
  cuda::CrfCall call{batch,          p.height,       p.width,        p.image_channels,
                     p.sets,         p.labels,       image.data(),   unary.data(),
                     q.data(),       p.gaussian[0],  p.gaussian[1],  p.gaussian[2],
                     p.bilateral[0], p.bilateral[1], p.bilateral[2], {},
                     p.lowest,       p.highest,      p.iterations};
  std::fill_n(call.levels, p.image_channels, p.sigma);
  cuda::dense_crf({}, call, arenas(apart), workspace);
  return q;
}

bool crf_is_right(Problem p, const char* name) {
  const int64_t n = p.pixels();
  p.image.resize(p.batch * p.image_channels * n);
  p.unary.resize(p.batch * p.sets * p.labels * n);
  // Images of very different content: flat, smooth, noise.
  for (size_t i = 0; i < p.image.size(); ++i) {
    const int64_t b = static_cast<int64_t>(i) / (p.image_channels * n);
    p.image[i] = b % 3 == 0   ? std::floor(uniform() * 60.0f) +
                                    static_cast<float>(i % n) / static_cast<float>(n) * 150.0f
                 : b % 3 == 1 ? 255.0f
                              : std::floor(uniform() * 256.0f);
  }
  for (float& x : p.unary) x = uniform() * 3.0f;
  const int64_t large = cuda::kWorkspaceBytes;
  const auto q = run_cuda(p, 0, p.batch, true, large);
  const bool repeats = q == run_cuda(p, 0, p.batch, false, large);  // pieces that share memory, too
  std::vector<float> loop;
  for (int64_t b = 0; b < p.batch; ++b) {
    const auto one = run_cuda(p, b, 1, true, large);
    loop.insert(loop.end(), one.begin(), one.end());
  }
  const bool same_as_loop = q == loop;
  const bool same_in_chunks = q == run_cuda(p, 0, p.batch, false, 1);
  float worst = 0.0f;
  const int64_t plane = static_cast<int64_t>(p.labels) * n;
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t s = 0; s < p.sets; ++s) {
      const auto expected = softmax_of_one(p, b, s);
      for (int64_t i = 0; i < plane; ++i) {
        const float d = std::fabs(q[(b * p.sets + s) * plane + i] - expected[i]);
        worst = d <= worst ? worst : d;  // NaN stays
      }
    }
  }
  const bool right = worst <= 2e-5f;
  if (!(right && repeats && same_as_loop && same_in_chunks)) {
    std::printf("failed: %s: error %g, repeats %d, batch is loop %d, chunks %d\n", name, worst,
                repeats, same_as_loop, same_in_chunks);
    return false;
  }
  return true;
}

Problem problem(int64_t batch, int64_t height, int64_t width, int channels, int sets, int labels,
                int64_t iterations = 3) {
  return {batch,       height, width, channels, sets,       labels, {3, 3, 3},
          {20, 20, 5}, 13,     0,     255,      iterations, {},     {}};
}

bool all_crf() {
  bool fine = true;
  for (int labels : {1, 2, 3, 4, 5, 6, 9, 10, 17, 21, 25, 33, 34, 50, 65, 81, 98, 129, 256}) {
    fine &= crf_is_right(
        problem(2, 5, 7, 3, 1, labels, 2), ("labels " + std::to_string(labels)).c_str());
  }
  for (int sets : {2, 3}) {
    for (int labels : {1, 2, 3, 4, 7}) {
      fine &= crf_is_right(problem(2, 6, 5, 3, sets, labels, 2),
                           ("sets of labels " + std::to_string(labels)).c_str());
    }
  }
  fine &= crf_is_right(problem(1, 3, 3, 3, 2, 256, 1), "rows longer than a block's x");
  for (int channels = 0; channels <= 6; ++channels) {
    fine &= crf_is_right(
        problem(3, 7, 9, channels, 1, 3), ("image channels " + std::to_string(channels)).c_str());
  }
  for (int64_t side : {1, 2, 3, 4, 5, 8, 17}) {
    fine &= crf_is_right(problem(2, side, 1, 3, 1, 3), "one column");
    fine &= crf_is_right(problem(2, 1, side, 1, 2, 2), "one row");
  }
  fine &= crf_is_right(problem(5, 31, 33, 3, 2, 3, 5), "five images, long lists");
  Problem spatial = problem(3, 12, 11, 9, 1, 4);
  spatial.bilateral[2] = 0;  // then any number of channels will do
  fine &= crf_is_right(spatial, "spatial only");
  Problem bilateral = problem(3, 12, 11, 3, 2, 3);
  bilateral.gaussian[2] = 0;
  fine &= crf_is_right(bilateral, "bilateral only");
  Problem none = problem(2, 6, 7, 3, 2, 3);
  none.gaussian[2] = none.bilateral[2] = 0;
  fine &= crf_is_right(none, "no terms");
  fine &= crf_is_right(problem(2, 6, 7, 3, 1, 3, 0), "no iterations");
  fine &= crf_is_right(problem(0, 6, 7, 3, 1, 3), "no images");
  fine &= crf_is_right(problem(2, 0, 7, 3, 1, 3), "no pixels");
  Problem anisotropic = problem(2, 14, 9, 3, 1, 3);
  anisotropic.gaussian[1] = 1, anisotropic.bilateral[0] = 5, anisotropic.sigma = 2;
  fine &= crf_is_right(anisotropic, "anisotropic, many vertices");
  Problem clamped = problem(2, 9, 8, 3, 1, 3);
  clamped.lowest = 20, clamped.highest = 90;
  fine &= crf_is_right(clamped, "levels outside their range");
  Problem wide = problem(2, 9, 8, 1, 1, 2);
  wide.lowest = -3000, wide.highest = 70000;
  fine &= crf_is_right(wide, "wide levels");
  return fine;
}

// ---- the lattice ops

struct Arrays {
  std::vector<int32_t> row, entry, first, next, previous;
  std::vector<float> weight;
  int64_t points = 0, vertices = 0;
  int corners = 0;
  cuda::PointLattice view() {
    return {points,       vertices,     corners,     row.data(),     weight.data(),
            entry.data(), first.data(), next.data(), previous.data()};
  }
};

Arrays lattice_of(const std::vector<float>& features, int d, bool apart) {
  Arrays a;
  a.points = static_cast<int64_t>(features.size()) / d;
  a.corners = d + 1;
  a.row.assign(a.points * a.corners, -7);
  a.weight.assign(a.points * a.corners, -7.0f);
  a.entry.assign(a.points * a.corners, -7);
  cuda::build_point_lattice({}, features.data(), a.points, d, arenas(apart), [&](int64_t vertices) {
    a.vertices = vertices;
    a.first.assign(vertices + 1, -7);
    a.next.assign(vertices * a.corners, -7);
    a.previous.assign(vertices * a.corners, -7);
    return a.view();
  });
  return a;
}

std::vector<float> filtered(Arrays& a, const std::vector<float>& values, int channels,
                            bool reverse) {
  std::vector<float> out(values.size(), -7.0f);
  cuda::filter_points({}, a.view(), values.data(), out.data(), channels, reverse, arenas(true));
  return out;
}

// As the op promises: lists sorted by vertex and entry, empty only where no point is, neighbours
// each other's inverse.
bool well_formed(const Arrays& a) {
  bool fine = a.first[0] == 0 && a.first[a.vertices] == static_cast<int32_t>(a.row.size());
  for (int64_t v = 0; v < a.vertices && fine; ++v) {
    fine = a.first[v] <= a.first[v + 1];
    for (int32_t i = a.first[v]; i < a.first[v + 1] && fine; ++i) {
      fine = a.row.at(a.entry[i]) == v && (i == a.first[v] || a.entry[i - 1] < a.entry[i]);
    }
    for (int j = 0; j < a.corners && fine; ++j) {
      const int32_t next = a.next[j * a.vertices + v], previous = a.previous[j * a.vertices + v];
      fine = next >= -1 && next < a.vertices && previous >= -1 && previous < a.vertices;
      fine = fine && (next < 0 || a.previous[j * a.vertices + next] == v);
      fine = fine && (previous < 0 || a.next[j * a.vertices + previous] == v);
    }
  }
  return fine;
}

bool lattice_is_right(int64_t points, int d, int channels, float spread) {
  std::vector<float> features(points * d), values(points * channels);
  for (float& x : features) x = (uniform() - 0.5f) * spread;
  for (float& x : values) x = uniform() - 0.5f;
  Arrays a = lattice_of(features, d, true);
  const Arrays again = lattice_of(features, d, false);
  const NaiveLattice naive(features, d);
  bool fine = well_formed(a) && a.vertices == static_cast<int64_t>(naive.vertices());
  fine = fine && a.row == again.row && a.weight == again.weight && a.entry == again.entry &&
         a.first == again.first && a.next == again.next && a.previous == again.previous;
  for (bool reverse : {false, true}) {
    if (!fine) break;
    const auto out = filtered(a, values, channels, reverse);
    fine = out == filtered(a, values, channels, reverse);
    for (int c = 0; c < channels; ++c) {
      std::vector<double> plane(points);
      for (int64_t p = 0; p < points; ++p) plane[p] = values[p * channels + c];
      const auto expected = naive.filter(plane, reverse);
      for (int64_t p = 0; p < points; ++p) {
        const double wanted = expected[p] * lattice_gain(d);
        fine =
            fine && std::fabs(out[p * channels + c] - wanted) <= 2e-6 * (1.0 + std::sqrt(points));
      }
    }
  }
  if (!fine) {
    std::printf("failed: lattice of %d points, %d dimensions\n", static_cast<int>(points), d);
  }
  return fine;
}

bool all_lattices() {
  bool fine = true;
  for (int d = 1; d <= 8; ++d) {
    for (int64_t points : {1, 2, 3, 4, 5, 33, 260}) {
      fine &= lattice_is_right(points, d, d % 2 ? 3 : 4, 5.0f);
    }
  }
  for (int channels : {1, 2, 6, 20, 21, 81, 300}) fine &= lattice_is_right(37, 5, channels, 3.0f);
  fine &= lattice_is_right(500, 2, 1, 0.01f);     // one simplex
  fine &= lattice_is_right(200, 3, 2, 10000.0f);  // every point alone
  return fine;
}

template <class Run>
bool throws(const Run& run, const char* message) {
  try {
    run();
  } catch (const std::exception& error) {
    if (std::string(error.what()).find(message) != std::string::npos) return true;
    std::printf("failed: refused with %s\n", error.what());
    return false;
  }
  std::printf("failed: not refused: %s\n", message);
  return false;
}

bool crf_refuses(Problem p, const char* message) {
  p.image.resize(p.image_channels * p.pixels());
  p.unary.resize(p.sets * p.labels * p.pixels());
  return throws([&] { run_cuda(p, 0, 1, true, 1); }, message);
}

}  // namespace

int main() {
  bool fine = all_crf();
  fine &= all_lattices();
  fine &= crf_refuses(problem(1, 4, 4, 7, 1, 2), "at most 8 dimensions, not 9");
  Problem tiny = problem(1, 50, 50, 3, 1, 2);
  tiny.sigma = 1e-3;
  fine &= crf_refuses(tiny, "bilateral sigmas are too small");
  fine &= throws([] { lattice_of({0.0f, NAN, 1.0f, 2.0f}, 2, true); }, "features has NaN");
  fine &= throws(
      [] { lattice_of({0.0f, 1.0f, -INFINITY, 2.0f}, 2, true); }, "features has NaN or infinite");
  fine &= throws([] { lattice_of({0.0f, 1e9f, 0.0f, 2.0f}, 2, true); }, "span too much");
  fine &= throws([] { lattice_of(std::vector<float>(9), 9, true); }, "at most 8 dimensions, not 9");
  std::puts(fine ? "ok" : "FAILED");
  return fine ? 0 : 1;
}
