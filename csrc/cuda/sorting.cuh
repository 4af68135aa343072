// CUB's radix sort and prefix sum (the emulator brings its own).
#pragma once

#include "launch.cuh"

#ifdef __CUDACC__
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

namespace wsss::cuda {

// Bytes of scratch that sort_pairs and inclusive_sum need for `count` items.
inline int64_t sorting_scratch(int64_t count) {
  size_t sort = 0, scan = 0;
  const uint64_t* key = nullptr;
  const uint32_t* value = nullptr;
  const int32_t* term = nullptr;
  check_cuda(cub::DeviceRadixSort::SortPairs(nullptr, sort, key, static_cast<uint64_t*>(nullptr), value,
                                             static_cast<uint32_t*>(nullptr), count));
  check_cuda(cub::DeviceScan::InclusiveSum(nullptr, scan, term, static_cast<int32_t*>(nullptr), count));
  return static_cast<int64_t>(sort > scan ? sort : scan);
}

// Stable, by the low `bits` of the keys.
inline void sort_pairs(Stream stream, char* scratch, int64_t scratch_bytes, const uint64_t* key, uint64_t* sorted_key,
                       const uint32_t* value, uint32_t* sorted_value, int64_t count, int bits) {
  size_t bytes = static_cast<size_t>(scratch_bytes);
  check_cuda(cub::DeviceRadixSort::SortPairs(scratch, bytes, key, sorted_key, value, sorted_value, count, 0, bits, stream));
}

inline void inclusive_sum(Stream stream, char* scratch, int64_t scratch_bytes, const int32_t* term, int32_t* sum,
                          int64_t count) {
  size_t bytes = static_cast<size_t>(scratch_bytes);
  check_cuda(cub::DeviceScan::InclusiveSum(scratch, bytes, term, sum, count, stream));
}

}  // namespace wsss::cuda
#endif
