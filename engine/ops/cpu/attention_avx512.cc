#include "engine/ops/cpu/attention_inl.h"
#include "engine/ops/cpu/lanes_avx512.h"

namespace lanyard::ops {

const AttentionKernels kAttentionKernelsAvx512 = AttentionTable<LanesAvx512>();

}  // namespace lanyard::ops
