// Sums over rows of logits on a device: the twins of engine/ops/logits.h, with the same bits, for
// many rows at once.
#pragma once

#include "base/status.h"
#include "engine/ops/cuda/launcher.h"
#include "engine/ops/cuda/logits_args.h"

namespace lanyard::ops::cuda {

uint32_t LogitChunks(uint32_t n);

// Fills chunk_max, chunk_sums (at scale 1) and stats of every row, in four launches.
absl::Status SummariseLogits(Launcher& launcher, const LogitsArgs& args);

// Fills chunk_sums with the sums at the rows' scales; the maxima are those of `stats`, which
// SummariseLogits has filled. For rows whose stats are not ok the sums mean nothing.
absl::Status ChunkSums(Launcher& launcher, const LogitsArgs& args);

}  // namespace lanyard::ops::cuda
