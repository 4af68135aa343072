#include "filter.cuh"

namespace wsss::cuda {

template void splat_and_blur<float>(Stream, const TermsOf<float>&, const float*, RowWidth, int64_t,
                                    bool);

}  // namespace wsss::cuda
