// The op merge_maps on CUDA.
#pragma once

#include <cstdint>
#include <vector>

#include "../math/merge_maps.h"
#include "context.h"

namespace wsss::cuda {

// Maps of one of the two sizes: views are resized to resized_height x resized_width, then cropped.
struct MapSize {
  int64_t height, width, resized_height, resized_width;
};

enum class MergeKind { kRelative, kSoftmax, kSum };

struct MergeCall {
  ElementType type, out_type;        // of the views; of the maps
  std::vector<OutputView> views;     // 1..kMostViews
  int64_t images, channels;          // of the views
  std::vector<int32_t> row_channel;  // [rows] channel of each wanted map
  std::vector<int32_t> row_image;    // [rows] its image, ascending
  MergeKind kind;
  bool present_only;  // softmax over an image's wanted channels
  // For kSoftmax: [images, height, width], or null; not 0 where maps are rescaled to 0..1.
  const uint8_t *small_mask, *full_mask;
  MapSize small, full;           // `small` has height 0 if there are no small maps
  void *small_maps, *full_maps;  // [rows, height, width]
};

void merge_maps(Context& context, const MergeCall& call);

}  // namespace wsss::cuda
