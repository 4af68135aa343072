#include "resized_activation.h"

#include "resized_activation_kernel.h"

namespace wsss::cpu {

template <class Real>
void resized_activation(const ResizeShape& shape, int64_t images, bool softmax, const Real* logits,
                        Real* result, const Host& host) {
  // Rows of the result per task, each of which resizes its first two source rows again.
  constexpr int64_t kRows = 32;
  const int64_t tasks = (shape.out_height + kRows - 1) / kRows;
  host.parallel_for(images * tasks, 1, [&](int64_t first, int64_t last) {
    ResizedRows<Real> rows(shape, softmax);
    for (int64_t task = first; task < last; ++task) {
      const int64_t b = task / tasks, y = task % tasks * kRows;
      rows.run(logits + b * shape.labels * shape.height * shape.width, y,
               std::min(y + kRows, shape.out_height),
               result + b * shape.labels * shape.out_height * shape.out_width);
    }
  });
}

template void resized_activation(const ResizeShape&, int64_t, bool, const float*, float*,
                                 const Host&);
template void resized_activation(const ResizeShape&, int64_t, bool, const double*, double*,
                                 const Host&);

}  // namespace wsss::cpu
