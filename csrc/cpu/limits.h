// Limits of the CPU kernels.
#pragma once

namespace wsss {

constexpr int kMaxDimensions = 16;  // of a permutohedral lattice

}  // namespace wsss
