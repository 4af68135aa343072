#include "sorting.h"

#ifdef __CUDACC__
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

namespace wsss::cuda {

// Counts are passed as 32 bits: that is what CUB's kernels are compiled for.
static int items(int64_t count) {
  if (count > INT32_MAX) throw std::logic_error("wsss_fast: too many items to sort");
  return static_cast<int>(count);
}

int64_t sorting_scratch(int64_t count) {
  size_t sort = 0, scan = 0;
  const uint64_t* key = nullptr;
  const uint32_t* value = nullptr;
  const int32_t* term = nullptr;
  check_cuda(cub::DeviceRadixSort::SortPairs(nullptr, sort, key, static_cast<uint64_t*>(nullptr),
                                             value, static_cast<uint32_t*>(nullptr), items(count)),
             "sort");
  check_cuda(cub::DeviceScan::InclusiveSum(
                 nullptr, scan, term, static_cast<int32_t*>(nullptr), items(count)),
             "prefix sum");
  return static_cast<int64_t>(sort > scan ? sort : scan);
}

void sort_pairs(Stream stream, char* scratch, int64_t scratch_bytes, const uint64_t* key,
                uint64_t* sorted_key, const uint32_t* value, uint32_t* sorted_value, int64_t count,
                int bits) {
  size_t bytes = static_cast<size_t>(scratch_bytes);
  check_cuda(cub::DeviceRadixSort::SortPairs(scratch, bytes, key, sorted_key, value, sorted_value,
                                             items(count), 0, bits, stream.handle),
             stream.op);
}

void inclusive_sum(Stream stream, char* scratch, int64_t scratch_bytes, const int32_t* term,
                   int32_t* sum, int64_t count) {
  size_t bytes = static_cast<size_t>(scratch_bytes);
  check_cuda(cub::DeviceScan::InclusiveSum(scratch, bytes, term, sum, items(count), stream.handle),
             stream.op);
}

}  // namespace wsss::cuda
#endif
