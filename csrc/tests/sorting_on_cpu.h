// What csrc/cuda/sorting.cu defines with nvcc, for the emulator.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "cuda_on_cpu.h"

namespace wsss::cuda {

inline int64_t sorting_scratch(int64_t count, bool wide) { return count + wide; }
inline int64_t sum_scratch(int64_t count) { return count; }

inline int sort_pairs(Stream, char* scratch, int64_t scratch_bytes, const SortKeys key[2],
                      uint32_t* const value[2], int64_t count, int bits) {
  std::memset(scratch, 0xcd, scratch_bytes);
  const uint64_t mask = bits < 64 ? (uint64_t{1} << bits) - 1 : ~uint64_t{0};
  const auto key_at = [&](int64_t i) {
    return key[0].wide ? key[0].wide_data()[i] : key[0].narrow_data()[i];
  };
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return (key_at(a) & mask) < (key_at(b) & mask); });
  for (int64_t i = 0; i < count; ++i) {
    key[1].set(i, key_at(order[i]));
    value[1][i] = value[0][order[i]];
  }
  // As a radix sort of 8 bits a pass: what the other arrays hold afterwards is of no use.
  const int result = (bits + 7) / 8 & 1;
  const int64_t bytes = count * (key[0].wide ? 8 : 4);
  if (result == 0) {
    std::copy_n(key[1].data, bytes, key[0].data);
    std::copy_n(value[1], count, value[0]);
  }
  std::fill_n(key[1 - result].data, bytes, static_cast<char>(0xcd));
  std::fill_n(value[1 - result], count, 0xcdcdcdcdu);
  return result;
}

inline void inclusive_sum(Stream, char* scratch, int64_t scratch_bytes, int32_t* terms,
                          int64_t count) {
  std::memset(scratch, 0xcd, scratch_bytes);
  std::partial_sum(terms, terms + count, terms);
}

}  // namespace wsss::cuda
