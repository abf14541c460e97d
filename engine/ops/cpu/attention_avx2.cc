#include "engine/ops/cpu/attention_inl.h"
#include "engine/ops/cpu/lanes_avx2.h"

namespace lanyard::ops {

const AttentionKernels kAttentionKernelsAvx2 = AttentionTable<LanesAvx2>();

}  // namespace lanyard::ops
