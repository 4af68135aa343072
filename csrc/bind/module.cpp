// The Python module `_C`: information about loaded libraries of ops
// (library_info.h). No op depends on it.
#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// The tab-separated fields of each line that the function `name` of a loaded library returns.
std::vector<std::vector<std::string>> table(const std::string& library, const char* name) {
  void* handle = dlopen(library.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) throw std::invalid_argument(library + " is not loaded");
  const auto text = reinterpret_cast<const char* (*)()>(dlsym(handle, name));
  dlclose(handle);  // only drops the reference; the library stays loaded
  if (text == nullptr) throw std::invalid_argument(library + " has no " + name);
  std::vector<std::vector<std::string>> lines;
  std::istringstream stream(text());
  for (std::string line; std::getline(stream, line);) {
    std::vector<std::string> fields(1);
    for (char c : line) {
      if (c == '\t') {
        fields.emplace_back();
      } else {
        fields.back() += c;
      }
    }
    lines.push_back(fields);
  }
  return lines;
}

std::map<std::string, std::string> build_info(const std::string& library) {
  std::map<std::string, std::string> info;
  for (const auto& line : table(library, "wsss_fast_build_info")) info[line.at(0)] = line.at(1);
  return info;
}

std::vector<std::vector<std::string>> signatures(const std::string& library) {
  return table(library, "wsss_fast_signatures");
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("build_info", &build_info, pybind11::arg("library"),
        "What a loaded library of ops was built from: part, source_hash, compiler, flags, simd, "
        "cuda, cuda_archs.");
  m.def("signatures", &signatures, pybind11::arg("library"),
        "(op, device, argument types, result type) of every kernel of a loaded library, in schema "
        "words.");
}
