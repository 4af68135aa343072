#pragma once

#include "../../cuda/bilateral_filter.h"

#include "../bilateral_filter.h"
#include "backend.h"

namespace wsss {

// image [B, C, h, w]; sigmas along x, along y and of each channel; levels [lowest, highest].
// Channels beyond the kernels' limits are left out: they are refused by their number.
inline cuda::PixelGrid pixel_grid(const Tensor& image, const std::vector<double>& sigmas,
                                  const std::vector<double>& levels) {
  cuda::PixelGrid grid{};
  grid.batch = image.size(0);
  grid.height = image.size(2);
  grid.width = image.size(3);
  grid.channels = static_cast<int>(image.size(1));
  grid.image = static_cast<const float*>(const_data(image));
  grid.sx = sigmas[0];
  grid.sy = sigmas[1];
  std::copy_n(sigmas.begin() + 2, std::min(grid.channels, cuda::kMaxDimensions), grid.levels);
  grid.lowest = levels[0];
  grid.highest = levels[1];
  return grid;
}

// The memory of a result of bilateral_lattice for this grid; null if there is none.
inline void* stored_lattice(const char* op, const std::optional<Tensor>& lattice,
                            const Tensor& image, const cuda::PixelGrid& grid) {
  if (!lattice || lattice->numel() == 0) return nullptr;
  check_device(op, "lattice", *lattice, image);
  void* memory = lattice->mutable_data_ptr();
  check(lattice->scalar_type() == ScalarType::Int && lattice->is_contiguous() &&
            lattice->numel() * 4 == cuda::bilateral_lattice_bytes(grid) &&
            reinterpret_cast<uintptr_t>(memory) % 16 == 0,
        op, ": lattice is not a result of bilateral_lattice for this image, sigmas and levels");
  return memory;
}

// image [B, C, h, w] -> int32 [n], empty where the kernels cannot represent the lattices
inline Tensor bilateral_lattice(const Tensor& image_in, const std::vector<double>& sigmas,
                                const std::vector<double>& levels) {
  const char* op = "bilateral_lattice";
  const Tensor image = float_input(op, "image", image_in, 4);
  check_image_lattice(op, image, sigmas, levels);
  Tensor lattice = allocate(image, {0}, ScalarType::Int);
  if (image.numel() == 0) return lattice;
  const cuda::PixelGrid grid = pixel_grid(image, sigmas, levels);
  try {
    lattice = allocate(image, {cuda::bilateral_lattice_bytes(grid) / 4}, ScalarType::Int);
  } catch (const cuda::BeyondLimits&) {
    return lattice;
  }
  TorchContext context(op, image);
  cuda::bilateral_lattice(context, grid, lattice.mutable_data_ptr());
  return lattice;
}
WSSS_IMPL(bilateral_lattice)

inline Tensor bilateral_filter_on_cpu(const Tensor& values, const Tensor& image,
                                      const std::vector<double>& sigmas,
                                      const std::vector<double>& levels, bool transpose) {
  using torch::stable::detail::from;
  std::array<StableIValue, 6> stack{
      from(on_cpu(values)), from(on_cpu(image)), from(std::optional<Tensor>()),
      from(sigmas),         from(levels),        from(transpose)};
  call_on_cpu(WSSS_CPU_OPS "bilateral_filter", stack);
  return moved(stack[0], values);
}

// values [B, K, h, w], image [B, C, h, w] -> the shape of values
inline Tensor bilateral_filter(
    const Tensor& values_in, const Tensor& image_in, const std::optional<Tensor>& lattice,
    const std::vector<double>& sigmas, const std::vector<double>& levels, bool transpose) {
  const char* op = "bilateral_filter";
  const Tensor values = float_input(op, "values", values_in, 4);
  const Tensor image = float_input(op, "image", image_in, 4);
  check_device(op, "image", image, values);
  check_bilateral_filter(values, image, sigmas, levels);
  Tensor out = allocate_like(values);
  if (out.numel() == 0) return out;
  try {
    cuda::BilateralFilterCall call{};
    call.grid = pixel_grid(image, sigmas, levels);
    call.lattice = stored_lattice(op, lattice, image, call.grid);
    call.channels = values.size(1);
    call.values = values.const_data_ptr<float>();
    call.out = out.mutable_data_ptr<float>();
    call.transpose = transpose;
    TorchContext context(op, values);
    cuda::bilateral_filter(context, call);
  } catch (const cuda::BeyondLimits&) {
    return bilateral_filter_on_cpu(values, image, sigmas, levels, transpose);
  }
  return out;
}
WSSS_IMPL(bilateral_filter)

}  // namespace wsss
