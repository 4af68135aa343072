// C++-only checks of the torch-free kernels, for sanitizers: odd sizes, every row width, thread counts that agree.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "../cpu/mean_field.h"

namespace {

uint32_t state = 1;
float uniform() { return static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / 16777216.0f; }

std::vector<float> crf(const std::vector<float>& image, const std::vector<float>& unary, int64_t batch,
                       const wsss::CrfShape& shape, const wsss::CrfParameters& parameters, int threads) {
  std::vector<float> q(unary.size(), -1.0f);
  if (batch > 1 || threads == 1) {
    wsss::dense_crf_cpu(image.data(), unary.data(), q.data(), batch, shape, parameters, threads);
  } else if (shape.labels > 1) {  // a team inside one image, however small
    wsss::MeanField field(shape, parameters, threads);
    wsss::Team::run(threads, [&](wsss::Team& team, int rank) {
      field.run(team, rank, image.data(), unary.data(), q.data());
    });
  } else {
    q.assign(q.size(), 1.0f);
  }
  return q;
}

// Q sums to 1; repeated runs and any number of threads agree to the bit.
bool good(int64_t batch, const wsss::CrfShape& shape, const wsss::CrfParameters& parameters) {
  std::vector<float> image(batch * 3 * shape.pixels()), unary(batch * shape.sets * shape.labels * shape.pixels());
  for (float& x : image) x = std::floor(uniform() * 256.0f);
  for (float& x : unary) x = uniform() * 4.0f;
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
    std::printf("failed: batch %d, %dx%d, %d sets, %d labels\n", static_cast<int>(batch),
                static_cast<int>(shape.height), static_cast<int>(shape.width), shape.sets, shape.labels);
  }
  return fine;
}

// The CPU kernel locates 16 pixels at a time, CUDA one: the same simplex to the bit, with weights that sum to 1, keys
// that differ, and neighbours that come back to the vertex after D+1 steps (their sum is zero).
bool same_simplex() {
  using namespace wsss;
  constexpr int D = 5;
  KeyLayout<D> layout;
  const double span[D] = {300, 200, 400, 300, 200};
  bool fine = layout.fit(span);
  for (int trial = 0; trial < 2000; ++trial) {
    Lanes scaled[D];
    for (int j = 0; j < D; ++j) {
      // Whole numbers, too: they lie on simplex boundaries.
      for (int i = 0; i < kLanes; ++i) {
        const float x = uniform() * static_cast<float>(span[j]);
        scaled[j][i] = trial % 2 ? x : std::floor(x);
      }
    }
    Simplex<D, Lanes, IntLanes> many;
    locate<D>(scaled, many);
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

int main() {
  const wsss::CrfParameters amn{3, 3, 50, 5, 10, 3}, spatial{1, 3, 1, 1, 0, 2}, bilateral{1, 0, 20, 0.5f, 4, 2};
  bool fine = same_simplex();
  for (int labels : {1, 2, 3, 4, 5, 6, 9, 10, 17, 25, 34, 82}) {
    fine &= good(1, {13, 21, 1, labels}, amn);
    fine &= good(3, {9, 7, 2, labels}, bilateral);
  }
  for (int64_t side : {1, 2, 3, 5, 16, 17}) {
    fine &= good(1, {side, 1, 1, 3}, amn);
    fine &= good(2, {1, side, 3, 2}, spatial);
  }
  fine &= good(1, {260, 257, 1, 3}, amn);  // two bands
  std::puts(fine ? "ok" : "FAILED");
  return fine ? 0 : 1;
}
