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

template <class Key>
static int sort_as(cudaStream_t stream, const char* op, void* scratch, size_t& bytes,
                   cub::DoubleBuffer<Key> keys, uint32_t* const value[2], int64_t count, int bits) {
  cub::DoubleBuffer<uint32_t> values(value[0], value[1]);
  check_cuda(
      cub::DeviceRadixSort::SortPairs(scratch, bytes, keys, values, items(count), 0, bits, stream),
      op);
  if (keys.selector != values.selector) throw std::logic_error("wsss_fast: sorted apart");
  return keys.selector;
}

int64_t sorting_scratch(int64_t count, bool wide) {
  size_t bytes = 0;
  uint32_t* const value[2] = {};
  if (wide)
    sort_as(nullptr, "sort", nullptr, bytes, cub::DoubleBuffer<uint64_t>(), value, count, 64);
  else sort_as(nullptr, "sort", nullptr, bytes, cub::DoubleBuffer<uint32_t>(), value, count, 32);
  return static_cast<int64_t>(bytes);
}

int64_t sum_scratch(int64_t count) {
  size_t bytes = 0;
  int32_t* terms = nullptr;
  check_cuda(cub::DeviceScan::InclusiveSum(nullptr, bytes, terms, terms, items(count)), "sum");
  return static_cast<int64_t>(bytes);
}

int sort_pairs(Stream stream, char* scratch, int64_t scratch_bytes, const SortKeys key[2],
               uint32_t* const value[2], int64_t count, int bits) {
  size_t bytes = static_cast<size_t>(scratch_bytes);
  const auto sort = [&](auto keys) {
    return sort_as(stream.handle, stream.op, scratch, bytes, keys, value, count, bits);
  };
  return key[0].wide
             ? sort(cub::DoubleBuffer<uint64_t>(key[0].wide_data(), key[1].wide_data()))
             : sort(cub::DoubleBuffer<uint32_t>(key[0].narrow_data(), key[1].narrow_data()));
}

void inclusive_sum(Stream stream, char* scratch, int64_t scratch_bytes, int32_t* terms,
                   int64_t count) {
  size_t bytes = static_cast<size_t>(scratch_bytes);
  check_cuda(
      cub::DeviceScan::InclusiveSum(scratch, bytes, terms, terms, items(count), stream.handle),
      stream.op);
}

}  // namespace wsss::cuda
#endif
