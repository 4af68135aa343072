#include "dense_crf.h"

#include "dense_crf.cuh"

namespace wsss::cuda {

void dense_crf(Context& context, const CrfCall& call) {
  // Never destroyed: at exit, CUDA may end before this library.
  static SpatialCache& cache = *new SpatialCache;
  dense_crf(stream_of(context), call, arenas(context),
            {&cache, context.stream(), [&](int64_t bytes) { return context.keep(bytes); }});
}

}  // namespace wsss::cuda
