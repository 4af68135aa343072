// What the C++ tests share: reproducible random numbers, and the exit code.
#pragma once

#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>

namespace wsss::testing {

// Sanitizers are slow, and only have to see each access once: with them, tests skip runs that
// repeat others (in another order, or by the definition) to compare results.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kCompareResults = false;
#else
inline constexpr bool kCompareResults = true;
#endif

// A random integer below 2^24.
inline uint32_t random_bits() {
  static uint32_t state = 1;
  return (state = state * 1664525u + 1013904223u) >> 8;
}

// In [0, 1).
inline double uniform() { return static_cast<double>(random_bits()) / 16777216.0; }
inline float uniform_float() { return static_cast<float>(uniform()); }

// An integer in [-3, 4]: sums of few products of such numbers are exact.
inline float small_integer() { return static_cast<float>(random_bits() >> 21) - 3.0f; }

// Whether run() raises an exception whose text contains `message`.
template <class Run>
bool raises(const Run& run, const char* message) {
  try {
    run();
  } catch (const std::exception& error) {
    if (std::string(error.what()).find(message) != std::string::npos) return true;
    std::printf("failed: raised %s\n", error.what());
    return false;
  }
  std::printf("failed: not raised: %s\n", message);
  return false;
}

// The exit code of main().
inline int report(bool passed) {
  std::puts(passed ? "ok" : "FAILED");
  return passed ? 0 : 1;
}

}  // namespace wsss::testing
