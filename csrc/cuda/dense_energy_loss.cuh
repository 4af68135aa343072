// The dense energy loss -weight / B sum S T and its gradient, with S = roi p, T = gate A(S) and the
// bilateral filter A, at the reduced size. Probabilities are reduced on their way into the rows of
// the filter, and the gradient is enlarged on its way out of them, by a gather: all sums have a
// fixed order.
#pragma once

#include "bilinear.cuh"
#include "block_sum.cuh"
#include "dense_energy_loss.h"
#include "plane_filter.cuh"

namespace wsss::cuda {

static_assert(kSumThreads == kThreads);
constexpr int kUnknownLabel = 255;

// How one axis of the probabilities is reduced.
struct ReducedAxis {
  int64_t source_size, size;
  float step;

  __device__ __forceinline__ BilinearSource<float> source(int64_t i) const {
    return bilinear_source<float>(i, source_size, size, step);
  }
  // The reduced pixels that read source pixel `at`, or some more.
  __device__ __forceinline__ PixelRange reading(int64_t at) const {
    if (size == source_size) return {at, at + 1};
    return {first_pixel_reading<float>(at - 1, source_size, size, step),
            first_pixel_reading<float>(at + 1, source_size, size, step)};
  }
  // The weight of source pixel `at` in reduced pixel i.
  __device__ __forceinline__ float weight(int64_t i, int64_t at) const {
    const auto from = source(i);
    if (!from.resized) return 1.0f;
    return (from.low == at ? 1 - from.fraction : 0.0f) + (from.high == at ? from.fraction : 0.0f);
  }
};

// The reduced images of a chunk.
struct EnergyShape {
  ReducedAxis y, x;
  Bands bands;
  unsigned blocks_per_image;
  int64_t channels;
  int width;  // of rows

  WSSS_HD int64_t plane() const { return int64_t{bands.height} * bands.width; }
};

// rows = S, and the gate of each point. NaN stays NaN.
template <int V>
__global__ void reduce_rows(EnergyShape s, const float* probabilities, const float* roi,
                            const uint8_t* labels, float* rows, float* gate) {
  const PlanePoint p(s.bands, s.blocks_per_image);
  if (!p.exists) return;
  const uint32_t line = p.pixel / s.bands.width;
  const auto y = s.y.source(line), x = s.x.source(p.pixel - line * s.bands.width);
  const int64_t plane = s.y.source_size * s.x.source_size, at = p.image * s.plane() + p.pixel;
  const float* from = probabilities + p.image * s.channels * plane;
  const float inside = roi[at];
  float top = -INFINITY;
  for (int first = 0; first < s.width; first += V) {
    Pack<V> row;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      row.at[k] = 0.0f;
      if (first + k >= s.channels) continue;
      const float* source = from + (first + k) * plane;
      const float share = x.read([&](int64_t column) {
        return y.read([&](int64_t l) { return source[l * s.x.source_size + column]; });
      });
      if (share > top || share != share) top = share;
      row.at[k] = inside * share;
    }
    store<V>(rows + p.at * s.width + first, row);
  }
  const float open = inside - top;
  gate[p.at] = labels == nullptr || labels[at] == kUnknownLabel ? 1.0f : open < 0 ? 0.0f : open;
}

// What slice_energies writes over the rows S.
enum class EnergyRows { kNothing, kGradient, kGated };

// Each block's sum of S T to parts [images, blocks_per_image, gridDim.y]. The rows become
// factor * roi * T, or gate * S, and then `filtered` T.
template <int V>
__global__ void slice_energies(EnergyShape s, Slicer slicer, EnergyRows to, float factor,
                               const float* roi, const float* gate, float* rows, float* filtered,
                               double* parts) {
  const PlanePoint p(s.bands, s.blocks_per_image);
  double sum = 0.0;
  const float open = p.exists ? gate[p.at] : 0.0f;
  const float scale = p.exists ? factor * roi[p.image * s.plane() + p.pixel] : 0.0f;
  for (int first = static_cast<int>(blockIdx.y) * kSlicePacks * V; p.exists && first < s.width;
       first += static_cast<int>(gridDim.y) * kSlicePacks * V) {
    SlicedPacks<V> t(slicer, p.at, first);
#pragma unroll
    for (int i = 0; i < kSlicePacks; ++i) {
      if (first + i * V >= s.width) continue;
      const int64_t at = p.at * s.width + first + i * V;
      Pack<V> x = load<V>(rows + at);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        t.at[i].at[k] *= open;
        sum += static_cast<double>(x.at[k] * t.at[i].at[k]);
        x.at[k] = to == EnergyRows::kGradient ? scale * t.at[i].at[k] : open * x.at[k];
      }
      if (to != EnergyRows::kNothing) store<V>(rows + at, x);
      if (to == EnergyRows::kGated) store<V>(filtered + at, t.at[i]);
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[int64_t{blockIdx.x} * gridDim.y + blockIdx.y] = sum;
}

// rows = factor * roi * (T + A'(gate S)), where `filtered` is T.
template <int V>
__global__ void add_transposed(EnergyShape s, Slicer slicer, float factor, const float* roi,
                               const float* filtered, float* rows) {
  const PlanePoint p(s.bands, s.blocks_per_image);
  if (!p.exists) return;
  const float scale = factor * roi[p.image * s.plane() + p.pixel];
  for (int first = static_cast<int>(blockIdx.y) * kSlicePacks * V; first < s.width;
       first += static_cast<int>(gridDim.y) * kSlicePacks * V) {
    const SlicedPacks<V> transposed(slicer, p.at, first);
#pragma unroll
    for (int i = 0; i < kSlicePacks; ++i) {
      if (first + i * V >= s.width) continue;
      const int64_t at = p.at * s.width + first + i * V;
      Pack<V> x = load<V>(filtered + at);
#pragma unroll
      for (int k = 0; k < V; ++k) x.at[k] = scale * (x.at[k] + transposed.at[i].at[k]);
      store<V>(rows + at, x);
    }
  }
}

// gradient [images, K, H, W] from the reduced gradient's rows; a thread per pixel of it.
template <int V>
__global__ void enlarge_gradient(EnergyShape s, unsigned blocks_per_image, const float* rows,
                                 float* gradient) {
  const unsigned image = blockIdx.x / blocks_per_image;
  const int64_t plane = s.y.source_size * s.x.source_size,
                pixel = int64_t{blockIdx.x - image * blocks_per_image} * kThreads + threadIdx.x;
  if (pixel >= plane) return;
  const int64_t y = pixel / s.x.source_size, x = pixel - y * s.x.source_size;
  const PixelRange lines = s.y.reading(y), columns = s.x.reading(x);
  float* to = gradient + image * s.channels * plane + pixel;
  constexpr int kValues = kSlicePacks * V;
  for (int first = static_cast<int>(blockIdx.y) * kValues; first < s.width;
       first += static_cast<int>(gridDim.y) * kValues) {
    Pack<V> sum[kSlicePacks] = {};
    for (int64_t i = lines.first; i < lines.last; ++i) {
      const float of_line = s.y.weight(i, y);
      for (int64_t j = columns.first; j < columns.last; ++j) {
        const float weight = of_line * s.x.weight(j, x);
        const uint32_t point = s.bands.point(static_cast<uint32_t>(i), static_cast<uint32_t>(j));
        const float* row = rows + (image * s.plane() + point) * s.width + first;
#pragma unroll
        for (int k = 0; k < kSlicePacks; ++k) {
          if (first + k * V < s.width) add_scaled(sum[k], weight, load<V>(row + k * V));
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kValues; ++k) {
      if (first + k < s.channels) to[(first + k) * plane] = sum[k / V].at[k % V];
    }
  }
}

// *loss = factor * the sum of all parts; one block.
__global__ static void sum_energies(const double* parts, int64_t count, double factor,
                                    float* loss) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) sum += parts[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *loss = static_cast<float>(factor * sum);
}

// One call: the chunks' kernels, in order.
class DenseEnergy {
 public:
  DenseEnergy(const DenseEnergyCall& call, int64_t workspace_bytes)
      : call_(call),
        pixels_("dense_energy_loss", "the", call.grid),
        transposes_(call.exact && call.gradient),
        filter_(pixels_, call.lattice, call.channels,
                1 + (transposes_ ? padded_width(call.channels) : 0), workspace_bytes),
        shape_{{call.height, call.grid.height, static_cast<float>(call.step_y)},
               {call.width, call.grid.width, static_cast<float>(call.step_x)},
               bands_of(call.grid),
               blocks_for(call.grid.pixels()),
               call.channels,
               filter_.width()} {}

  int64_t workspace_bytes() const {
    Arena measure;
    measure.allocate<double>(parts());
    return measure.peak() + filter_.workspace_bytes();
  }

  void run(Stream stream, Arena& arena) const {
    double* sums = arena.allocate<double>(parts());
    with_pack(filter_.pack(), [&](auto v) {
      filter_.each_chunk(stream, arena, [&](const PlaneChunk& chunk) {
        run_chunk<v()>(stream, chunk, sums + chunk.first * shape_.blocks_per_image * groups());
      });
    });
    launch_with_barriers(stream, 1, kSumThreads, sum_energies, sums, parts(),
                         -call_.weight / static_cast<double>(call_.grid.batch), call_.loss);
  }

 private:
  // Of packs that a thread slices.
  int64_t groups() const { return slice_grid(1, shape_.width / filter_.pack()).y; }
  int64_t parts() const { return call_.grid.batch * shape_.blocks_per_image * groups(); }

  template <int V>
  void run_chunk(Stream stream, const PlaneChunk& chunk, double* sums) const {
    const int64_t plane = shape_.plane(), source = call_.height * call_.width,
                  planes = chunk.first * call_.channels * source;
    const float* roi = call_.roi + chunk.first * plane;
    const uint8_t* labels = call_.labels ? call_.labels + chunk.first * plane : nullptr;
    float *filtered = chunk.extra,
          *gate = chunk.extra + (transposes_ ? chunk.points() * shape_.width : 0);
    const unsigned blocks = blocks_for(chunk.images * shape_.blocks_per_image, 1);
    const dim3 slices = slice_grid(blocks, shape_.width / V);
    const auto to = call_.gradient == nullptr ? EnergyRows::kNothing
                    : transposes_             ? EnergyRows::kGated
                                              : EnergyRows::kGradient;
    const float factor = static_cast<float>(
        (call_.exact ? -1.0 : -2.0) * call_.weight / static_cast<double>(call_.grid.batch));
    launch(stream, blocks, kThreads, reduce_rows<V>, shape_, call_.probabilities + planes, roi,
           labels, chunk.rows, gate);
    filter_.filter(stream, chunk, false);
    const Slicer slicer(chunk, shape_.width);
    launch_with_barriers(stream, slices, kThreads, slice_energies<V>, shape_, slicer, to, factor,
                         roi, static_cast<const float*>(gate), chunk.rows, filtered, sums);
    if (call_.gradient == nullptr) return;
    if (transposes_) {
      filter_.filter(stream, chunk, true);
      launch(stream, slices, kThreads, add_transposed<V>, shape_, slicer, factor, roi,
             static_cast<const float*>(filtered), chunk.rows);
    }
    const unsigned of_source = blocks_for(source);
    const dim3 grid = slice_grid(blocks_for(chunk.images * of_source, 1), shape_.width / V);
    launch(stream, grid, kThreads, enlarge_gradient<V>, shape_, of_source,
           static_cast<const float*>(chunk.rows), call_.gradient + planes);
  }

  const DenseEnergyCall call_;
  const PixelLattice pixels_;
  const bool transposes_;
  const PlaneFilter filter_;
  const EnergyShape shape_;
};

// `with_arena(bytes, use)` allocates workspace and calls use(arena).
template <class WithArena>
void dense_energy_loss(Stream stream, const DenseEnergyCall& call, const WithArena& with_arena,
                       int64_t workspace_bytes = kWorkspaceBytes) {
  const DenseEnergy energy(call, workspace_bytes);
  with_arena(energy.workspace_bytes(), [&](Arena& arena) { energy.run(stream, arena); });
}

}  // namespace wsss::cuda
