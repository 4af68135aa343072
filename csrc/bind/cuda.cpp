// The library of CUDA kernels: each header checks the arguments of an op, allocates its results,
// calls its kernels in csrc/cuda and registers it with torch. The schemas are in wsss_fast/ops.
//
// With WSSS_EMULATE_CUDA the same code serves CPU tensors, and the kernels run in the
// emulator (csrc/tests/cuda_on_cpu.h).
#ifdef WSSS_EMULATE_CUDA
#define WSSS_DEVICE CPU
// This library takes the place of the CPU kernels; inputs beyond the limits of the CUDA kernels go
// to the references, which tests/helpers/emulated_cuda.py registers under this name.
#define WSSS_CPU_OPS "wsss_fast_cpu::"
#else
#define WSSS_DEVICE CUDA
#define WSSS_CPU_OPS "wsss_fast::"
#endif
#include "stable_abi.h"

#include "cuda/aamr_loss.h"
#include "cuda/bilateral_filter.h"
#include "cuda/dense_crf.h"
#include "cuda/dense_energy_loss.h"
#include "cuda/image_views.h"
#include "cuda/label_conditioned.h"
#include "cuda/merge_maps.h"
#include "cuda/pixel_adaptive_refine.h"
#include "cuda/pixel_loss.h"
#include "cuda/point_lattice.h"
#include "cuda/random_walk.h"
#include "cuda/resized_activation.h"
#include "cuda/saliency_loss.h"
#include "library_info.h"

#ifdef WSSS_EMULATE_CUDA
// The n-th allocation from now on fails, 0 being the next; -1: none does.
WSSS_EXPORT void wsss_fast_fail_allocation(int64_t n) { wsss::allocations_until_failure() = n; }
#endif
