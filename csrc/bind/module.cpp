// The Python module of the library: what it was built from. Importing it registers the ops.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>

#include "stable_abi.h"

#if __has_include("wsss_build_info.h")
#include "wsss_build_info.h"  // written by wsss_fast/_native.py
#else
#define WSSS_COMPILER __VERSION__
#define WSSS_FLAGS ""
#define WSSS_CUDA_ARCHS ""
#define WSSS_SOURCE_HASH ""
#endif

namespace {

const char* simd_level() {
#if defined(__AVX512F__)
  return "avx512";
#elif defined(__AVX2__)
  return "avx2";
#elif defined(__ARM_NEON)
  return "neon";
#else
  return "baseline";
#endif
}

std::map<std::string, std::string> build_info() {
  return {{"compiler", WSSS_COMPILER},
          {"flags", WSSS_FLAGS},
          {"simd", simd_level()},
          {"cuda_archs", WSSS_CUDA_ARCHS},
          {"source_hash", WSSS_SOURCE_HASH}};
}

// (op, device, argument types, result type) of every registered kernel, in schema words.
std::vector<std::vector<std::string>> signatures() {
  std::vector<std::vector<std::string>> all;
  for (const auto& s : wsss::signatures()) all.push_back({s.op, s.device, s.arguments, s.result});
  return all;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("build_info", &build_info);
  m.def("signatures", &signatures);
}
