#include "merge_maps.h"

#include <algorithm>

#include "merge_maps.cuh"

namespace wsss::cuda {
namespace {

WantedRows copy_rows(Context& context, const MergeCall& call) {
  std::vector<int32_t> table(call.row_channel);
  table.insert(table.end(), call.row_image.begin(), call.row_image.end());
  for (int64_t image = 0; image <= call.images; ++image) {
    const auto begin = call.row_image.begin();
    table.push_back(static_cast<int32_t>(
        std::lower_bound(begin, call.row_image.end(), static_cast<int32_t>(image)) - begin));
  }
  const auto count = static_cast<int64_t>(table.size());
  int32_t* to = context.allocate<int32_t>(count);
  for (int64_t start = 0; start < count; start += kCarried) {
    const int64_t some = std::min<int64_t>(count - start, kCarried);
    Carried values{};
    std::copy_n(table.begin() + start, some, values.value);
    launch(stream_of(context), blocks_for(some), kThreads, store_values, values, some, to + start);
  }
  const auto rows = static_cast<int64_t>(call.row_channel.size());
  return {rows, to, to + rows, to + 2 * rows};
}

template <class T, class Out>
void run(Context& context, const MergeCall& call) {
  using Real = Wide<T>;
  const Stream stream = stream_of(context);
  const WantedRows rows = copy_rows(context, call);
  const int64_t smalls = call.small.height * call.small.width,
                fulls = call.full.height * call.full.width;
  OutputViews views{static_cast<int>(call.views.size()), {}};
  std::copy(call.views.begin(), call.views.end(), views.at);
  // Values of the maps' own type are scaled in place.
  Real *small = static_cast<Real*>(call.small_maps), *full = static_cast<Real*>(call.full_maps);
  if constexpr (!std::is_same_v<Real, Out>) {
    small = smalls ? context.allocate<Real>(rows.count * smalls) : nullptr;
    full = context.allocate<Real>(rows.count * fulls);
  }
  if (call.kind == MergeKind::kSoftmax) {
    launch(stream, blocks_for(call.images * (smalls + fulls)), kThreads, softmax_views<T>, views,
           call.images, call.channels, call.present_only, rows, call.small, call.full, small, full);
  } else {
    launch(stream, blocks_for(rows.count * (smalls + fulls)), kThreads, sum_views<T>, views,
           call.images, rows, call.small, call.full, small, full);
  }
  const Scaling scaling =
      call.kind == MergeKind::kRelative ? Scaling::kMaximum
      : call.kind == MergeKind::kSoftmax && call.full_mask
          ? Scaling::kRange
          : Scaling::kNone;
  if (scaling == Scaling::kNone && std::is_same_v<Real, Out>) return;
  const int parts =
      static_cast<int>(std::min<int64_t>((fulls + kPartPixels - 1) / kPartPixels, kMostParts));
  Extremes<Real>* extremes = nullptr;
  if (scaling != Scaling::kNone) {
    const int64_t count = rows.count * (smalls ? 2 : 1) * parts;
    extremes = context.allocate<Extremes<Real>>(count);
    launch_with_barriers(stream, blocks_for(count, 1), kThreads, find_extremes<Real>, parts, smalls,
                         fulls, small, full, extremes);
  }
  const MapsOfSize<Real, Out> of_small{
      smalls, call.small_mask, small, static_cast<Out*>(call.small_maps)};
  const MapsOfSize<Real, Out> of_full{
      fulls, call.full_mask, full, static_cast<Out*>(call.full_maps)};
  launch(stream, blocks_for(rows.count * (of_small.threads() + of_full.threads())), kThreads,
         scale_maps<Real, Out>, scaling, rows, extremes, parts, of_small, of_full);
}

}  // namespace

void merge_maps(Context& context, const MergeCall& call) {
  with_element_type(call.type, [&]<class T>(T) {
    with_element_type(call.out_type, [&]<class Out>(Out) { run<T, Out>(context, call); });
  });
}

}  // namespace wsss::cuda
