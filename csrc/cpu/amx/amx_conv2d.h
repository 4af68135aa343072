// The op amx_conv2d.
#pragma once

#include <cstdint>

#include "../host.h"

namespace wsss {

constexpr int64_t kConvDepth = 32;    // channels in a plane of maps
constexpr int64_t kConvFilters = 32;  // filters in a block

// A convolution with an odd kernel and padding dilation * (kernel / 2).
struct ConvShape {
  int64_t batch, height, width, channels, filters, kernel, stride, dilation;

  int64_t taps() const { return kernel * kernel; }
  int64_t padding() const { return dilation * (kernel / 2); }
  int64_t out_height() const { return (height - 1) / stride + 1; }
  int64_t out_width() const { return (width - 1) / stride + 1; }
  int64_t planes() const { return (channels + kConvDepth - 1) / kConvDepth; }
  int64_t blocks() const { return (filters + kConvFilters - 1) / kConvFilters; }
};

// The maps, and what is applied to them before the products; null: nothing.
struct MapArrays {
  const float* maps;           // [B, H, W, C]
  const float *scale, *shift;  // [C]: relu(maps * scale + shift) is convolved
  const int64_t* inside;       // [B, 2]: rows and columns from these on are taken as zero
};

// The filters, and what is applied to the result; null: nothing.
struct ConvArrays {
  const uint16_t* filters;
  const float* bias;      // [K]
  const float* residual;  // [B, H', W', K]
  bool relu;
  float* out;  // [B, H', W', K]
};

namespace cpu {

// `parts`: 2 or 3 bfloat16 parts per filter value.
void amx_conv2d(const ConvShape& shape, int64_t parts, const MapArrays& maps,
                const ConvArrays& arrays, const Host& host);

}  // namespace cpu
}  // namespace wsss
