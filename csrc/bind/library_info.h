// Information about a library of ops: two C functions, which bind/module.cpp reads. Included by one
// source file of each library.
#pragma once

#include "stable_abi.h"

#if __has_include("wsss_build_info.h")
#include "wsss_build_info.h"  // written by wsss_fast/_build
#else
#define WSSS_PART ""
#define WSSS_SOURCE_HASH ""
#define WSSS_COMPILER __VERSION__
#define WSSS_FLAGS ""
#define WSSS_SIMD ""
#define WSSS_CUDA ""
#define WSSS_CUDA_ARCHS ""
#endif

#define WSSS_EXPORT extern "C" __attribute__((visibility("default")))

// Lines of a name, a tab and a value.
WSSS_EXPORT const char* wsss_fast_build_info() {
  return "part\t" WSSS_PART "\nsource_hash\t" WSSS_SOURCE_HASH "\ncompiler\t" WSSS_COMPILER
         "\nflags\t" WSSS_FLAGS "\nsimd\t" WSSS_SIMD "\ncuda\t" WSSS_CUDA
         "\ncuda_archs\t" WSSS_CUDA_ARCHS "\n";
}

// One line per kernel: op, device, argument types and result type as in schemas, separated by tabs.
WSSS_EXPORT const char* wsss_fast_signatures() {
  static const std::string text = [] {
    std::string all;
    for (const auto& s : wsss::signatures()) {
      all += s.op + '\t' + s.device + '\t' + s.arguments + '\t' + s.result + '\n';
    }
    return all;
  }();
  return text.c_str();
}
