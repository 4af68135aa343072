#pragma once

#include "../../cpu/dense_energy_loss.h"

#include "../dense_energy_loss.h"
#include "bilateral_filter.h"

namespace wsss {

// probabilities [B, K, H, W], image [B, C, h, w], roi [B, h, w], labels uint8 [B, h, w] or none
// -> loss [], d loss / d probabilities [B, K, H, W], or [0] unless it is needed
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
  if (labels_in) labels = contiguous_input(*labels_in);
  check_energy_arguments(probabilities, image, roi, labels, step, weight);
  const EnergyShape shape{probabilities.size(0), probabilities.size(1), probabilities.size(2),
                          probabilities.size(3), image.size(2),         image.size(3)};
  const EnergyParameters parameters{
      bilateral_parameters(op, image, sigmas, levels), static_cast<float>(step[0]),
      static_cast<float>(step[1]), weight, exact};
  Tensor loss = allocate(probabilities, {});
  Tensor gradient = needs_gradient ? allocate_like(probabilities) : allocate(probabilities, {0});
  const EnergyArrays arrays{
      static_cast<const float*>(const_data(probabilities)),
      static_cast<const float*>(const_data(image)), static_cast<const float*>(const_data(roi)),
      static_cast<const uint8_t*>(const_data(labels)), static_cast<float*>(mutable_data(gradient))};
  *loss.mutable_data_ptr<float>() = static_cast<float>(
      cpu::dense_energy_loss(shape, parameters, arrays, lattice_array(op, lattice), threads()));
  return {loss, gradient};
}
WSSS_IMPL(dense_energy_loss)

}  // namespace wsss
