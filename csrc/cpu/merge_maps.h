// The op merge_maps_softmax on the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "../math/merge_maps.h"

namespace wsss::cpu {

// The maps at one size. Where `mask` [images, height, width], if there is one, is not 0, a map is
// rescaled to 0..1.
template <class Real>
struct SoftmaxMaps {
  int64_t height, width;
  const uint8_t* mask;
  Real* values;  // [rows, height, width]
};

template <class Real>
struct SoftmaxCall {
  std::vector<OutputView> views;  // of Real
  int64_t images, channels;
  // The channels of each image's maps ("rows"), those of one image after the other.
  std::vector<std::vector<int32_t>> wanted;  // [images]
  bool present_only;                         // softmax over an image's wanted channels
  std::vector<SoftmaxMaps<Real>> sizes;
};

// Real is float or double. The result does not depend on the number of threads.
template <class Real>
void merge_maps_softmax(const SoftmaxCall<Real>& call, int threads);

}  // namespace wsss::cpu
