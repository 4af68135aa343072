#include "resize_window.h"

#include "bicubic.h"
#include "team.h"

namespace wsss::cpu {
namespace {

template <int C>
void resize(const uint8_t* image, const SideTaps& rows, const SideTaps& columns,
            bool vertical_first, const Window& window, uint8_t* result) {
  const int64_t bytes = (window.right - window.left) * C;
  BicubicRows<C>(rows, columns, vertical_first)
      .run(image, window, [&](int64_t y, const uint8_t* row) {
        std::memcpy(result + (y - window.top) * bytes, row, bytes);
      });
}

}  // namespace

void resize_window(const uint8_t* image, const ResizedImage& size, int64_t channels,
                   PassOrder order, const Window& window, int threads, uint8_t* result) {
  // Fewer bytes per thread take less time than starting it.
  constexpr int64_t kBytesPerThread = 1 << 17;
  const int64_t height = window.bottom - window.top, row = (window.right - window.left) * channels;
  const SideTaps rows(size.rows), columns(size.columns);
  const bool first = size.vertical_first(order);
  const int team =
      static_cast<int>(std::clamp<int64_t>(height * row / kBytesPerThread, 1, threads));
  Team::run(team, [&](Team&, int rank) {
    const auto [top, bottom] = Team::part(height, rank, team);
    const auto run = channels == 1 ? resize<1> : resize<3>;
    run(image, rows, columns, first,
        {window.top + top, window.top + bottom, window.left, window.right}, result + top * row);
  });
}

}  // namespace wsss::cpu
