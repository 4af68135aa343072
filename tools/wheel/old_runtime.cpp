// What newer headers use and the libraries of manylinux_2_28 (glibc 2.28, libstdc++ of gcc 8) lack;
// and torch's C functions, looked up in the loaded libraries, so that the wheel depends on no
// particular version and folder of torch.
#include <dlfcn.h>

#include <new>
#include <sstream>
#include <stdexcept>

extern "C" char __libc_single_threaded;
char __libc_single_threaded = 0;  // reference counts stay atomic

namespace std {
void __throw_bad_array_new_length() { throw bad_array_new_length(); }
template class basic_stringbuf<char>;
template class basic_stringstream<char>;
template class basic_ostringstream<char>;
}  // namespace std

// Defined in the generated torch_symbols.s: each function jumps to its address in the table.
extern "C" void* wsss_torch_table[];
extern "C" const char* const wsss_torch_names[];  // ends with null

namespace {

[[noreturn]] void missing() {
  throw std::runtime_error("wsss_fast: this torch lacks a function of the stable ABI");
}

// Runs before the constructors that register the ops. wsss_fast/_native has checked that torch
// has all of the names.
__attribute__((constructor(101))) void connect() {
  void* libraries[] = {dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD),
                       dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD)};
  for (int i = 0; wsss_torch_names[i] != nullptr; ++i) {
    void* found = nullptr;
    for (void* library : libraries) {
      if (found == nullptr && library != nullptr) found = dlsym(library, wsss_torch_names[i]);
    }
    wsss_torch_table[i] = found != nullptr ? found : reinterpret_cast<void*>(&missing);
  }
}

}  // namespace
