// Hash tables from vertex keys to vertex numbers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "buffer.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace wsss {

inline uint64_t mix(uint64_t key) { return key * 0x9E3779B97F4A7C15u; }
inline uint64_t mix(unsigned __int128 key) {
  return mix(static_cast<uint64_t>(key) ^ mix(static_cast<uint64_t>(key >> 64)) >> 7);
}

// Key and number share 64 bits, eight slots share a cache line, and one comparison covers all
// eight: nearly every look-up touches one cache line and takes no branch that depends on the key.
class CompactTable {
 public:
  using Key = uint64_t;

  // Whether keys of `key_bits` bits and numbers below `numbers` can be stored.
  static bool can_hold(int key_bits, int64_t numbers) {
    return numbers <= (int64_t{1} << std::min(63 - key_bits, 31));
  }

  CompactTable(int key_bits, int64_t expected) : number_bits_(63 - key_bits) {
    if (number_bits_ > 31) number_bits_ = 31;
    while ((int64_t{5} << bits_) < expected) ++bits_;
    clear();
  }

  // Returns the number of `key`; a new key gets `number`.
  int32_t insert(Key key, int32_t number) {
    const uint64_t wanted = key << number_bits_;
    for (uint64_t b = mix(key) >> (64 - bits_);; b = (b + 1) & (buckets() - 1)) {
      uint64_t* slot = slots_.get() + b * kSlots;
      const Found found = look(slot, wanted);
      if (found.key != 0) return number_at(slot, found.key);
      if (found.empty != 0) {
        slot[__builtin_ctz(found.empty)] = wanted | static_cast<uint64_t>(number);
        if (++count_ * 4 > buckets() * kSlots * 3) grow();
        return number;
      }
    }
  }

  void prefetch(Key key) const {
    __builtin_prefetch(slots_.get() + (mix(key) >> (64 - bits_)) * kSlots);
  }

  // Returns the number of `key`, or -1 if there is none.
  int32_t find(Key key) const {
    const uint64_t wanted = key << number_bits_;
    for (uint64_t b = mix(key) >> (64 - bits_);; b = (b + 1) & (buckets() - 1)) {
      const uint64_t* slot = slots_.get() + b * kSlots;
      const Found found = look(slot, wanted);
      if ((found.key | found.empty) != 0) {
        // Without a branch: whether a neighbour exists cannot be predicted.
        return number_at(slot, found.key | 1u << (kSlots - 1)) |
               -static_cast<int32_t>(found.key == 0);
      }
    }
  }

  // Replaces number n by by_number[n], which must be storable, too.
  void renumber(const int32_t* by_number) {
    const uint64_t mask = (uint64_t{1} << number_bits_) - 1;
    for (uint64_t i = 0; i < buckets() * kSlots; ++i) {
      uint64_t& slot = slots_[static_cast<int64_t>(i)];
      if (slot != kEmpty) slot = (slot & ~mask) | static_cast<uint64_t>(by_number[slot & mask]);
    }
  }

 private:
  static constexpr int kSlots = 8;
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // a used slot has its top bit clear
  struct Found {
    unsigned key, empty;  // bit per slot
  };

  uint64_t buckets() const { return uint64_t{1} << bits_; }
  int32_t number_at(const uint64_t* slot, unsigned which) const {
    return static_cast<int32_t>(slot[__builtin_ctz(which)] & ((uint64_t{1} << number_bits_) - 1));
  }

  Found look(const uint64_t* slot, uint64_t wanted) const {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    const __m512i all = _mm512_load_si512(slot);
    const __m512i difference =
        _mm512_xor_si512(all, _mm512_set1_epi64(static_cast<int64_t>(wanted)));
    const __m512i limit = _mm512_set1_epi64(int64_t{1} << number_bits_);
    return {_mm512_cmplt_epu64_mask(difference, limit), _mm512_movepi64_mask(all)};
#elif defined(__AVX2__)
    const __m256i key = _mm256_set1_epi64x(static_cast<int64_t>(wanted >> number_bits_));
    unsigned equal = 0, empty = 0;
    for (int half = 0; half < 2; ++half) {
      const __m256i four = _mm256_load_si256(reinterpret_cast<const __m256i*>(slot) + half);
      const __m256i same = _mm256_cmpeq_epi64(_mm256_srli_epi64(four, number_bits_), key);
      equal |= static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(same))) << (4 * half);
      empty |= static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(four))) << (4 * half);
    }
    return {equal, empty};
#else
    unsigned equal = 0, empty = 0;
    for (int i = 0; i < kSlots; ++i) {
      equal |= static_cast<unsigned>(slot[i] >> number_bits_ == wanted >> number_bits_) << i;
      empty |= static_cast<unsigned>(slot[i] >> 63) << i;
    }
    return {equal, empty};
#endif
  }

  void clear() {
    slots_ = {};
    slots_.reserve(static_cast<int64_t>(buckets()) * kSlots);
    std::fill(slots_.get(), slots_.get() + buckets() * kSlots, kEmpty);
    count_ = 0;
  }

  void grow() {
    Buffer<uint64_t> old;
    std::swap(old, slots_);
    const uint64_t slots = buckets() * kSlots;
    bits_ += 2;
    clear();
    for (uint64_t i = 0; i < slots; ++i) {
      if (old[i] != kEmpty) {
        insert(old[i] >> number_bits_,
               static_cast<int32_t>(old[i] & ((uint64_t{1} << number_bits_) - 1)));
      }
    }
  }

  Buffer<uint64_t> slots_;
  uint64_t count_ = 0;
  int number_bits_;
  int bits_ = 6;  // log2 of the buckets
};

// For keys that leave no room for the number in 64 bits.
template <class K>
class WideTable {
 public:
  using Key = K;

  static bool can_hold(int, int64_t numbers) { return numbers <= INT32_MAX; }

  WideTable(int, int64_t expected) {
    while ((int64_t{1} << bits_) < 2 * expected) ++bits_;
    slots_.assign(size_t{1} << bits_, Slot{0, -1});
  }

  int32_t insert(Key key, int32_t number) {
    Slot& slot = slots_[slot_of(key)];
    if (slot.number >= 0) return slot.number;
    slot = {key, number};
    if (++count_ * 2 > slots_.size()) grow();
    return number;
  }

  void prefetch(Key key) const { __builtin_prefetch(&slots_[mix(key) >> (64 - bits_)]); }

  int32_t find(Key key) const { return slots_[slot_of(key)].number; }

  void renumber(const int32_t* by_number) {
    for (Slot& slot : slots_) {
      if (slot.number >= 0) slot.number = by_number[slot.number];
    }
  }

 private:
  struct Slot {
    Key key;
    int32_t number;  // -1: empty
  };

  // The slot of `key`, or the empty slot where it would be inserted.
  size_t slot_of(Key key) const {
    size_t i = mix(key) >> (64 - bits_);
    while (slots_[i].number >= 0 && slots_[i].key != key) i = (i + 1) & (slots_.size() - 1);
    return i;
  }

  void grow() {
    const std::vector<Slot> old = std::move(slots_);
    bits_ += 2;
    slots_.assign(size_t{1} << bits_, Slot{0, -1});
    for (const Slot& slot : old) {
      if (slot.number >= 0) slots_[slot_of(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;
  size_t count_ = 0;
  int bits_ = 9;
};

}  // namespace wsss
