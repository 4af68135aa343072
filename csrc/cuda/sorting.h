// Radix sort and prefix sum on the device, compiled only once, in sorting.cu. Counts are below
// 2^31.
#pragma once

#include "../math/scalar.h"

#include "launch.cuh"

namespace wsss::cuda {

// Keys of 64 bits if wide, otherwise 32.
struct SortKeys {
  char* data;
  bool wide;

  WSSS_HD uint32_t* narrow_data() const { return reinterpret_cast<uint32_t*>(data); }
  WSSS_HD uint64_t* wide_data() const { return reinterpret_cast<uint64_t*>(data); }
  __device__ __forceinline__ void set(int64_t i, uint64_t key) const {
    if (wide) wide_data()[i] = key;
    else narrow_data()[i] = static_cast<uint32_t>(key);
  }
  __device__ __forceinline__ bool differs_from_previous(int64_t i) const {
    if (i == 0) return true;
    return wide ? wide_data()[i] != wide_data()[i - 1] : narrow_data()[i] != narrow_data()[i - 1];
  }
};

// Bytes of scratch memory that sort_pairs and inclusive_sum need.
int64_t sorting_scratch(int64_t count, bool wide);
int64_t sum_scratch(int64_t count);

// A stable sort of key[0] by the low `bits`, with value[0]. Overwrites both arrays of both; returns
// which hold the result, 0 or 1.
int sort_pairs(Stream stream, char* scratch, int64_t scratch_bytes, const SortKeys key[2],
               uint32_t* const value[2], int64_t count, int bits);

// In place.
void inclusive_sum(Stream stream, char* scratch, int64_t scratch_bytes, int32_t* terms,
                   int64_t count);

}  // namespace wsss::cuda

#ifndef __CUDACC__
#include "../tests/sorting_on_cpu.h"
#endif
