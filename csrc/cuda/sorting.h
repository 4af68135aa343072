// Radix sort and prefix sum on the device, compiled only once, in sorting.cu.
#pragma once

#include "launch.cuh"

namespace wsss::cuda {

// Bytes of scratch memory that sort_pairs and inclusive_sum need for `count` < 2^31 items.
int64_t sorting_scratch(int64_t count);

// A stable sort by the low `bits` of the keys.
void sort_pairs(Stream stream, char* scratch, int64_t scratch_bytes, const uint64_t* key,
                uint64_t* sorted_key, const uint32_t* value, uint32_t* sorted_value, int64_t count,
                int bits);

void inclusive_sum(Stream stream, char* scratch, int64_t scratch_bytes, const int32_t* term,
                   int32_t* sum, int64_t count);

}  // namespace wsss::cuda
