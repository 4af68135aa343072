// The matrix unit of recent x86 processors (AMX): products of 16x32 and 32x16 bfloat16 tiles,
// summed in float32. Without AMX, plain loops compute the same sums, so that kernels and their
// tests need no second version.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__) && __has_include(<amxbf16intrin.h>)
#define WSSS_AMX 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace wsss {

// of a left tile; a right one is [kTileDepth, kTileRows]
constexpr int64_t kTileRows = 16, kTileDepth = 32;
constexpr int64_t kTileElements = kTileRows * kTileDepth;  // bfloat16, one kilobyte
constexpr int64_t kTileSums = kTileRows * kTileRows;       // float32, one kilobyte
constexpr int64_t kCacheLineElements = 32;                 // bfloat16 in a line of the cache

// Whether the processor has AMX and the system lets this process use it; asks the system once.
inline bool has_amx() {
#if defined(WSSS_AMX)
  static const bool has = [] {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return false;  // XCR0 is not readable
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return (low >> 17 & 3) == 3 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has;
#else
  return false;
#endif
}

// The operands of one call, which multiplies in steps of kTileDepth channels: two tiles
// on each side, or four on the left with the first one on the right. Element (row, k)
// of part p of left tile i is at
//   left[i] + offsets[step] + row * stride + p * kTileDepth + k,
// element (k, column) of part p of right tile i at
//   right + (((step * Parts + p) * 2 + i) * 16 + k / 2) * 32 + 2 * column + k % 2.
struct TileOperands {
  const uint16_t* left[4];
  int64_t stride;  // elements from one row of a left tile to the next
  const int64_t* offsets;
  int64_t steps;
  const uint16_t* right;
  const uint16_t*
      prefetch;  // prefetched to the L2 cache meanwhile, `prefetch_lines` lines per step
  int64_t prefetch_lines;
};

inline float bf16_value(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// sums[Lefts][4 / Lefts][16][16] (+)= the products of all steps: of the first part on the left with
// all parts on the right, and of the second part with the first. Smaller products are left out.
template <int Parts, int Lefts>
void tile_products_plain(const TileOperands& at, bool first, float* sums) {
  constexpr int kRights = 4 / Lefts;
  if (first) std::memset(sums, 0, 4 * kTileSums * sizeof(float));
  for (int64_t step = 0; step < at.steps; ++step) {
    for (int product = 0; product <= Parts; ++product) {
      const int p = product / Parts, q = product % Parts;
      for (int64_t tile = 0; tile < 4; ++tile) {
        const uint16_t* left = at.left[tile / kRights] + at.offsets[step] + p * kTileDepth;
        const uint16_t* right =
            at.right + ((step * Parts + q) * 2 + tile % kRights) * kTileElements;
        for (int64_t row = 0; row < kTileRows; ++row) {
          float* out = sums + tile * kTileSums + row * kTileRows;
          for (int64_t k = 0; k < kTileDepth; ++k) {
            const float x = bf16_value(left[row * at.stride + k]);
            const uint16_t* weights = right + k / 2 * 2 * kTileRows + k % 2;
            for (int64_t column = 0; column < kTileRows; ++column) {
              out[column] += x * bf16_value(weights[2 * column]);
            }
          }
        }
      }
    }
  }
}

#if defined(WSSS_AMX)
#define WSSS_TILE_CODE __attribute__((target("amx-tile,amx-bf16")))

constexpr int64_t kTileRow = 64;  // bytes

// GCC's tile intrinsics do not declare that they read memory (GCC 12: only the first eight bytes of
// a configuration): without this barrier, earlier writes may be moved behind them or dropped.
inline void finish_writes() { __asm__ volatile("" : : : "memory"); }

// While an object exists, every tile has 16 rows of 64 bytes; other users of AMX, such as
// oneDNN, configure tiles themselves.
class TileConfiguration {
 public:
  WSSS_TILE_CODE TileConfiguration() {
    alignas(64) uint8_t bytes[64] = {1};  // palette 1
    for (int tile = 0; tile < 8; ++tile) {
      bytes[16 + 2 * tile] = 64;
      bytes[48 + tile] = 16;
    }
    __asm__ volatile("" : : "r"(bytes) : "memory");
    _tile_loadconfig(bytes);
  }
  WSSS_TILE_CODE ~TileConfiguration() { _tile_release(); }
};

// Tiles 0..3 hold sums, 4 and 5 a part of the left matrices, 6 and 7 a part of the right ones.
template <int Parts>
WSSS_TILE_CODE inline void two_by_two(const uint16_t* a, const uint16_t* b, int64_t stride,
                                      const uint16_t* right) {
  _tile_loadd(4, a, stride);
  _tile_loadd(5, b, stride);
  // The first part comes last, so that it is still loaded for the left's second part.
  for (int part = Parts - 1; part >= 0; --part) {
    _tile_loadd(6, right + part * 2 * kTileElements, kTileRow);
    _tile_loadd(7, right + (part * 2 + 1) * kTileElements, kTileRow);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_loadd(4, a + kTileDepth, stride);
  _tile_loadd(5, b + kTileDepth, stride);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// Adds to sums 0 and 1, or to 2 and 3.
template <bool Second>
WSSS_TILE_CODE inline void multiply_by_one() {
  if constexpr (Second) {
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  } else {
    _tile_dpbf16ps(0, 4, 7);
    _tile_dpbf16ps(1, 5, 7);
  }
}

template <int Parts, bool Second>
WSSS_TILE_CODE inline void two_by_one(const uint16_t* a, const uint16_t* b, int64_t stride,
                                      const uint16_t* right) {
  _tile_loadd(4, a, stride);
  _tile_loadd(5, b, stride);
  for (int part = Parts - 1; part >= 0; --part) {
    _tile_loadd(7, right + part * 2 * kTileElements, kTileRow);
    multiply_by_one<Second>();
  }
  _tile_loadd(4, a + kTileDepth, stride);
  _tile_loadd(5, b + kTileDepth, stride);
  multiply_by_one<Second>();
}

template <int Parts, int Lefts>
WSSS_TILE_CODE void tile_products_amx(const TileOperands& at, bool first, float* sums) {
  finish_writes();
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kTileRow);
    _tile_loadd(1, sums + kTileSums, kTileRow);
    _tile_loadd(2, sums + 2 * kTileSums, kTileRow);
    _tile_loadd(3, sums + 3 * kTileSums, kTileRow);
  }
  const int64_t stride = at.stride * 2;  // bytes
  const uint16_t *right = at.right, *prefetch = at.prefetch;
  for (int64_t step = 0; step < at.steps; ++step, right += Parts * 2 * kTileElements) {
    for (int64_t line = 0; line < at.prefetch_lines; ++line, prefetch += kCacheLineElements) {
      _mm_prefetch(prefetch, _MM_HINT_T1);
    }
    const int64_t offset = at.offsets[step];
    if constexpr (Lefts == 2) {
      two_by_two<Parts>(at.left[0] + offset, at.left[1] + offset, stride, right);
    } else {
      two_by_one<Parts, false>(at.left[0] + offset, at.left[1] + offset, stride, right);
      two_by_one<Parts, true>(at.left[2] + offset, at.left[3] + offset, stride, right);
    }
  }
  _tile_stored(0, sums, kTileRow);
  _tile_stored(1, sums + kTileSums, kTileRow);
  _tile_stored(2, sums + 2 * kTileSums, kTileRow);
  _tile_stored(3, sums + 3 * kTileSums, kTileRow);
  finish_writes();
}
#endif

template <int Parts, int Lefts>
void tile_products(const TileOperands& at, bool first, float* sums) {
#if defined(WSSS_AMX)
  if (has_amx()) return tile_products_amx<Parts, Lefts>(at, first, sums);
#endif
  tile_products_plain<Parts, Lefts>(at, first, sums);
}

}  // namespace wsss
