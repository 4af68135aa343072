#include "tf32_product.h"

#include <algorithm>

#include "tf32_product.cuh"

namespace wsss::cuda {
namespace {

// Whether rows of a factor start at addresses that 16 bytes can be copied from.
bool is_aligned(const Matrices& m) {
  return reinterpret_cast<uintptr_t>(m.data) % 16 == 0 && m.step % 4 == 0 && m.row_step % 4 == 0;
}

template <bool kOuterA, bool kOuterB>
void multiply(Stream stream, const Matrices& a, const Matrices& b, const Matrices& out) {
  const Factor left{static_cast<const float*>(a.data), a.step, a.row_step, a.height(), a.width()};
  const Factor right{static_cast<const float*>(b.data), b.step, b.row_step, b.width(), b.height()};
  const dim3 grid(blocks_for(left.outer, kProductTile), blocks_for(right.outer, kProductTile),
                  static_cast<unsigned>(out.batch));
  launch_with_barriers(
      stream, grid, kProductThreads,
      is_aligned(a) && is_aligned(b) ? multiply_tiles<kOuterA, kOuterB, 4>
                                     : multiply_tiles<kOuterA, kOuterB, 1>,
      left, right, static_cast<float*>(const_cast<void*>(out.data)), out.step, out.row_step);
}

}  // namespace

bool prefers_tf32(const Context& context, const Matrices& a, const Matrices& b,
                  const Matrices& out) {
  constexpr int64_t kLeast = 64, kGrid = 65535;
  const int64_t wide = std::max(a.height(), b.width());
  return std::min({a.height(), a.width(), b.width()}) >= kLeast && out.batch <= kGrid &&
         wide <= kGrid * kProductTile && compute_capability(stream_of(context)) >= 8;
}

void multiply_tf32(const Context& context, const Matrices& a, const Matrices& b,
                   const Matrices& out) {
  if (out.transposed) return multiply_tf32(context, b.t(), a.t(), out.t());
  const Stream stream = stream_of(context);
  if (a.transposed && b.transposed) return multiply<true, false>(stream, a, b, out);
  if (a.transposed) return multiply<true, true>(stream, a, b, out);
  if (b.transposed) return multiply<false, false>(stream, a, b, out);
  multiply<false, true>(stream, a, b, out);
}

}  // namespace wsss::cuda
