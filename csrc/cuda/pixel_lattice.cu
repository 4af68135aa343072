#include "pixel_lattice.h"

#include "lattice_build.cuh"

namespace wsss::cuda {
namespace {

// Scaled features of points.
template <int D>
struct PixelFeatures {
  const float* image;  // [B, D-2, H, W]
  Bands bands;
  float lowest, highest;
  float sigma[D], scale[D];

  explicit PixelFeatures(const PixelGrid& grid)
      : image(grid.image),
        bands(bands_of(grid)),
        lowest(static_cast<float>(grid.lowest)),
        highest(static_cast<float>(grid.highest)) {
    feature_scale(D, scale);
    sigma[0] = static_cast<float>(grid.sx);
    sigma[1] = static_cast<float>(grid.sy);
    for (int i = 2; i < D; ++i) sigma[i] = static_cast<float>(grid.levels[i - 2]);
  }

  __device__ __forceinline__ void operator()(int64_t b, int64_t p, float* scaled) const {
    const uint32_t at = bands.pixel(static_cast<uint32_t>(p)), y = at / bands.width,
                   x = at - y * bands.width;
    scaled[0] = static_cast<float>(x) / sigma[0] * scale[0];
    scaled[1] = static_cast<float>(y) / sigma[1] * scale[1];
#pragma unroll
    for (int c = 2; c < D; ++c) {
      const float level = image[(b * (D - 2) + c - 2) * bands.height * bands.width + at];
      // NaN becomes the lowest: a key must not leave its range.
      const float inside = level >= lowest ? (level <= highest ? level : highest) : lowest;
      scaled[c] = inside / sigma[c] * scale[c];
    }
  }
};

// The keys and names of the vertices of such points.
template <int D>
struct PixelNaming {
  double from[D] = {}, to[D];  // bounds of the scaled features
  KeyLayout<D> layout;
  VertexNames<D> names;
  bool fits;

  PixelNaming(const PixelFeatures<D>& f, const PixelGrid& grid) {
    to[0] = static_cast<double>(grid.width - 1) / f.sigma[0] * f.scale[0];
    to[1] = static_cast<double>(grid.height - 1) / f.sigma[1] * f.scale[1];
    for (int i = 2; i < D; ++i) {
      from[i] = static_cast<double>(f.lowest) / f.sigma[i] * f.scale[i];
      to[i] = static_cast<double>(f.highest) / f.sigma[i] * f.scale[i];
    }
    fits = layout.fit(from, to);
    if (fits) names = VertexNames<D>(from, to);
  }
};

}  // namespace

PixelLattice::PixelLattice(const char* op, const char* sigmas, const PixelGrid& grid)
    : grid_(grid) {
  with_dimensions<2>(op, grid.dimensions(), [&](auto d) {
    constexpr int D = d();
    const PixelNaming<D> naming(PixelFeatures<D>(grid), grid);
    if (!naming.fits) {
      throw BeyondLimits(std::string(op) + ": " + sigmas +
                         " sigmas are too small for the CUDA kernel's 64-bit keys");
    }
    const int64_t entries = LatticeSize{1, grid.pixels(), D + 1, kTile}.entries();
    if (entries > entry_limit()) {
      throw BeyondLimits(std::string(op) + ": the image is too large for the CUDA kernel");
    }
    max_images_ = std::max<int64_t>(
        1, std::min(entry_limit() / entries, naming.names.max_images(naming.layout)));
    max_vertices_ = named_vertices(naming.layout);
    if constexpr (D == 2) {
      max_vertices_ = std::min(max_vertices_, plane_vertices(naming.from, naming.to));
    }
    wide_names_ = naming.names.wide;
  });
}

void PixelLattice::build(Stream stream, const Lattice& l, const BuildSpace& s,
                         int64_t first) const {
  with_dimensions<2>("", grid_.dimensions(), [&](auto d) {
    constexpr int D = d();
    PixelFeatures<D> features(grid_);
    const PixelNaming<D> naming(features, grid_);
    features.image += first * grid_.channels * grid_.pixels();
    build_lattice<D>(stream, l, s, features, naming.layout, naming.names);
  });
}

}  // namespace wsss::cuda
