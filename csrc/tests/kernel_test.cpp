// C++-only checks of the torch-free kernels, for sanitizers: odd sizes, every row width, thread
// counts that agree.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "../cpu/dense_crf.cpp"
#include "../cpu/lattice.cpp"
#include "../cpu/point_lattice.cpp"

namespace {

uint32_t state = 1;
float uniform() {
  return static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / 16777216.0f;
}

std::vector<float> crf(const std::vector<float>& image, const std::vector<float>& unary,
                       int64_t batch, const wsss::CrfShape& shape,
                       const wsss::CrfParameters& parameters, int threads) {
  std::vector<float> q(unary.size(), -1.0f);
  if (batch > 1 || threads == 1) {
    wsss::cpu::dense_crf(image.data(), unary.data(), q.data(), batch, shape, parameters, threads);
  } else {  // a team inside one image, however small
    wsss::MeanField field(shape, parameters, threads);
    wsss::Team::run(threads, [&](wsss::Team& team, int rank) {
      field.run(team, rank, image.data(), unary.data(), q.data());
    });
  }
  return q;
}

// Q sums to 1; repeated runs and any number of threads agree to the bit.
bool good(int64_t batch, const wsss::CrfShape& shape, const wsss::CrfParameters& parameters) {
  std::vector<float> image(batch * shape.image_channels * shape.pixels()),
      unary(batch * shape.sets * shape.labels * shape.pixels());
  for (float& x : image) x = std::floor(uniform() * 256.0f);
  for (float& x : unary) x = uniform() * 4.0f;
  if (shape.labels > 3) {  // two labels with the same energies
    for (int64_t i = 0; i < shape.pixels(); ++i) unary[2 * shape.pixels() + i] = unary[i];
  }
  const auto one = crf(image, unary, batch, shape, parameters, 1);
  bool fine = one == crf(image, unary, batch, shape, parameters, 1);
  for (int threads : {2, 3}) {
    const auto many = crf(image, unary, batch, shape, parameters, threads);
    fine = fine && many == one;
  }
  const int64_t n = shape.pixels();
  for (int64_t plane = 0; plane < batch * shape.sets; ++plane) {
    for (int64_t p = 0; p < n; ++p) {
      float sum = 0.0f;
      for (int k = 0; k < shape.labels; ++k) sum += one[(plane * shape.labels + k) * n + p];
      fine = fine && std::fabs(sum - 1.0f) < 1e-5f;
    }
  }
  if (!fine) {
    std::printf(
        "failed: batch %d, %dx%d, %d sets, %d labels\n", static_cast<int>(batch),
        static_cast<int>(shape.height), static_cast<int>(shape.width), shape.sets, shape.labels);
  }
  return fine;
}

// The CPU kernel locates 16 pixels at a time, CUDA one: the same simplex to the bit, with weights
// that sum to 1, keys that differ, and neighbours that come back to the vertex after D+1 steps
// (their sum is zero).
bool same_simplex() {
  using namespace wsss;
  constexpr int D = 5;
  KeyLayout<D> layout;
  const double from[D] = {}, to[D] = {300, 200, 400, 300, 200};
  bool fine = layout.fit(from, to);
  float scale[D];
  feature_scale(D, scale);
  const FixedGeometry<D> fixed(layout);
  AnyGeometry any(D);
  double any_to[D];
  for (int j = 0; j < D; ++j) any_to[j] = to[j] / scale[j];
  fine = fine && any.fit(from, any_to);
  for (int trial = 0; trial < 2000; ++trial) {
    Lanes scaled[D];
    for (int j = 0; j < D; ++j) {
      // Whole numbers, too: they lie on simplex boundaries.
      for (int i = 0; i < kLanes; ++i) {
        const float x = uniform() * static_cast<float>(to[j]);
        scaled[j][i] = trial % 2 ? x : std::floor(x);
      }
    }
    Simplex<D, Lanes, IntLanes> many;
    locate<D>(scaled, many);
    Lanes features[D];
    for (int j = 0; j < D; ++j) features[j] = scaled[j] / scale[j];
    FixedGeometry<D>::Tile tile;
    AnyGeometry::Tile other_tile;
    fixed.locate(features, tile);
    any.locate(features, other_tile);
    for (int i = 0; i < kLanes; ++i) {
      float own_scaled[D];
      for (int j = 0; j < D; ++j) own_scaled[j] = features[j][i] * scale[j];
      Simplex<D, float, int> own;
      locate<D>(own_scaled, own);
      uint64_t own_key[D + 1];
      vertex_keys<D>(layout, own.quotient, own.rank, own_key);
      for (int r = 0; r <= D; ++r) {
        fine = fine && tile.key[r][i] == own_key[r] && tile.weight[r][i] == own.weight[r];
        fine = fine && other_tile.weight[r][i] == own.weight[r];
        // The same steps lead from vertex to vertex.
        auto walk = other_tile.key[r][i];
        for (int j = 0; j <= D; ++j) walk = any.next(walk, j);
        fine = fine && walk == other_tile.key[r][i];
      }
    }
    for (int i = 0; i < kLanes; ++i) {
      float one_scaled[D];
      for (int j = 0; j < D; ++j) one_scaled[j] = scaled[j][i];
      Simplex<D, float, int> one;
      locate<D>(one_scaled, one);
      float sum = 0.0f;
      for (int j = 0; j <= D; ++j) {
        fine = fine && one.quotient[j] == many.quotient[j][i] && one.rank[j] == many.rank[j][i];
        fine = fine && one.weight[j] == many.weight[j][i] && one.weight[j] > -1e-4f;
        sum += one.weight[j];
      }
      fine = fine && std::fabs(sum - 1.0f) < 1e-5f;
      uint64_t key[D + 1];
      vertex_keys<D>(layout, one.quotient, one.rank, key);
      for (int r = 0; r <= D; ++r) {
        for (int other = 0; other < r; ++other) fine = fine && key[other] != key[r];
        uint64_t walk = key[r];
        for (int j = 0; j <= D; ++j) walk = next_key<D>(layout, walk, j);
        fine = fine && walk == key[r];
      }
    }
  }
  if (!fine) std::puts("failed: simplex of scalars and vectors");
  return fine;
}

}  // namespace

// Tables return what was put in, grow, and do not find what is not there.
template <class Table>
bool table_holds(int key_bits, typename Table::Key spread) {
  Table table(key_bits, 16);
  bool fine = Table::can_hold(key_bits, 20000);
  for (int n = 0; n < 20000; ++n) fine = fine && table.insert(spread * n, n) == n;
  for (int n = 0; n < 20000; ++n) {
    fine = fine && table.insert(spread * n, 20000) == n && table.find(spread * n) == n;
    fine = fine && table.find(spread * n + 1) == -1;
  }
  if (!fine) std::puts("failed: table");
  return fine;
}

// Transposing there and back, and one element at its place.
template <int W>
bool transposes() {
  float rows[wsss::kLanes * W], back[wsss::kLanes * W];
  for (int i = 0; i < wsss::kLanes * W; ++i) rows[i] = static_cast<float>(i);
  wsss::Lanes lanes[W];
  wsss::to_lanes<W>(rows, lanes);
  wsss::to_rows<W>(lanes, back);
  bool fine = true;
  for (int i = 0; i < wsss::kLanes; ++i) {
    for (int k = 0; k < W; ++k) {
      fine = fine && lanes[k][i] == rows[i * W + k] && back[i * W + k] == rows[i * W + k];
    }
  }
  if (!fine) std::printf("failed: transpose %d\n", W);
  return fine;
}

// <F x, y> = <x, F' y>; threads agree to the bit; constants keep their mass on a dense lattice.
bool filters(int64_t points, int d, int64_t channels) {
  std::vector<float> features(points * d), x(points * channels), y(points * channels);
  for (float& f : features) f = uniform() * 6.0f - 2.0f;
  for (float& v : x) v = uniform();
  for (float& v : y) v = uniform();
  bool fine = true;
  std::vector<float> first_out;
  for (int threads : {1, 3}) {
    wsss::Lattice lattice;
    wsss::build_tiles(features.data(), points, d, threads, lattice);
    const int64_t entries = points * (d + 1), m = lattice.vertices;
    std::vector<int32_t> row(entries), entry(entries), first(m + 1);
    std::vector<float> weight(entries);
    wsss::flatten(lattice, row.data(), weight.data(), entry.data(), first.data());
    const wsss::PointLattice flat{
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
    wsss::cpu::filter_points(flat, x.data(), out.data(), channels, false, threads);
    wsss::cpu::filter_points(flat, y.data(), back.data(), channels, true, threads);
    double forward = 0, backward = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      forward += double{out[i]} * y[i], backward += double{back[i]} * x[i];
    }
    fine = fine && std::fabs(forward - backward) <= 1e-5 * std::fabs(forward);
    if (threads == 1) first_out = out;
    fine = fine && out == first_out;
  }
  if (!fine) {
    std::printf("failed: filter of %d points, %d dimensions\n", static_cast<int>(points), d);
  }
  return fine;
}

wsss::CrfParameters terms(float sxy, float weight, float bxy, float level, float bilateral,
                          int channels) {
  return {
      weight, sxy, sxy + 1, bilateral, bxy, bxy, std::vector<float>(channels, level), 0, 255, 3};
}

int main() {
  bool fine = same_simplex();
  fine &= table_holds<wsss::CompactTable>(40, 0x3ffff1) &&
          table_holds<wsss::WideTable<uint64_t>>(63, 0x3ffff1ffff1);
  fine &= table_holds<wsss::WideTable<unsigned __int128>>(
      127, static_cast<unsigned __int128>(0x3ffff1ffff1) << 40 | 6);
  fine &= transposes<2>() && transposes<4>() && transposes<8>() && transposes<16>();
  fine &= filters(7, 1, 1) && filters(1000, 5, 3) && filters(66001, 3, 4) && filters(200, 9, 2);
  for (int labels : {1, 2, 3, 4, 5, 6, 9, 10, 17, 25, 34, 82}) {
    fine &= good(1, {13, 21, 3, 1, labels}, terms(3, 3, 50, 5, 10, 3));
    fine &= good(3, {9, 7, 3, 2, labels}, terms(1, 0, 20, 0.5f, 4, 3));
  }
  for (int channels : {1, 2, 4, 6}) {
    fine &= good(2, {11, 17, channels, 1, 3}, terms(3, 3, 20, 20, 4, channels));
  }
  for (int64_t side : {1, 2, 3, 5, 16, 17}) {
    fine &= good(1, {side, 1, 3, 1, 3}, terms(3, 3, 50, 5, 10, 3));
    fine &= good(2, {1, side, 0, 3, 2}, terms(1, 3, 1, 1, 0, 0));
  }
  fine &= good(1, {260, 257, 3, 1, 3}, terms(3, 3, 50, 5, 10, 3));  // two bands
  std::puts(fine ? "ok" : "FAILED");
  return fine ? 0 : 1;
}
