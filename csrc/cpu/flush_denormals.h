// Denormal numbers of kernels that multiply small weights again and again.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace wsss {

// While an object exists, denormal numbers are flushed to zero on this thread: with them, repeated
// products of small affinities would take hundreds of cycles.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  const unsigned before_;
#endif
};

}  // namespace wsss
