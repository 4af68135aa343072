#include "pixel_adaptive_refine.h"

#include "pixel_adaptive_refine_kernel.h"

namespace wsss::cpu {
namespace {

// Runs one Kernel for each image; the results do not depend on the number of threads.
template <class Kernel>
void run_images(const float* from, const float* image, const RefineShape& shape, int64_t iterations,
                int threads, float* out) {
  const int64_t masks = shape.masks * shape.pixels();
  if (iterations == 0) {
    std::copy_n(from, shape.images * masks, out);
    return;
  }
  // With fewer pixels per thread, iterations would be so short that barriers dominate.
  constexpr int64_t kPixelsPerThread = 2048;
  const int inside =
      static_cast<int>(std::clamp<int64_t>(shape.pixels() / kPixelsPerThread, 1, threads));
  const int by_image = static_cast<int>(std::min<int64_t>(threads, shape.images));
  auto refine = [&](Team& team, int rank, Kernel& kernel, int64_t b) {
    kernel.run(team, rank, from + b * masks, image + b * shape.channels * shape.pixels(),
               iterations, out + b * masks);
  };
  // Of equally many threads, those inside an image need less memory.
  if (by_image > inside) {
    Team::run(by_image, [&](Team& team, int rank) {
      const auto [first, last] = Team::part(shape.images, rank, team.size());
      Kernel kernel(shape);
      Team single(1);
      for (int64_t b = first; b < last; ++b) refine(single, 0, kernel, b);
    });
  } else {
    Kernel kernel(shape);
    Team::run(inside, [&](Team& team, int rank) {
      for (int64_t b = 0; b < shape.images; ++b) refine(team, rank, kernel, b);
    });
  }
}

}  // namespace

void pixel_adaptive_refine(const float* masks, const float* image, const RefineShape& shape,
                           int64_t iterations, int threads, float* out) {
  run_images<PixelAdaptiveRefine>(masks, image, shape, iterations, threads, out);
}

void pixel_adaptive_refine_backward(const float* grad, const float* image, const RefineShape& shape,
                                    int64_t iterations, int threads, float* out) {
  run_images<PixelAdaptiveRefineGradient>(grad, image, shape, iterations, threads, out);
}

}  // namespace wsss::cpu
