#include "image_views.h"

#include "bicubic.h"
#include "team.h"

namespace wsss::cpu {
namespace {

// Looks up the values of a row of pixels, and writes them to the image and to its mirror image.
template <class Value>
void write_row(const uint8_t* pixels, int64_t width, const Value* levels, Value* image,
               Value* mirror) {
  for (int64_t x = 0; x < width; ++x) {
    Value value[kChannels];
    for (int c = 0; c < kChannels; ++c) value[c] = levels[c * kLevels + pixels[x * kChannels + c]];
    std::memcpy(image + x * kChannels, value, sizeof value);
    if (mirror) std::memcpy(mirror + (width - 1 - x) * kChannels, value, sizeof value);
  }
}

// Rows [first, last) of the images of a view, counted over all images.
template <class Value>
void write_rows(const ViewsCall& call, const ViewArray& view, const SideTaps& rows,
                const SideTaps& columns, int64_t first, int64_t last) {
  const ResizedImage size{rows.side, columns.side};
  BicubicRows<kChannels> resized(rows, columns, size.vertical_first(call.order));
  const auto* levels = static_cast<const Value*>(call.levels);
  const int64_t row = view.width * kChannels;
  while (first < last) {
    const int64_t image = first / view.height, top = first % view.height,
                  bottom = std::min(view.height, top + last - first);
    Value* to = static_cast<Value*>(view.values) + image * view.height * row;
    Value* mirrored = call.mirror ? to + call.count * view.height * row : nullptr;
    resized.run(call.images + image * call.height * call.width * kChannels,
                {top, bottom, 0, view.width}, [&](int64_t y, const uint8_t* pixels) {
                  write_row(pixels, view.width, levels, to + y * row,
                            mirrored ? mirrored + y * row : nullptr);
                });
    first += bottom - top;
  }
}

}  // namespace

void image_views(const ViewsCall& call, const std::vector<ViewArray>& views, int threads) {
  std::vector<SideTaps> rows, columns;
  int64_t values = 0;
  for (const ViewArray& view : views) {
    rows.emplace_back(ResizedSide{call.height, view.height});
    columns.emplace_back(ResizedSide{call.width, view.width});
    values += call.count * view.height * view.width * kChannels;
  }
  // Fewer values per thread take less time than starting it.
  constexpr int64_t kValuesPerThread = 1 << 16;
  const int team = static_cast<int>(std::clamp<int64_t>(values / kValuesPerThread, 1, threads));
  Team::run(team, [&](Team&, int rank) {
    for (size_t i = 0; i < views.size(); ++i) {
      const auto [first, last] = Team::part(call.count * views[i].height, rank, team);
      const auto write = call.value_bytes == 4 ? write_rows<uint32_t> : write_rows<uint16_t>;
      write(call, views[i], rows[i], columns[i], first, last);
    }
  });
}

}  // namespace wsss::cpu
