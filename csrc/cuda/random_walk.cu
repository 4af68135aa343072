#include "random_walk.h"

#include <algorithm>

#include "random_walk.cuh"

namespace wsss::cuda {
namespace {

// Images are processed in chunks whose weights stay in the L2 cache.
constexpr int64_t kWeightBytes = 32 << 20;

template <int K>
void launch_step(Stream stream, const WalkArrays& a, int64_t first, int64_t step) {
  launch(stream, blocks_for(a.images * a.shape.cells()), kThreads, walk_step<K>, a, first,
         a.fields[step % 2], a.fields[(step + 1) % 2]);
}

void walk(Stream stream, const WalkArrays& a, double beta, int64_t steps, const float* maps,
          const float* edge, float* out) {
  launch(stream, blocks_for(a.images * a.plane()), kThreads, walk_start, a, maps, edge);
  launch(stream, blocks_for(a.images * a.shape.cells()), kThreads, walk_weights, a,
         static_cast<float>(beta));
  for (int64_t step = 0; step < steps; ++step) {
    int64_t k = 0;
    for (; k + 4 <= a.maps; k += 4) launch_step<4>(stream, a, k, step);
    if (a.maps - k == 3) launch_step<3>(stream, a, k, step);
    if (a.maps - k == 2) launch_step<2>(stream, a, k, step);
    if (a.maps - k == 1) launch_step<1>(stream, a, k, step);
  }
  launch(stream, blocks_for(a.images * a.maps * a.shape.height * a.shape.width), kThreads, walk_end,
         a, a.fields[steps % 2], out);
}

}  // namespace

void random_walk(Context& context, const WalkShape& shape, int64_t batch, int64_t count,
                 double beta, int64_t steps, const float* maps, const float* edge, float* out) {
  WalkArrays a{shape, 0, count, nullptr, nullptr, {}};
  const int64_t image = shape.height * shape.width,
                weights = neighbours(shape.radius) * shape.cells();
  // Radius 1 has no neighbours, so no weights.
  const int64_t bytes = std::max<int64_t>(weights * static_cast<int64_t>(sizeof(float)), 1);
  const int64_t chunk = std::clamp<int64_t>(kWeightBytes / bytes, 1, batch);
  a.weights = context.allocate<float>(chunk * (weights + (1 + 2 * count) * a.plane()));
  a.wall = a.weights + chunk * weights;
  a.fields[0] = a.wall + chunk * a.plane();
  a.fields[1] = a.fields[0] + chunk * count * a.plane();
  for (int64_t b = 0; b < batch; b += chunk) {
    a.images = std::min(chunk, batch - b);
    walk(stream_of(context), a, beta, steps, maps + b * count * image, edge + b * image,
         out + b * count * image);
  }
}

}  // namespace wsss::cuda
