#include "merge_maps.h"

#include "merge_maps_kernel.h"

namespace wsss::cpu {

template <class Real>
void merge_maps_softmax(const SoftmaxCall<Real>& call, int threads) {
  int64_t values = 0, lines = 0;
  for (const auto& maps : call.sizes) {
    values += maps.height * maps.width * call.channels;
    lines += maps.height;
  }
  // Fewer values per thread take less time than starting it.
  constexpr int64_t kValuesPerThread = 1 << 16;
  const int team = static_cast<int>(
      std::clamp<int64_t>(values / kValuesPerThread, 1, std::min<int64_t>(threads, lines)));
  AveragedViews<Real> views(call);
  size_t most = 0;
  for (const auto& wanted : call.wanted) most = std::max(most, wanted.size());
  std::vector<Extremes<Real>> found(team * most);
  Team::run(team, [&](Team& all, int rank) {
    int64_t row = 0;  // the image's first map
    for (int64_t image = 0; image < call.images; ++image) {
      const size_t rows = call.wanted[image].size();
      if (rows == 0) continue;
      if (rank == 0) views.start(image);
      all.barrier();
      views.load(rank, team);
      all.barrier();
      for (const auto& maps : call.sizes) {
        const int64_t pixels = maps.height * maps.width;
        const auto [top, bottom] = Team::part(maps.height, rank, team);
        Real* to = maps.values + row * pixels;
        SoftmaxRows<Real> part(call, views, image, maps);
        for (int64_t y = top; y < bottom; ++y) part.run(y, to);
        if (!maps.mask) continue;
        for (size_t r = 0; r < rows; ++r) found[rank * most + r] = part.extremes(r);
        all.barrier();
        const int64_t first = top * maps.width, count = (bottom - top) * maps.width;
        for (size_t r = 0; r < rows; ++r) {
          Extremes<Real> whole;
          for (int t = 0; t < team; ++t) whole.include(found[t * most + r]);
          rescale(to + r * pixels + first, maps.mask + image * pixels + first, count, whole);
        }
        all.barrier();  // before `found` is written again
      }
      all.barrier();  // before the views of the next image
      row += static_cast<int64_t>(rows);
    }
  });
}

template void merge_maps_softmax(const SoftmaxCall<float>&, int);
template void merge_maps_softmax(const SoftmaxCall<double>&, int);

}  // namespace wsss::cpu
