#include "resized_activation.h"

#include <algorithm>

#include "resized_activation.cuh"

namespace wsss::cuda {

void resized_activation(Context& context, ElementType type, const ResizeShape& shape,
                        int64_t images, bool softmax, const void* logits, void* result) {
  with_element_type(type, [&]<class T>(T) {
    launch(stream_of(context), blocks_for(images * shape.out_height * shape.out_width), kThreads,
           resize_and_activate<T>, shape, images, softmax, static_cast<const T*>(logits),
           static_cast<T*>(result));
  });
}

void resized_activation_backward(Context& context, ElementType type, const ResizeShape& shape,
                                 int64_t images, bool softmax, const void* grad_,
                                 const void* result_, void* grad_logits_) {
  const Stream stream = stream_of(context);
  const int64_t pixels = shape.out_height * shape.out_width, cells = shape.height * shape.width;
  const int64_t logits = images * shape.labels * cells;
  with_element_type(type, [&]<class T>(T) {
    const T *grad = static_cast<const T*>(grad_), *result = static_cast<const T*>(result_);
    T* grad_logits = static_cast<T*>(grad_logits_);
    Wide<T>* inner = nullptr;
    if (softmax) {
      inner = context.allocate<Wide<T>>(images * pixels);
      launch(stream, blocks_for(images * pixels), kThreads, sum_products<T>, images, shape.labels,
             pixels, grad, result, inner);
    }
    // Up to 4 times the size a cell is read by about a hundred pixels at most, few enough for
    // one thread; beyond, by a block.
    if (pixels <= 16 * cells) {
      launch(stream, blocks_for(logits), kThreads, gather_cells<T>, shape, logits, grad, result,
             inner, grad_logits);
    } else {
      launch_with_barriers(
          stream, static_cast<unsigned>(std::min<int64_t>(logits, INT32_MAX)), kSumThreads,
          gather_cells_by_block<T>, shape, logits, grad, result, inner, grad_logits);
    }
  });
}

}  // namespace wsss::cuda
