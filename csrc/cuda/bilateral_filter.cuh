// Bilateral filter of planes: rows of values from planes, splat, blur, and slicing into planes.
#pragma once

#include "bilateral_filter.h"
#include "plane_filter.cuh"

namespace wsss::cuda {

// rows [points, width] from planes [images, channels, H, W]; padding is 0. blockIdx.y counts packs.
template <int V>
__global__ void load_rows(Bands bands, unsigned blocks_per_image, int64_t channels, int width,
                          const float* planes, float* rows) {
  const PlanePoint p(bands, blocks_per_image);
  if (!p.exists) return;
  const int64_t plane = int64_t{bands.height} * bands.width;
  const float* from = planes + p.image * channels * plane + p.pixel;
  for (int first = static_cast<int>(blockIdx.y) * V; first < width;
       first += static_cast<int>(gridDim.y) * V) {
    Pack<V> x;
#pragma unroll
    for (int k = 0; k < V; ++k) x.at[k] = first + k < channels ? from[(first + k) * plane] : 0.0f;
    store<V>(rows + p.at * width + first, x);
  }
}

template <int V>
__global__ void slice_planes(Bands bands, unsigned blocks_per_image, int64_t channels, Slicer s,
                             float* planes) {
  const PlanePoint p(bands, blocks_per_image);
  if (!p.exists) return;
  const int64_t plane = int64_t{bands.height} * bands.width;
  float* to = planes + p.image * channels * plane + p.pixel;
  constexpr int kValues = kSlicePacks * V;
  for (int first = static_cast<int>(blockIdx.y) * kValues; first < s.width;
       first += static_cast<int>(gridDim.y) * kValues) {
    const SlicedPacks<V> x(s, p.at, first);
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if (first + i < channels) to[(first + i) * plane] = x.at[i / V].at[i % V];
    }
  }
}

// `with_arena(bytes, use)` allocates workspace and calls use(arena).
template <class WithArena>
void bilateral_filter(Stream stream, const BilateralFilterCall& call, const WithArena& with_arena,
                      int64_t workspace_bytes = kWorkspaceBytes) {
  const PixelLattice pixels("bilateral_filter", "the", call.grid);
  const PlaneFilter filter(pixels, call.lattice, call.channels, 0, workspace_bytes);
  const Bands bands = bands_of(call.grid);
  const unsigned per_image = blocks_for(call.grid.pixels());
  const int width = filter.width(), packs = width / filter.pack();
  with_arena(filter.workspace_bytes(), [&](Arena& arena) {
    filter.each_chunk(stream, arena, [&](const PlaneChunk& chunk) {
      const unsigned blocks = blocks_for(chunk.images * per_image, 1);
      const int64_t at = chunk.first * call.channels * call.grid.pixels();
      with_pack(filter.pack(), [&](auto v) {
        const dim3 grid(blocks, static_cast<unsigned>(std::min(packs, 65535)));
        launch(stream, grid, kThreads, load_rows<v()>, bands, per_image, call.channels, width,
               call.values + at, chunk.rows);
        filter.filter(stream, chunk, call.transpose);
        launch(stream, slice_grid(blocks, packs), kThreads, slice_planes<v()>, bands, per_image,
               call.channels, Slicer(chunk, width), call.out + at);
      });
    });
  });
}

}  // namespace wsss::cuda
