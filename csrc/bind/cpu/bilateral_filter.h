#pragma once

#include "../../cpu/bilateral_filter.h"

#include "../../cpu/limits.h"
#include "../bilateral_filter.h"
#include "backend.h"

namespace wsss {

// image [B, C, H, W]
inline BilateralParameters bilateral_parameters(const char* op, const Tensor& image,
                                                const std::vector<double>& sigmas,
                                                const std::vector<double>& levels) {
  check_image_lattice(op, image, sigmas, levels);
  check(image.size(1) + 2 <= kMaxDimensions, op, ": image is ", image, "; must have at most ",
        int64_t{kMaxDimensions - 2}, " channels");
  const auto narrow = [](double sigma) { return static_cast<float>(sigma); };
  BilateralParameters parameters{narrow(sigmas[0]), narrow(sigmas[1]), {}, levels[0], levels[1]};
  for (size_t i = 2; i < sigmas.size(); ++i) parameters.levels.push_back(narrow(sigmas[i]));
  return parameters;
}

// What bilateral_lattice returned, contiguous; empty without it.
inline LatticeArray lattice_array(const char* op, const std::optional<Tensor>& lattice) {
  if (!lattice || lattice->numel() == 0) return {};
  check(
      lattice->scalar_type() == ScalarType::Int && lattice->dim() == 1 && lattice->is_contiguous(),
      op, ": lattice must be the result of bilateral_lattice");
  return {lattice->const_data_ptr<int32_t>(), lattice->numel()};
}

// image [B, C, H, W] -> int32 [n]
inline Tensor bilateral_lattice(const Tensor& image_in, const std::vector<double>& sigmas,
                                const std::vector<double>& levels) {
  const Tensor image = float_input("bilateral_lattice", "image", image_in, 4);
  const auto parameters = bilateral_parameters("bilateral_lattice", image, sigmas, levels);
  if (image.numel() == 0) return allocate(image, {0}, ScalarType::Int);
  std::optional<Tensor> lattice;
  cpu::bilateral_lattice(image.const_data_ptr<float>(), image.size(0), image.size(2), image.size(3),
                         parameters, threads(), [&](int64_t count) {
                           lattice = allocate(image, {count}, ScalarType::Int);
                           return lattice->mutable_data_ptr<int32_t>();
                         });
  return *lattice;
}
WSSS_IMPL(bilateral_lattice)

// values [B, K, H, W], image [B, C, H, W] -> the shape of values
inline Tensor bilateral_filter(
    const Tensor& values_in, const Tensor& image_in, const std::optional<Tensor>& lattice,
    const std::vector<double>& sigmas, const std::vector<double>& levels, bool transpose) {
  const char* op = "bilateral_filter";
  const Tensor values = float_input(op, "values", values_in, 4);
  const Tensor image = float_input(op, "image", image_in, 4);
  const auto parameters = bilateral_parameters(op, image, sigmas, levels);
  check_bilateral_filter(values, image, sigmas, levels);
  Tensor out = allocate_like(values);
  cpu::bilateral_filter(values.const_data_ptr<float>(), image.const_data_ptr<float>(),
                        lattice_array(op, lattice), out.mutable_data_ptr<float>(),
                        {values.size(0), values.size(1), values.size(2), values.size(3)},
                        parameters, transpose, threads());
  return out;
}
WSSS_IMPL(bilateral_filter)

}  // namespace wsss
