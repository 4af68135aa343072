// The ops permutohedral_lattice and lattice_filter: on the CPU, adjoints and thread counts; on
// CUDA, comparisons with a naive lattice.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"
#include "cuda_workspace.h"
#include "testing.h"

#include "../cpu/point_lattice.cpp"
#include "../cuda/point_lattice.cuh"

#include "naive_lattice.h"  // after cpu/simd.h, see math/scalar.h

namespace {

using namespace wsss;
using testing::arenas;
using testing::NaiveLattice;
using testing::raises;
using testing::uniform_float;

// ---- CPU

// <F x, y> = <x, F' y>; results do not depend on the number of threads.
bool filter_is_consistent(int64_t points, int d, int64_t channels) {
  std::vector<float> features(points * d), x(points * channels), y(points * channels);
  for (float& f : features) f = uniform_float() * 6.0f - 2.0f;
  for (float& v : x) v = uniform_float();
  for (float& v : y) v = uniform_float();
  bool passed = true;
  std::vector<float> first_out;
  for (int threads : {1, 3}) {
    Lattice lattice;
    build_tiles(features.data(), points, d, threads, lattice);
    const int64_t entries = points * (d + 1), m = lattice.vertices;
    std::vector<int32_t> row(entries), entry(entries), first(m + 1);
    std::vector<float> weight(entries);
    flatten(lattice, row.data(), weight.data(), entry.data(), first.data());
    const PointLattice flat{
        points,
        m,
        d + 1,
        row.data(),
        weight.data(),
        entry.data(),
        first.data(),
        lattice.next.get(),
        lattice.previous.get()};
    std::vector<float> out(x.size()), back(x.size());
    cpu::filter_points(flat, x.data(), out.data(), channels, false, threads);
    cpu::filter_points(flat, y.data(), back.data(), channels, true, threads);
    double forward = 0, backward = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      forward += double{out[i]} * y[i], backward += double{back[i]} * x[i];
    }
    passed = passed && std::fabs(forward - backward) <= 1e-5 * std::fabs(forward);
    if (threads == 1) first_out = out;
    passed = passed && out == first_out;
  }
  if (!passed) {
    std::printf("failed: filter of %d points, %d dimensions\n", static_cast<int>(points), d);
  }
  return passed;
}

// ---- CUDA

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

Arrays lattice_of(const std::vector<float>& features, int d, bool separate) {
  Arrays a;
  a.points = static_cast<int64_t>(features.size()) / d;
  a.corners = d + 1;
  a.row.assign(a.points * a.corners, -7);
  a.weight.assign(a.points * a.corners, -7.0f);
  a.entry.assign(a.points * a.corners, -7);
  cuda::build_point_lattice(
      {}, features.data(), a.points, d, arenas(separate), [&](int64_t vertices) {
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

// Whether the arrays are as documented: lists sorted by vertex and entry, empty only where no point
// is, neighbours inverse to each other.
bool well_formed(const Arrays& a) {
  bool passed = a.first[0] == 0 && a.first[a.vertices] == static_cast<int32_t>(a.row.size());
  for (int64_t v = 0; v < a.vertices && passed; ++v) {
    passed = a.first[v] <= a.first[v + 1];
    for (int32_t i = a.first[v]; i < a.first[v + 1] && passed; ++i) {
      passed = a.row.at(a.entry[i]) == v && (i == a.first[v] || a.entry[i - 1] < a.entry[i]);
    }
    for (int j = 0; j < a.corners && passed; ++j) {
      const int32_t next = a.next[j * a.vertices + v], previous = a.previous[j * a.vertices + v];
      passed = next >= -1 && next < a.vertices && previous >= -1 && previous < a.vertices;
      passed = passed && (next < 0 || a.previous[j * a.vertices + next] == v);
      passed = passed && (previous < 0 || a.next[j * a.vertices + previous] == v);
    }
  }
  return passed;
}

bool is_correct(int64_t points, int d, int channels, float spread) {
  std::vector<float> features(points * d), values(points * channels);
  for (float& x : features) x = (uniform_float() - 0.5f) * spread;
  for (float& x : values) x = uniform_float() - 0.5f;
  Arrays a = lattice_of(features, d, true);
  cuda_on_cpu::reversed = true;
  const Arrays again = lattice_of(features, d, false);
  cuda_on_cpu::reversed = false;
  bool passed =
      well_formed(a) && a.row == again.row && a.weight == again.weight && a.entry == again.entry &&
      a.first == again.first && a.next == again.next && a.previous == again.previous;
  if (!testing::kCompareResults) {
    filtered(a, values, channels, false);
    return passed;
  }
  const NaiveLattice naive(features, d);
  passed = passed && a.vertices == static_cast<int64_t>(naive.vertices());
  for (bool reverse : {false, true}) {
    if (!passed) break;
    const auto out = filtered(a, values, channels, reverse);
    passed = out == filtered(a, values, channels, reverse);
    for (int c = 0; c < channels; ++c) {
      std::vector<double> plane(points);
      for (int64_t p = 0; p < points; ++p) plane[p] = values[p * channels + c];
      const auto expected = naive.filter(plane, reverse);
      for (int64_t p = 0; p < points; ++p) {
        const double wanted = expected[p] * lattice_gain(d);
        passed =
            passed && std::fabs(out[p * channels + c] - wanted) <= 2e-6 * (1.0 + std::sqrt(points));
      }
    }
  }
  if (!passed) {
    std::printf("failed: lattice of %d points, %d dimensions\n", static_cast<int>(points), d);
  }
  return passed;
}

bool all_correct() {
  bool passed = true;
  for (int d = 1; d <= 8; ++d) {
    for (int64_t points : {1, 2, 3, 4, 5, 33, 260}) {
      passed &= is_correct(points, d, d % 2 ? 3 : 4, 5.0f);
    }
  }
  for (int channels : {1, 2, 6, 20, 21, 81, 300}) passed &= is_correct(37, 5, channels, 3.0f);
  passed &= is_correct(500, 2, 1, 0.01f);     // all points in one simplex
  passed &= is_correct(200, 3, 2, 10000.0f);  // all points in different simplices
  return passed;
}

bool raises_for_invalid_features() {
  const auto build = [](const std::vector<float>& features, int d) {
    return [=] { lattice_of(features, d, true); };
  };
  return raises(build({0.0f, NAN, 1.0f, 2.0f}, 2), "features has NaN") &&
         raises(build({0.0f, 1.0f, -INFINITY, 2.0f}, 2), "features has NaN or infinite") &&
         raises(build({0.0f, 1e9f, 0.0f, 2.0f}, 2), "span too much") &&
         raises(build(std::vector<float>(9), 9), "at most 8 dimensions, not 9");
}

}  // namespace

int main() {
  bool passed = filter_is_consistent(7, 1, 1) && filter_is_consistent(1000, 5, 3) &&
                filter_is_consistent(66001, 3, 4) && filter_is_consistent(200, 9, 2);
  passed &= all_correct() && raises_for_invalid_features();
  return testing::report(passed);
}
