// The library of CPU kernels: each header checks the arguments of an op, allocates its results,
// calls its kernel in csrc/cpu and registers it with torch. The schemas are in wsss_fast/ops.
#define WSSS_DEVICE CPU
#include "stable_abi.h"

#include "cpu/aamr_loss.h"
#include "cpu/amx_conv2d.h"
#include "cpu/bilateral_filter.h"
#include "cpu/dense_crf.h"
#include "cpu/dense_energy_loss.h"
#include "cpu/image_views.h"
#include "cpu/label_conditioned.h"
#include "cpu/merge_maps.h"
#include "cpu/pixel_adaptive_refine.h"
#include "cpu/pixel_loss.h"
#include "cpu/point_lattice.h"
#include "cpu/random_walk.h"
#include "cpu/resize_window.h"
#include "cpu/resized_activation.h"
#include "cpu/saliency_loss.h"
#include "library_info.h"
