// The matrix unit of recent x86 processors (AMX): products of 16x32 and 32x16 bfloat16 tiles, summed in float32. Where there
// is none, plain loops compute the same sums, so that kernels and their tests need no second version.
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

constexpr int64_t kTileRows = 16, kTileDepth = 32;           // of a left tile; a right one is [kTileDepth, kTileRows]
constexpr int64_t kTileElements = kTileRows * kTileDepth;    // bfloat16, one kilobyte
constexpr int64_t kTileSums = kTileRows * kTileRows;         // float32, one kilobyte

// Whether processor and system let this process use the tiles; asks the system once.
inline bool has_tiles() {
#if defined(WSSS_AMX)
  static const bool has = [] {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return false;  // may XCR0 be read
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return (low >> 17 & 3) == 3 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has;
#else
  return false;
#endif
}

// The two tiles of pixels, in two parts each, and the two of filters, in `Parts`, of one step: element (row, k) of left tile i
// and part p is at left[i] + row * stride + p * kTileDepth + k, that of the right one, (k, column), at
// right + ((p * 2 + i) * 16 + k / 2) * 32 + 2 * column + k % 2.
struct TileStep {
  const uint16_t* left[2];
  int64_t stride;  // elements from one row of a left tile to the next
  const uint16_t* right;
};

inline float bf16_value(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// sums[2][2][16][16] (+)= the products of `steps` steps, each further by `left_step` and `right_step` elements: of the first
// part on the left with all on the right, and of the second with the first. The second with the second is left out.
template <int Parts>
void tile_products_plain(TileStep at, int64_t steps, int64_t left_step, int64_t right_step, bool first, float* sums) {
  if (first) std::memset(sums, 0, 4 * kTileSums * sizeof(float));
  for (int64_t step = 0; step < steps; ++step) {
    for (int product = 0; product <= Parts; ++product) {
      const int p = product / Parts, q = product % Parts;
      for (int64_t tile = 0; tile < 4; ++tile) {
        const uint16_t* left = at.left[tile / 2] + step * left_step + p * kTileDepth;
        const uint16_t* right = at.right + step * right_step + (q * 2 + tile % 2) * kTileElements;
        for (int64_t row = 0; row < kTileRows; ++row) {
          float* out = sums + tile * kTileSums + row * kTileRows;
          for (int64_t k = 0; k < kTileDepth; ++k) {
            const float x = bf16_value(left[row * at.stride + k]);
            const uint16_t* weights = right + k / 2 * 2 * kTileRows + k % 2;
            for (int64_t column = 0; column < kTileRows; ++column) out[column] += x * bf16_value(weights[2 * column]);
          }
        }
      }
    }
  }
}

#if defined(WSSS_AMX)
#define WSSS_TILE_CODE __attribute__((target("amx-tile,amx-bf16")))

// GCC's tile intrinsics do not say that they read memory (GCC 12: a configuration's first eight bytes only): without this,
// what was written before may come after them, or never.
inline void finish_writes() { __asm__ volatile("" : : : "memory"); }

// Every tile has 16 rows of 64 bytes while this lives; other users of the tiles, oneDNN among them, configure their own.
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

// Tiles 0..3 hold sums, 4 and 5 a part of the left, 6 and 7 one of the right.
template <int Parts>
WSSS_TILE_CODE void tile_products_amx(TileStep at, int64_t steps, int64_t left_step, int64_t right_step, bool first,
                                      float* sums) {
  constexpr int kRow = 64;
  finish_writes();
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kRow);
    _tile_loadd(1, sums + kTileSums, kRow);
    _tile_loadd(2, sums + 2 * kTileSums, kRow);
    _tile_loadd(3, sums + 3 * kTileSums, kRow);
  }
  const int64_t stride = at.stride * 2;  // bytes
  const uint16_t *a = at.left[0], *b = at.left[1], *right = at.right;
  for (int64_t step = 0; step < steps; ++step, a += left_step, b += left_step, right += right_step) {
    _tile_loadd(4, a, stride);
    _tile_loadd(5, b, stride);
    for (int part = Parts - 1; part >= 0; --part) {  // the first part last: the left's second meets it in its tiles
      _tile_loadd(6, right + part * 2 * kTileElements, kRow);
      _tile_loadd(7, right + (part * 2 + 1) * kTileElements, kRow);
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
  _tile_stored(0, sums, kRow);
  _tile_stored(1, sums + kTileSums, kRow);
  _tile_stored(2, sums + 2 * kTileSums, kRow);
  _tile_stored(3, sums + 3 * kTileSums, kRow);
  finish_writes();
}
#endif

template <int Parts>
void tile_products(TileStep at, int64_t steps, int64_t left_step, int64_t right_step, bool first, float* sums) {
#if defined(WSSS_AMX)
  if (has_tiles()) return tile_products_amx<Parts>(at, steps, left_step, right_step, first, sums);
#endif
  tile_products_plain<Parts>(at, steps, left_step, right_step, first, sums);
}

}  // namespace wsss
