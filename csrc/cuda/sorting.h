// Radix sort and prefix sum on the device, compiled only once, in sorting.cu. Counts are below
// 2^31.
#pragma once

#include "launch.cuh"

namespace wsss::cuda {

// Bytes of scratch memory that sort_pairs and inclusive_sum need.
int64_t sorting_scratch(int64_t count, int bits);
int64_t sum_scratch(int64_t count);

// A stable sort of key[0] by the low `bits`, with value[0]. Overwrites both arrays of both; returns
// which hold the result, 0 or 1.
int sort_pairs(Stream stream, char* scratch, int64_t scratch_bytes, uint32_t* const key[2],
               uint32_t* const value[2], int64_t count, int bits);

// In place.
void inclusive_sum(Stream stream, char* scratch, int64_t scratch_bytes, int32_t* terms,
                   int64_t count);

}  // namespace wsss::cuda

#ifndef __CUDACC__
#include "../tests/sorting_on_cpu.h"
#endif
