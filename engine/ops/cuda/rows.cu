// Row operations: the kernels.
#include "engine/ops/cuda/common.cuh"
