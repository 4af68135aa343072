#include "dense_energy_loss.h"

#include "dense_energy_loss.cuh"

namespace wsss::cuda {

void dense_energy_loss(Context& context, const DenseEnergyCall& call) {
  dense_energy_loss(stream_of(context), call, arenas(context));
}

}  // namespace wsss::cuda
