"""The planted bugs: what, in which file of engine/ops/cuda, old text -> new text, the module that holds it, tests that may see it."""
import collections

Bug = collections.namedtuple("Bug", "number what file module old new times tests level")
ALL = []


def bug(what, file, old, new, tests, module=None, times=1, level=75):
    ALL.append(Bug(len(ALL) + 1, what, file, module or file.split(".")[0], old, new, times, f"*{tests}*clang{level}*", level))


# --- Barriers ----------------------------------------------------------------------------------------------------------
bug("lost barrier before the softmax", "attention_decode.cu",
    "  Scores<kElement>(a, w, span, q, shared);\n  Barrier();", "  Scores<kElement>(a, w, span, q, shared);",
    "DecodeOfEveryTypeAndLength")
bug("lost barrier after the softmax", "attention_decode.cu",
    "WarpOfBlock(), shared);\n  Barrier();", "WarpOfBlock(), shared);", "DecodeOfEveryTypeAndLength")
bug("lost barrier between staged keys and their use", "attention_prefill.cu",
    "StageKeys<kHd, kElement>(a, page, d0, shared->stage);\n    Barrier();",
    "StageKeys<kHd, kElement>(a, page, d0, shared->stage);", "PrefillOfEveryType")
bug("stale shared memory: values staged over keys in use", "attention_prefill.cu",
    "    Barrier();\n    StageValues<kHd, kElement>", "    StageValues<kHd, kElement>", "PrefillOfEveryType")
bug("lost barrier in front of a row's norm", "rows.cu",
    "  Barrier();\n  if (WarpOfBlock() == 0) {", "  if (WarpOfBlock() == 0) {", "ResidualIsTheReference")
bug("lost barrier of a warp before a rotation", "rope.cu",
    "head[i] = from[i];\n  WarpBarrier();", "head[i] = from[i];", "RopeKernel")
bug("a barrier that not every warp reaches", "logits.cu",
    "terms[i] = Exp((row[begin + i] - max) * scale);\n  Barrier();\n  if (WarpOfBlock() != 0) return;",
    "terms[i] = Exp((row[begin + i] - max) * scale);\n  if (WarpOfBlock() != 0) return;\n  Barrier();", "LogitKernels")

# --- Shuffles and orders of sums -----------------------------------------------------------------------------------------
bug("wrong shuffle: 16 partials added from the near end", "math.cuh",
    "for (uint32_t step = 8; step >= 1; step /= 2) partial", "for (uint32_t step = 1; step <= 8; step *= 2) partial",
    "ResidualIsTheReference", module="rows")
bug("wrong shuffle: a step left out of the sum of 32", "math.cuh",
    "for (uint32_t step = 16; step >= 1; step /= 2) value", "for (uint32_t step = 16; step >= 2; step /= 2) value",
    "DecodeOfEveryTypeAndLength", module="attention_decode")
bug("shuffle that some lanes do not reach", "attention_decode.cu",
    "    const float most = MaxOfLanes(s > m ? s : m);",
    "    if (!sees) continue;\n    const float most = MaxOfLanes(s > m ? s : m);", "DecodeOfEveryTypeAndLength")
bug("wrong merge order: spans descending", "attention_decode.cu",
    "partial = PartialOf(a, BlockY(), BlockX(), s);", "partial = PartialOf(a, BlockY(), BlockX(), n_spans - s);",
    "DecodeOfEveryTypeAndLength")
bug("merge multiplies and adds in two roundings", "attention_decode.cu",
    "o = Fma(o, x, partial[kPartialHead + d] * y);", "o = o * x + partial[kPartialHead + d] * y;",
    "DecodeOfEveryTypeAndLength")
bug("tile's span merged although it was the first", "attention_prefill.cu",
    "if (span == lo / kSpanPositions) {", "if (span == t.lo / kSpanPositions) {", "PrefillWithAWindow")
bug("chunks' sums added in f32", "logits.cu",
    "stats.sum = stats.sum + static_cast<double>(a.chunk_sums[r * chunks + c]);",
    "stats.sum = static_cast<float>(stats.sum) + a.chunk_sums[r * chunks + c];", "LogitKernels")
bug("partials dealt by thread, not by element", "math.cuh",
    "for (uint32_t i = Lane() % 16; i < n; i += 16) {", "for (uint32_t i = Lane(); i < n; i += 32) {",
    "ResidualIsTheReference", module="rows")

# --- Bounds --------------------------------------------------------------------------------------------------------------
bug("wrong bound: a thread beyond the row", "activation.cu",
    "  const uint32_t i = BlockX() * 256 + ThreadX();\n  if (BlockY() >= *a.n_rows || i >= a.n) return;",
    "  const uint32_t i = BlockX() * 256 + ThreadX();\n  if (BlockY() >= *a.n_rows || i > a.n) return;", "GateMul")
bug("wrong bound: blocks without a row", "rows.cu",
    "  if (BlockX() >= *a.n_rows) return;\n  ResidualRow(a, RowOf(a), reinterpret_cast",
    "  if (BlockX() > *a.n_rows) return;\n  ResidualRow(a, RowOf(a), reinterpret_cast", "ResidualIsTheReference")
bug("a position too many is seen", "kv.cuh",
    "const uint32_t end = hi - start + 1;", "const uint32_t end = hi - start + 2;", "DecodeOfEveryTypeAndLength",
    module="attention_decode")
bug("window one position too long", "kv.cuh",
    "pos >= window ? pos - window + 1 : 0", "pos >= window ? pos - window : 0", "DecodeWithAWindow", module="attention_decode")
bug("a page's unseen positions enter the product", "attention_prefill.cu",
    "if (kMasked && (seen[i] >> j & 1u) == 0) continue;", "", "NotFiniteStaysInItsRow")
bug("last chunk of logits is read beyond the row", "logits.cu",
    "const uint32_t count = a.n - begin < kChunk ? a.n - begin : kChunk;", "const uint32_t count = kChunk;", "LogitKernels")
bug("staged keys of positions that were never written", "attention_prefill.cu",
    "if (j + k >= page.seen.begin && j + k < page.seen.end) {", "if (j + k >= page.seen.begin) {", "PrefillOfEveryType")

# --- Addresses and numbers --------------------------------------------------------------------------------------------------
bug("value's scale of the neighbour position", "attention_decode.cu",
    "scales + j, hd, p, o);\n        j += kStep;", "scales + j + 1, hd, p, o);\n        j += kStep;",
    "DecodeOfEveryTypeAndLength")
bug("rotation takes the partner's new value", "rope.cu",
    "head[second] = Fma(y, cos[second], x * sin[second]);", "head[second] = Fma(y, cos[second], head[first] * sin[second]);",
    "RopeKernel")
bug("8-bit keys truncated instead of rounded", "rope.cu",
    "product == product ? product + kExpMagic : kExpMagic;",
    "product == product ? static_cast<float>(static_cast<int32_t>(product)) + kExpMagic : kExpMagic;", "RopeKernel")
bug("wire halves at an odd address stored whole", "rows.cu",
    "  const bool aligned = rows % 2 == 0;\n  for (uint32_t i = ThreadX(); i < a.n; i += kThreads) {\n    const uint16_t half = FloatToHalf",
    "  const bool aligned = true;\n  for (uint32_t i = ThreadX(); i < a.n; i += kThreads) {\n    const uint16_t half = FloatToHalf",
    "HalfRowsThereAndBack")
bug("exponential's last step fused otherwise", "math.cuh",
    "p = Fma(p, r * r, r);\n  p = p + 1.0f;", "p = Fma(p, r * r, r + 1.0f);", "GateMul", module="activation")

# --- Products ---------------------------------------------------------------------------------------------------------------
bug("lost barrier before the totals of a matrix x vector", "matmul_vector.cu",
    "kTileOutputs + row] = acc[c];\n  Barrier();", "kTileOutputs + row] = acc[c];", "FewRows")
bug("partial sums added in descending order", "matmul_vector.cu",
    "Add(total, partials[i * kPartialStride", "Add(total, partials[(kDealtPartials - 1 - i) * kPartialStride", "FewRows")
bug("asynchronous copies are not waited for", "matmul_tile.cu",
    "#if LANYARD_PTX_LEVEL >= 80\n  CopyAsyncWaitAll();", "#if LANYARD_PTX_LEVEL >= 80\n", "ManyRows", level=80)
bug("scale of the other output row", "matmul_mma.cuh",
    "F::ToFloat(sums[e]), w[e / 2],", "F::ToFloat(sums[e]), w[e % 2],", "ManyRows", module="matmul_tile")
bug("largest magnitude of half a block", "matmul_rows.cu",
    "mask < kLanesOfBlock; mask *= 2) {\n    amax_bits", "mask < 4; mask *= 2) {\n    amax_bits", "QuantisedRows")
bug("last elements of a row read beyond it", "matmul_rows.cu",
    "place.real && at + i < a.k ? row[at + i]", "at + i < a.k ? row[at + i]", "QuantisedRows")

# --- The fast form of attention -------------------------------------------------------------------------------------------------
bug("fast form: fragments of keys not transposed", "attention_fast.cu",
    "LoadMatricesTransposed(shared->keys", "LoadMatrices(shared->keys", "FastForm", level=80)
bug("fast form: values that are not finite stay in the product", "attention_fast.cu",
    "      v = {0, 0};\n", "", "FastForm", level=80)
bug("fast form: scores and softmax without a barrier", "attention_fast.cu",
    "    Scores<kHd>(shared);\n    Barrier();", "    Scores<kHd>(shared);", "FastForm", level=80)
