#pragma once

#include "../../cuda/dense_energy_loss.h"

#include "../dense_energy_loss.h"
#include "backend.h"
#include "bilateral_filter.h"

namespace wsss {

inline std::tuple<Tensor, Tensor> dense_energy_loss_on_cpu(
    const Tensor& probabilities, const Tensor& image, const Tensor& roi,
    const std::optional<Tensor>& labels, const std::vector<double>& sigmas,
    const std::vector<double>& levels, const std::vector<double>& step, double weight, bool exact,
    bool needs_gradient) {
  using torch::stable::detail::from;
  std::optional<Tensor> known;
  if (labels) known = on_cpu(*labels);
  std::array<StableIValue, 11> stack{
      from(on_cpu(probabilities)),
      from(on_cpu(image)),
      from(on_cpu(roi)),
      from(known),
      from(std::optional<Tensor>()),
      from(sigmas),
      from(levels),
      from(step),
      from(weight),
      from(exact),
      from(needs_gradient)};
  call_on_cpu(WSSS_CPU_OPS "dense_energy_loss", stack);
  return {moved(stack[0], probabilities), moved(stack[1], probabilities)};
}

// probabilities [B, K, H, W], image [B, C, h, w], roi and labels [B, h, w] -> loss [], gradient
// [B, K, H, W] or empty
inline std::tuple<Tensor, Tensor> dense_energy_loss(
    const Tensor& probabilities_in, const Tensor& image_in, const Tensor& roi_in,
    const std::optional<Tensor>& labels_in, const std::optional<Tensor>& lattice,
    const std::vector<double>& sigmas, const std::vector<double>& levels,
    const std::vector<double>& step, double weight, bool exact, bool needs_gradient) {
  const char* op = "dense_energy_loss";
  const Tensor probabilities = float_input(op, "probabilities", probabilities_in, 4);
  const Tensor image = float_input(op, "image", image_in, 4);
  const Tensor roi = float_input(op, "roi", roi_in, 3);
  std::optional<Tensor> labels;
  if (labels_in) {
    check_device(op, "labels", *labels_in, probabilities);
    labels = contiguous_input(*labels_in);
  }
  check_device(op, "image", image, probabilities);
  check_device(op, "roi", roi, probabilities);
  check_energy_arguments(probabilities, image, roi, labels, step, weight);
  check_image_lattice(op, image, sigmas, levels);
  if (probabilities.numel() == 0 || roi.numel() == 0) {
    return {allocate_zeros(probabilities, {}, ScalarType::Float),
            needs_gradient ? allocate_zeros_like(probabilities) : allocate(probabilities, {0})};
  }
  Tensor loss = allocate(probabilities, {});
  Tensor gradient = needs_gradient ? allocate_like(probabilities) : allocate(probabilities, {0});
  try {
    cuda::DenseEnergyCall call{};
    call.grid = pixel_grid(image, sigmas, levels);
    call.lattice = stored_lattice(op, lattice, image, call.grid);
    call.channels = probabilities.size(1);
    call.height = probabilities.size(2);
    call.width = probabilities.size(3);
    call.step_y = step[0];
    call.step_x = step[1];
    call.probabilities = probabilities.const_data_ptr<float>();
    call.roi = roi.const_data_ptr<float>();
    call.labels = static_cast<const uint8_t*>(const_data(labels));
    call.weight = weight;
    call.exact = exact;
    call.loss = loss.mutable_data_ptr<float>();
    call.gradient = static_cast<float*>(mutable_data(gradient));
    TorchContext context(op, probabilities);
    cuda::dense_energy_loss(context, call);
  } catch (const cuda::BeyondLimits&) {
    return dense_energy_loss_on_cpu(
        probabilities, image, roi, labels, sigmas, levels, step, weight, exact, needs_gradient);
  }
  return {loss, gradient};
}
WSSS_IMPL(dense_energy_loss)

}  // namespace wsss
