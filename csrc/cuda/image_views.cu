#include "image_views.h"

#include <algorithm>

#include "image_views.cuh"

namespace wsss::cuda {
namespace {

DeviceSide device_side(Context& context, const ResizedSide& side) {
  if (!side.changes()) return {side, nullptr, nullptr, nullptr};
  auto* memory = context.allocate<int32_t>((2 + side.taps()) * side.size);
  return {side, memory, memory + side.size, memory + 2 * side.size};
}

DeviceView device_view(Context& context, const ViewsCall& call, const ViewArray& view) {
  const ResizedImage size{{call.height, view.height}, {call.width, view.width}};
  DeviceView device{
      device_side(context, size.rows),
      device_side(context, size.columns),
      size.vertical_first(call.order),
      nullptr,
      view.values,
      {}};
  if (size.rows.changes() && size.columns.changes()) {
    device.middle = context.allocate<uint8_t>(call.count * device.middle_pixels() * kChannels);
  }
  return device;
}

}  // namespace

void image_views(Context& context, const ViewsCall& call, const std::vector<ViewArray>& all) {
  const Stream stream = stream_of(context);
  LevelTable table{{}, {}, call.type, context.allocate<float>(kChannels * kLevels)};
  std::copy(call.mean, call.mean + kChannels, table.mean);
  std::copy(call.std, call.std + kChannels, table.std);
  for (size_t begin = 0; begin < all.size(); begin += kViews) {
    const size_t mark = context.mark();
    DeviceViews views{{}, 0, call.images, call.count, call.mirror};
    int64_t prepared = kChannels * kLevels, blocks[2] = {};
    for (size_t i = begin; i < std::min(begin + kViews, all.size()); ++i) {
      DeviceView view = device_view(context, call, all[i]);
      for (const DeviceSide* s : {&view.rows, &view.columns}) {
        if (s->side.changes()) prepared += s->side.size;
      }
      for (int kernel : {0, 1}) view.first_blocks[kernel] = blocks[kernel];
      if (view.middle) blocks[0] += blocks_for(call.count * view.middle_pixels());
      blocks[1] += blocks_for(call.count * view.pixels());
      views.at[views.count++] = view;
    }
    launch(stream, blocks_for(prepared), kThreads, prepare_views, views, table);
    if (blocks[0] > 0) launch(stream, blocks_for(blocks[0], 1), kThreads, first_pass, views);
    const unsigned grid = blocks_for(blocks[1], 1);
    if (call.type == ElementType::kFloat32) {
      launch_with_barriers(stream, grid, kThreads, last_pass<uint32_t>, views,
                           static_cast<const uint32_t*>(table.values));
    } else {
      launch_with_barriers(stream, grid, kThreads, last_pass<uint16_t>, views,
                           static_cast<const uint16_t*>(table.values));
    }
    context.release(mark);
  }
}

}  // namespace wsss::cuda
