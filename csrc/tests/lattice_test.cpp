// The parts of the CPU lattice: location of points in simplices, vertex keys, hash
// tables, transposition of rows, and teams of threads.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "testing.h"

#include "../cpu/geometry.h"
#include "../cpu/team.h"
#include "../cpu/vertex_table.h"

namespace {

using wsss::testing::uniform_float;

// The CPU kernel locates 16 pixels at a time, CUDA a single one: both must find exactly the same
// simplex, with weights that sum to 1, different keys, and steps along all D+1 directions that
// return to the vertex (their sum is zero).
bool simplices_are_equal() {
  using namespace wsss;
  constexpr int D = 5;
  KeyLayout<D> layout;
  const double from[D] = {}, to[D] = {300, 200, 400, 300, 200};
  bool passed = layout.fit(from, to);
  float scale[D];
  feature_scale(D, scale);
  const FixedGeometry<D> fixed(layout);
  AnyGeometry any(D);
  double any_to[D];
  for (int j = 0; j < D; ++j) any_to[j] = to[j] / scale[j];
  passed = passed && any.fit(from, any_to);
  for (int trial = 0; trial < 2000; ++trial) {
    Lanes scaled[D];
    for (int j = 0; j < D; ++j) {
      // Integers, too: they lie on simplex boundaries.
      for (int i = 0; i < kLanes; ++i) {
        const float x = uniform_float() * static_cast<float>(to[j]);
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
        passed = passed && tile.key[r][i] == own_key[r] && tile.weight[r][i] == own.weight[r];
        passed = passed && other_tile.weight[r][i] == own.weight[r];
        // A step along each direction returns to the vertex.
        auto walk = other_tile.key[r][i];
        for (int j = 0; j <= D; ++j) walk = any.next(walk, j);
        passed = passed && walk == other_tile.key[r][i];
      }
    }
    for (int i = 0; i < kLanes; ++i) {
      float one_scaled[D];
      for (int j = 0; j < D; ++j) one_scaled[j] = scaled[j][i];
      Simplex<D, float, int> one;
      locate<D>(one_scaled, one);
      float sum = 0.0f;
      for (int j = 0; j <= D; ++j) {
        passed = passed && one.quotient[j] == many.quotient[j][i] && one.rank[j] == many.rank[j][i];
        passed = passed && one.weight[j] == many.weight[j][i] && one.weight[j] > -1e-4f;
        sum += one.weight[j];
      }
      passed = passed && std::fabs(sum - 1.0f) < 1e-5f;
      uint64_t key[D + 1];
      vertex_keys<D>(layout, one.quotient, one.rank, key);
      for (int r = 0; r <= D; ++r) {
        for (int other = 0; other < r; ++other) passed = passed && key[other] != key[r];
        uint64_t walk = key[r];
        for (int j = 0; j <= D; ++j) walk = next_key<D>(layout, walk, j);
        passed = passed && walk == key[r];
      }
    }
  }
  if (!passed) std::puts("failed: simplex of scalars and vectors");
  return passed;
}

// Tables return what was inserted, grow, and do not find other keys.
template <class Table>
bool table_is_correct(int key_bits, typename Table::Key spread) {
  Table table(key_bits, 16);
  bool passed = Table::can_hold(key_bits, 20000);
  for (int n = 0; n < 20000; ++n) passed = passed && table.insert(spread * n, n) == n;
  for (int n = 0; n < 20000; ++n) {
    passed = passed && table.insert(spread * n, 20000) == n && table.find(spread * n) == n;
    passed = passed && table.find(spread * n + 1) == -1;
  }
  if (!passed) std::puts("failed: table");
  return passed;
}

// Transposing there and back restores the rows, and puts every element at its place.
template <int W>
bool transpose_is_correct() {
  float rows[wsss::kLanes * W], back[wsss::kLanes * W];
  for (int i = 0; i < wsss::kLanes * W; ++i) rows[i] = static_cast<float>(i);
  wsss::Lanes lanes[W];
  wsss::to_lanes<W>(rows, lanes);
  wsss::to_rows<W>(lanes, back);
  bool passed = true;
  for (int i = 0; i < wsss::kLanes; ++i) {
    for (int k = 0; k < W; ++k) {
      passed = passed && lanes[k][i] == rows[i * W + k] && back[i * W + k] == rows[i * W + k];
    }
  }
  if (!passed) std::printf("failed: transpose %d\n", W);
  return passed;
}

// Hands out parts of kPart ranks, all at the same time.
template <int kPart>
void pool_of_parts(int size, void (*work)(int, int, void*), void* context) {
  std::vector<std::thread> threads;
  for (int first = kPart; first < size; first += kPart) {
    threads.emplace_back(work, first, std::min(first + kPart, size), context);
  }
  work(0, std::min(kPart, size), context);
  for (auto& thread : threads) thread.join();
}

// All ranks run once and meet at barriers, and the first failure ends all of them.
bool team_is_correct() {
  using wsss::Team;
  constexpr int kSize = 5;
  int sum = 0, met = 0;
  std::vector<int> runs(kSize, 0);
  Team::run(kSize, [&](Team& team, int rank) {
    ++runs[rank];
    team.barrier();
    if (rank == 3) {
      for (int r : runs) sum += r;
    }
    team.barrier();
    if (rank == 0) met = sum;
  });
  bool failed = false;
  try {
    Team::run(kSize, [&](Team& team, int rank) {
      if (rank == 2) throw std::invalid_argument("rank 2");
      for (;;) team.barrier();
    });
  } catch (const std::invalid_argument& error) {
    failed = std::string(error.what()) == "rank 2";
  }
  return met == kSize && runs == std::vector<int>(kSize, 1) && failed;
}

bool teams_are_correct() {
  bool passed = team_is_correct();
  for (wsss::Team::Pool pool : {pool_of_parts<1>, pool_of_parts<2>, pool_of_parts<5>}) {
    wsss::Team::use(pool);
    passed &= team_is_correct();
  }
  wsss::Team::use(nullptr);
  return passed;
}

}  // namespace

int main() {
  bool passed = simplices_are_equal();
  passed &= table_is_correct<wsss::CompactTable>(40, 0x3ffff1) &&
            table_is_correct<wsss::WideTable<uint64_t>>(63, 0x3ffff1ffff1);
  passed &= table_is_correct<wsss::WideTable<unsigned __int128>>(
      127, static_cast<unsigned __int128>(0x3ffff1ffff1) << 40 | 6);
  passed &= transpose_is_correct<2>() && transpose_is_correct<4>() && transpose_is_correct<8>() &&
            transpose_is_correct<16>();
  passed &= teams_are_correct();
  return wsss::testing::report(passed);
}
