#include "dense_crf.h"

#include "dense_crf.cuh"

namespace wsss::cuda {

void dense_crf(Context& context, const CrfCall& call) {
  dense_crf(stream_of(context), call, arenas(context));
}

}  // namespace wsss::cuda
