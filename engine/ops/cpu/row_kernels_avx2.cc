#include "engine/ops/cpu/lanes_avx2.h"
#include "engine/ops/cpu/row_kernels_inl.h"

namespace lanyard::ops {

const RowKernels kRowKernelsAvx2 = RowOps<LanesAvx2>::kTable;

}  // namespace lanyard::ops
