#include "engine/ops/cuda/logits.h"

#include "engine/ops/logits.h"

namespace lanyard::ops::cuda {
namespace {

absl::Status Check(const LogitsArgs& args) {
  if (args.logits == nullptr || args.chunk_sums == nullptr || args.stats == nullptr ||
      args.n_rows == nullptr) {
    return InvalidArgument("logits: logits, chunk_sums, stats and n_rows must be device addresses");
  }
  if (args.max_rows == 0 || args.n == 0) {
    return InvalidArgument("logits: ", args.max_rows, " rows of ", args.n, "; neither may be 0");
  }
  return absl::OkStatus();
}

}  // namespace

uint32_t LogitChunks(uint32_t n) { return (n + kLogitChunk - 1) / kLogitChunk; }

absl::Status SummariseLogits(Launcher& launcher, const LogitsArgs& args) {
  RETURN_IF_ERROR(Check(args));
  if (args.chunk_max == nullptr || args.chunk_argmax == nullptr) {
    return InvalidArgument("logits: chunk_max and chunk_argmax must be device addresses");
  }
  LogitsArgs plain = args;
  plain.scales = nullptr;
  const Grid chunks{LogitChunks(args.n), args.max_rows};
  RETURN_IF_ERROR(LaunchWith(launcher, "lanyard_logits_max", chunks, {256}, plain));
  RETURN_IF_ERROR(LaunchWith(launcher, "lanyard_logits_best", {args.max_rows}, {32}, plain));
  RETURN_IF_ERROR(LaunchWith(launcher, "lanyard_logits_exp_sums", chunks, {256}, plain));
  return LaunchWith(launcher, "lanyard_logits_total", {args.max_rows}, {32}, plain);
}

absl::Status ChunkSums(Launcher& launcher, const LogitsArgs& args) {
  RETURN_IF_ERROR(Check(args));
  return LaunchWith(launcher, "lanyard_logits_exp_sums", {LogitChunks(args.n), args.max_rows},
                    {256}, args);
}

}  // namespace lanyard::ops::cuda
