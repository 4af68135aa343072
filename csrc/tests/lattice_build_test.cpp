// Lattices on CUDA: the arrays that building gives, whatever the order of threads, bounds of their
// size, and spatial lattices that are kept between calls.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <map>
#include <vector>

#include "cuda_on_cpu.h"
#include "cuda_workspace.h"
#include "testing.h"

#include "../cuda/dense_crf.cuh"
#include "../cuda/pixel_lattice.cu"

namespace {

using namespace wsss;
using namespace wsss::cuda;
using testing::uniform_float;

// Points of one image after another.
template <int D>
struct Features {
  const float* scaled;
  int64_t points;
  void operator()(int64_t image, int64_t p, float* to) const {
    for (int j = 0; j < D; ++j) to[j] = scaled[(image * points + p) * D + j];
  }
};

struct Built {
  int32_t count = 0;
  std::vector<int32_t> row, window, next, previous;
  std::vector<float> weight, share;
  std::vector<uint32_t> point;
  bool operator==(const Built&) const = default;
};

template <int D>
Built build(const std::vector<float>& scaled, int64_t images, int64_t points,
            int64_t max_per_image) {
  KeyLayout<D> layout;
  double from[D] = {}, to[D];
  std::fill_n(to, D, 60.0);
  if (!layout.fit(from, to)) return {};
  testing::Pieces pieces;
  Arena arena([&](int64_t bytes) { return pieces.allocate(bytes); });
  const Lattice l = allocate_lattice(arena, {images, points, D + 1, kTile}, max_per_image);
  const VertexNames<D> names(from, to);
  const BuildSpace space = allocate_build_space(arena, l, names.wide);
  build_lattice<D>({}, l, space, Features<D>{scaled.data(), points}, layout, names);
  Built b;
  b.count = *l.count;
  for (int64_t p = 0; p < images * points; ++p) {
    for (int r = 0; r <= D; ++r) {
      const Corner c = l.corner[corner_index(images * points, p, r)];
      b.row.push_back(c.row);
      b.weight.push_back(c.weight);
    }
  }
  for (int64_t i = 0; i < l.size.entries(); ++i) {
    const Contribution c = l.contribution[contribution_index(i)];
    b.point.push_back(c.point);
    b.share.push_back(c.weight);
  }
  b.window.assign(l.window, l.window + l.size.entries() / kGrain);
  b.next.assign(l.next, l.next + int64_t{b.count} * (D + 1));
  b.previous.assign(l.previous, l.previous + int64_t{b.count} * (D + 1));
  return b;
}

// Contributions lead from vertices to the same points as corners lead back, and each vertex' are in
// the order of points; windows name their first vertex.
template <int D>
bool lists_match(const Built& b, int64_t points) {
  std::vector<std::pair<float, int>> left(b.row.size());  // weight and uses of each corner
  int32_t v = -1;
  int64_t before = -1;
  bool passed = true;
  for (size_t i = 0; i < b.point.size() && passed; ++i) {
    const bool head = b.point[i] & kFirst;
    const int64_t p = b.point[i] & ~kFirst;
    v += head;
    if (head) before = -1;
    if (i % kGrain == 0) passed = b.window[i / kGrain] == (head ? v : ~v);
    if (b.share[i] == 0.0f) continue;  // also padding
    passed = passed && p > before;
    before = p;
    bool found = false;
    for (int r = 0; r <= D; ++r) {
      const size_t at = p * (D + 1) + r;
      if (b.row[at] != v) continue;
      found = b.weight[at] == b.share[i] && !left[at].second++;
    }
    passed = passed && found;
  }
  for (size_t at = 0; at < b.row.size(); ++at) {
    passed = passed && (left[at].second == 1 || b.weight[at] == 0.0f);
  }
  return passed && v + 1 == b.count && points * (D + 1) <= static_cast<int64_t>(b.point.size());
}

template <int D>
bool builds_are_equal(int64_t points) {
  const int64_t images = 3;  // different points, points in one simplex, neighbours that share some
  std::vector<float> scaled(images * points * D);
  for (int64_t i = 0; i < images * points * D; ++i) {
    const int64_t image = i / (points * D), p = i / D % points;
    scaled[i] = image == 0   ? uniform_float() * 60.0f
                : image == 1 ? 7.0f + uniform_float() * 0.01f
                             : static_cast<float>(p) * 0.1f;
  }
  const Built b = build<D>(scaled, images, points, INT64_MAX);
  cuda_on_cpu::reversed = true;
  const Built other = build<D>(scaled, images, points, INT64_MAX);
  cuda_on_cpu::reversed = false;
  bool passed = b == other && lists_match<D>(b, images * points);
  int32_t vertices = 0;  // an image's lattice is that of a batch of one
  for (int64_t image = 0; image < images && passed; ++image) {
    const auto at = scaled.begin() + image * points * D;
    // A bound that is exact makes the smallest hash table.
    const int32_t count = build<D>({at, at + points * D}, 1, points, INT64_MAX).count;
    const Built one = build<D>({at, at + points * D}, 1, points, count);
    for (int64_t i = 0; i < points * (D + 1) && passed; ++i) {
      passed = one.row[i] + vertices == b.row[image * points * (D + 1) + i];
    }
    for (int64_t i = 0; i < one.count * (D + 1) && passed; ++i) {
      const int64_t j = i / one.count, v = i - j * one.count + vertices;
      const int32_t next = b.next[j * b.count + v], previous = b.previous[j * b.count + v];
      passed = one.next[i] == (next < 0 ? -1 : next - vertices) &&
               one.previous[i] == (previous < 0 ? -1 : previous - vertices);
    }
    vertices += one.count;
  }
  passed = passed && vertices == b.count;
  if (!passed) std::printf("failed: %d points, %d dimensions\n", static_cast<int>(points), D);
  return passed;
}

// Names of vertices are below their number and as different as keys, at the bounds of features,
// too.
template <int D>
bool names_are_different(double to_all) {
  KeyLayout<D> layout;
  double from[D] = {}, to[D];
  std::fill_n(to, D, to_all);
  const VertexNames<D> names(from, to);
  bool passed = layout.fit(from, to) && !names.wide;
  std::map<uint64_t, uint32_t> name_of;
  std::map<uint32_t, uint64_t> key_of;
  for (int trial = 0; trial < 3000 && passed; ++trial) {
    float scaled[D];
    for (float& x : scaled) {
      x = uniform_float() * static_cast<float>(to_all);
      if (trial % 3 == 0) x = trial % 2 ? std::floor(x) : (x > to_all / 2 ? to_all : 0.0f);
    }
    Simplex<D, float, int> simplex;
    locate<D>(scaled, simplex);
    uint64_t keys[D + 1];
    vertex_keys<D>(layout, simplex.quotient, simplex.rank, keys);
    for (int r = 0; r <= D; ++r) {
      const uint32_t name = names.of(0, simplex.quotient, simplex.rank, r);
      passed =
          passed && name < names.total && name_of.emplace(keys[r], name).first->second == name &&
          key_of.emplace(name, keys[r]).first->second == keys[r] &&
          names.of(1, simplex.quotient, simplex.rank, r) == name + names.total;
    }
  }
  if (!passed) std::printf("failed: names in %d dimensions\n", D);
  return passed;
}

// The bound of a plane's vertices holds, and is not much larger than their number.
bool bounds_hold() {
  bool passed = true;
  for (const auto& [width, height, sigma] :
       {std::array{1.0, 1.0, 3.0}, {2.0, 1.0, 0.5}, {31.0, 64.0, 1.0}, {97.0, 55.0, 3.0}}) {
    double from[2] = {}, to[2] = {(width - 1) / sigma, (height - 1) / sigma};
    float scale[2];
    feature_scale(2, scale);
    for (int j = 0; j < 2; ++j) to[j] *= scale[j];
    std::vector<float> scaled;
    for (double y = 0; y < height; ++y) {
      for (double x = 0; x < width; ++x) {
        scaled.push_back(static_cast<float>(x / sigma * scale[0]));
        scaled.push_back(static_cast<float>(y / sigma * scale[1]));
      }
    }
    const int32_t count = build<2>(scaled, 1, static_cast<int64_t>(width * height), 1 << 20).count;
    const int64_t bound = plane_vertices(from, to);
    const double edge = 3.0 * (to[0] + to[1] + 5.0);  // vertices outside
    passed = passed && count <= bound && static_cast<double>(bound) <= 1.6 * count + edge;
    if (!passed) std::printf("failed: %d vertices, bound %d\n", count, static_cast<int>(bound));
  }
  const double from[2] = {}, to[2] = {1e6, 1e6};
  return passed && plane_vertices(from, to) == INT64_MAX;
}

// ---- spatial lattices

// The result of a call with a width, and whether memory was kept for its spatial lattice.
std::pair<std::vector<float>, bool> refine(SpatialCache* cache, int64_t width, double weight = 3) {
  const int64_t height = 9, labels = 3, pixels = height * width;
  std::vector<float> image(3 * pixels), unary(labels * pixels), q(labels * pixels, -1.0f);
  for (int64_t i = 0; i < 3 * pixels; ++i) image[i] = static_cast<float>(i * 37 % 256);
  for (int64_t i = 0; i < labels * pixels; ++i) unary[i] = static_cast<float>(i * 11 % 7);
  const CrfCall call{
      1,  height, width,        3, 1,   3, image.data(), unary.data(), q.data(), 3, 3, weight, 20,
      20, 5,      {13, 13, 13}, 0, 255, 2};
  bool kept = false;
  const auto allocate = [&](int64_t bytes) {
    kept = true;
    const auto memory = std::make_shared<std::vector<char>>(bytes, static_cast<char>(0xcd));
    return std::shared_ptr<void>(memory, memory->data());
  };
  dense_crf({}, call, testing::arenas(true), {cache, nullptr, allocate});
  return {q, kept};
}

bool spatial_lattices_are_kept() {
  SpatialCache cache;
  const auto plain = refine(nullptr, 12), first = refine(&cache, 12), second = refine(&cache, 12);
  bool passed = !plain.second && first.second && !second.second && first.first == plain.first &&
                second.first == plain.first;
  const auto other = refine(&cache, 13), heavier = refine(&cache, 12, 4);
  passed = passed && other.second && heavier.second && heavier.first != plain.first &&
           other.first == refine(nullptr, 13).first && refine(&cache, 12).first == plain.first;
  SpatialCache unused;
  cuda_on_cpu::capturing = true;
  const auto captured = refine(&unused, 12), again = refine(&cache, 12);
  cuda_on_cpu::capturing = false;
  passed = passed && !captured.second && captured.first == plain.first &&
           again.first == plain.first && refine(&unused, 12).second;
  if (!passed) std::puts("failed: spatial lattices of several calls");
  return passed;
}

// Without memory, a call raises and keeps nothing.
bool nothing_is_kept_without_memory() {
  SpatialCache cache;
  const auto none = [](int64_t, const auto&) { throw std::runtime_error("out of memory"); };
  float image[12] = {}, unary[8] = {}, q[8];
  const CrfCall call{
      1, 2, 2, 3, 1, 2, image, unary, q, 3, 3, 3, 20, 20, 5, {13, 13, 13}, 0, 255, 2};
  int allocated = 0;
  const auto allocate = [&](int64_t bytes) {
    ++allocated;
    return std::shared_ptr<void>(new char[bytes], std::default_delete<char[]>());
  };
  bool passed = testing::raises(
      [&] { dense_crf({}, call, none, {&cache, nullptr, allocate}); }, "out of memory");
  dense_crf({}, call, testing::arenas(true), {&cache, nullptr, allocate});
  passed = passed && allocated == 2;
  const SpatialStore fails{&cache, &cache, [](int64_t) -> std::shared_ptr<void> {
                             throw std::runtime_error("out of memory");
                           }};
  passed =
      passed &&
      testing::raises([&] { dense_crf({}, call, testing::arenas(true), fails); }, "out of memory");
  if (!passed) std::puts("failed: out of memory");
  return passed;
}

// Chunks of a batch cover it, and need no more workspace than allowed, or are single images.
bool chunks_are_bounded() {
  bool passed = true;
  for (const int labels : {2, 3, 21, 81, 256}) {
    for (const int64_t batch : {1, 5, 16, 1000}) {
      CrfCall call{batch, 375, 500, 3,  1,  labels,    nullptr, nullptr, nullptr, 3,
                   3,     3,   50,  50, 10, {5, 5, 5}, 0,       255,     10};
      const DenseCrf crf(call, kWorkspaceBytes);
      const int64_t images = crf.images_per_chunk();
      passed = passed && images >= 1 && images <= batch &&
               (images == 1 || crf.workspace_bytes() <= kWorkspaceBytes);
    }
  }
  if (!passed) std::puts("failed: workspace of a batch");
  return passed;
}

// A batch of 1,000 images of two pixels in one call is as one after the other.
bool many_images_are_independent() {
  const int64_t batch = 1000;
  std::vector<float> image(batch * 6), unary(batch * 4), q(batch * 4), one(4);
  for (float& x : image) x = std::floor(uniform_float() * 256.0f);
  for (float& x : unary) x = uniform_float() * 3.0f;
  const auto refine = [&](int64_t first, int64_t images, float* to) {
    const CrfCall call{
        images,
        1,
        2,
        3,
        1,
        2,
        image.data() + first * 6,
        unary.data() + first * 4,
        to,
        3,
        3,
        3,
        20,
        20,
        5,
        {13, 13, 13},
        0,
        255,
        1};
    dense_crf({}, call, testing::arenas(false));
  };
  refine(0, batch, q.data());
  bool passed = true;
  for (const int64_t b : {0, 1, 500, 999}) {
    refine(b, 1, one.data());
    passed = passed && std::equal(one.begin(), one.end(), q.begin() + b * 4);
  }
  if (!passed) std::puts("failed: 1,000 images");
  return passed;
}

bool least_recent_entries_are_dropped() {
  SpatialCache cache;
  std::weak_ptr<void> memory[3];
  const SpatialCache::Key key[3] = {
      {0, nullptr, 1, 1, 3, 3, 3}, {1, nullptr, 1, 1, 3, 3, 3}, {0, nullptr, 1, 1, 3, 3, 4}};
  bool passed = true;
  for (int i = 0; i < 3; ++i) {
    const auto held = std::make_shared<int>(i);
    memory[i] = held;
    passed = passed && !cache.find(key[i]);
    cache.insert(key[i], held, SpatialCache::kMaxBytes / 2);
    passed = passed && *static_cast<int*>(cache.find(key[i]).get()) == i && cache.find(key[0]);
  }
  passed = passed && memory[1].expired() && !cache.find(key[1]) && !memory[0].expired();
  if (!passed) std::puts("failed: bytes of spatial lattices");
  return passed;
}

}  // namespace

int main() {
  bool passed = true;
  for (int64_t points : {1, 2, 4, 7, 130}) {
    passed &= builds_are_equal<2>(points) && builds_are_equal<5>(points);
  }
  passed &= builds_are_equal<8>(40) && bounds_hold();
  passed &= names_are_different<1>(1000) && names_are_different<2>(3000) &&
            names_are_different<5>(40) && names_are_different<8>(3);
  const double from[8] = {}, to[8] = {99, 99, 99, 99, 99, 99, 99, 99};
  passed &= VertexNames<8>(from, to).wide;
  passed &= chunks_are_bounded() && many_images_are_independent();
  passed &= nothing_is_kept_without_memory() && spatial_lattices_are_kept() &&
            least_recent_entries_are_dropped();
  return testing::report(passed);
}
