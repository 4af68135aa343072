#include "pixel_adaptive_refine.h"

#include <algorithm>
#include <stdexcept>

#include "arena.h"
#include "pixel_adaptive_refine.cuh"

namespace wsss::cuda {
namespace {

constexpr int kDilationsOfStep = 6;  // more would not fit into registers
constexpr int64_t kBlocks = 132;     // one for each multiprocessor of a large device

struct Workspace {
  Workspace(Arena& arena, const RefineArrays& sizes, int64_t values) : arrays(sizes) {
    const int64_t pixels = sizes.images * sizes.area();
    arrays.table = arena.allocate<Dilation>(sizes.dilations);
    arrays.weights = arena.allocate<float>(pixels * sizes.neighbours());
    arrays.scales = arena.allocate<float>(pixels * sizes.channels);
    other = arena.allocate<float>(sizes.images * sizes.masks * values);
  }
  RefineArrays arrays;
  float* other;  // [images, masks, values], another field of values
};

// Sizes of a chunk of images.
RefineArrays sizes_of(const RefineCall& call) {
  if (call.height * call.width > INT32_MAX) {
    throw std::invalid_argument(
        "pixel_adaptive_refine: image is " + std::to_string(call.height) + "x" +
        std::to_string(call.width) + "; must have fewer than 2^31 pixels");
  }
  RefineArrays a{};
  a.channels = call.channels;
  a.masks = call.masks;
  a.height = static_cast<int>(call.height);
  a.width = static_cast<int>(call.width);
  a.dilations = static_cast<int>(call.dilations.size());
  a.pamr = call.pamr;
  const int64_t bytes = a.neighbours() * a.area() * static_cast<int64_t>(sizeof(float));
  const int64_t most = std::max<int64_t>(call.chunk_bytes / bytes, 1),
                chunks = (call.batch + most - 1) / most;
  a.images = (call.batch + chunks - 1) / chunks;
  return a;
}

std::vector<Dilation> offsets_of(const RefineCall& call) {
  const auto position = position_weights(call.dilations);
  std::vector<Dilation> found;
  for (size_t d = 0; d < call.dilations.size(); ++d) {
    const Offset offset{static_cast<int>(std::min(call.dilations[d], call.height - 1)),
                        static_cast<int>(std::min(call.dilations[d], call.width - 1))};
    found.push_back({offset, position[d]});
  }
  return found;
}

void store_table(Stream stream, const std::vector<Dilation>& all, Dilation* table) {
  for (size_t first = 0; first < all.size(); first += kDilationsPerLaunch) {
    const size_t count = std::min<size_t>(kDilationsPerLaunch, all.size() - first);
    DilationList list{};
    std::copy_n(all.begin() + static_cast<int64_t>(first), count, list.at);
    launch(stream, 1, kDilationsPerLaunch, store_dilations, list, static_cast<int>(count),
           table + first);
  }
}

dim3 tile_block() { return dim3(kTileWidth, kTileHeight); }

void compute_weights(Stream stream, const RefineArrays& a, const float* image) {
  const int64_t tiles = a.images * tiles_of(a.height, a.width);
  launch(stream, blocks_for(tiles, 1), tile_block(), refine_weights, a, image);
}

template <int D>
void launch_step(Stream stream, const RefineArrays& a, const std::vector<Dilation>& all,
                 size_t first, const float* from, float* to) {
  DilationsOfStep<D> dilations{static_cast<int64_t>(first), {}};
  for (size_t d = 0; d < D; ++d) dilations.offsets[d] = all[first + d].offset;
  const int64_t tiles = a.images * tiles_of(a.height, a.width),
                wanted = std::clamp<int64_t>(kBlocks / tiles, 1, a.masks),
                size = (a.masks + wanted - 1) / wanted, groups = (a.masks + size - 1) / size;
  launch(stream, blocks_for(tiles * groups, 1), tile_block(), refine_step<D>, a, dilations, groups,
         size, from, to);
}

void step(Stream stream, const RefineArrays& a, const std::vector<Dilation>& all, const float* from,
          float* to) {
  for (size_t first = 0; first < all.size(); first += kDilationsOfStep) {
    switch (std::min<size_t>(kDilationsOfStep, all.size() - first)) {
      case 1: launch_step<1>(stream, a, all, first, from, to); break;
      case 2: launch_step<2>(stream, a, all, first, from, to); break;
      case 3: launch_step<3>(stream, a, all, first, from, to); break;
      case 4: launch_step<4>(stream, a, all, first, from, to); break;
      case 5: launch_step<5>(stream, a, all, first, from, to); break;
      default: launch_step<kDilationsOfStep>(stream, a, all, first, from, to);
    }
  }
}

void step_backward(Stream stream, const RefineArrays& a, const ExtendedPlanes& extended,
                   const float* from, float* to) {
  const int64_t tiles = a.images * tiles_of(extended.height, extended.width),
                groups = (a.masks + kMasksTogether - 1) / kMasksTogether;
  launch(stream, blocks_for(tiles * groups, 1), tile_block(), collect_gradient, a, extended, groups,
         from);
  launch(
      stream, blocks_for(a.images * a.masks * a.area()), kThreads, fold_gradient, a, extended, to);
}

}  // namespace

void pixel_adaptive_refine(Context& context, const RefineCall& call) {
  const Stream stream = stream_of(context);
  const auto all = offsets_of(call);
  const RefineArrays sizes = sizes_of(call);
  auto [a, other] = workspace_of<Workspace>(context, sizes, call.iterations > 1 ? sizes.area() : 0);
  store_table(stream, all, a.table);
  const int64_t chunk = a.images, image = call.channels * a.area(), masks = call.masks * a.area();
  for (int64_t b = 0; b < call.batch; b += chunk) {
    a.images = std::min(chunk, call.batch - b);
    compute_weights(stream, a, call.image + b * image);
    const float* from = call.values + b * masks;
    for (int64_t left = call.iterations; left > 0; --left) {
      float* to = left % 2 == 1 ? call.out + b * masks : other;  // the last one writes the result
      step(stream, a, all, from, to);
      from = to;
    }
  }
}

void pixel_adaptive_refine_backward(Context& context, const RefineCall& call) {
  const Stream stream = stream_of(context);
  const auto all = offsets_of(call);
  const RefineArrays sizes = sizes_of(call);
  ExtendedPlanes extended{0, 0, call.height, call.width, nullptr};
  for (const Dilation& d : all) {
    extended.above = std::max<int64_t>(extended.above, d.offset.y);
    extended.left = std::max<int64_t>(extended.left, d.offset.x);
  }
  extended.height += 2 * extended.above;
  extended.width += 2 * extended.left;
  auto [a, values] = workspace_of<Workspace>(context, sizes, extended.height * extended.width);
  extended.values = values;
  store_table(stream, all, a.table);
  const int64_t chunk = a.images, image = call.channels * a.area(), masks = call.masks * a.area();
  for (int64_t b = 0; b < call.batch; b += chunk) {
    a.images = std::min(chunk, call.batch - b);
    compute_weights(stream, a, call.image + b * image);
    float* out = call.out + b * masks;
    for (int64_t i = 0; i < call.iterations; ++i) {
      step_backward(stream, a, extended, i == 0 ? call.values + b * masks : out, out);
    }
  }
}

}  // namespace wsss::cuda
