#include "engine/ops/cpu/lanes_avx512.h"
#include "engine/ops/cpu/row_kernels_inl.h"

namespace lanyard::ops {

const RowKernels kRowKernelsAvx512 = RowOps<LanesAvx512>::kTable;

}  // namespace lanyard::ops
