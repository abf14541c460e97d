#include "stage/validate.h"

#include <algorithm>

#include "base/half.h"

namespace lanyard::stage {
namespace {

absl::Status CheckDuty(const StepFrame& frame, const StageSpec& spec) {
  if (frame.plan != spec.plan) {
    return FailedPrecondition("frame of plan ", frame.plan.value, ", this stage serves plan ",
                              spec.plan.value);
  }
  if (frame.epoch != spec.epoch) {
    return FailedPrecondition("frame of epoch ", frame.epoch.value, ", this stage serves epoch ",
                              spec.epoch.value);
  }
  if (frame.stage != spec.index) {
    return FailedPrecondition("frame for stage ", frame.stage, ", this is stage ", spec.index);
  }
  if (frame.numerics != spec.numerics) {
    return FailedPrecondition("frame of numerics ", frame.numerics.ToString(),
                              ", this stage serves ", spec.numerics.ToString());
  }
  return absl::OkStatus();
}

// No stage makes others, also not for a row that overflowed, and a decoder would leave their rows
// as they were.
absl::Status CheckExponents(const Hidden& hidden) {
  for (uint32_t r = 0; r < hidden.rows; ++r) {
    const int exponent = static_cast<int8_t>(hidden.data[r]);
    if (exponent < kHalfRowExponentMin || exponent > kHalfRowExponentMax) {
      return InvalidArgument("hidden row ", r, " has exponent ", exponent, "; ",
                             kHalfRowExponentMin, " to ", kHalfRowExponentMax, " are possible");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckHidden(const StepFrame& frame, const StageSpec& spec, const FrameModel& model,
                         uint64_t rows) {
  const Hidden& hidden = frame.hidden;
  if (spec.embeds) {
    if (hidden.rows != 0 || !hidden.data.empty()) {
      return InvalidArgument("hidden has ", hidden.rows,
                             " rows; the stage that embeds takes tokens only");
    }
    return absl::OkStatus();
  }
  if (hidden.type != spec.numerics.wire) {
    return InvalidArgument("hidden.type is ", static_cast<int>(hidden.type),
                           ", this plan's wire type is ", WireTypeName(spec.numerics.wire));
  }
  if (hidden.rows != rows) {
    return InvalidArgument("hidden.rows is ", hidden.rows, ", the runs have ", rows, " rows");
  }
  if (hidden.cols != model.d_model) {
    return InvalidArgument("hidden.cols is ", hidden.cols, ", the model's width is ",
                           model.d_model);
  }
  const uint64_t want = Hidden::BytesFor(hidden.type, hidden.rows, hidden.cols);
  if (hidden.data.size() != want) {
    return InvalidArgument("hidden has ", hidden.data.size(), " bytes, ", want, " are needed");
  }
  if (hidden.type == WireType::kF16) return CheckExponents(hidden);
  return absl::OkStatus();
}

// The run names a token that the sender has not seen yet; LastTokens looks it up.
absl::Status CheckTokenOf(const SeqRun& run, const StageSpec& spec, StepId step) {
  if (!spec.embeds || !spec.samples) {
    return InvalidArgument("token_of: step ", run.token_of.value,
                           "; only a stage that embeds and samples draws what it "
                           "reads");
  }
  if (run.n_rows != 1 || !run.tokens.empty() || run.pos == 0) {
    return InvalidArgument("token_of: ", run.n_rows, " rows at ", run.pos, " with ",
                           run.tokens.size(),
                           " ids; it stands for the one token of one row behind another");
  }
  if (run.token_of >= step) {
    return InvalidArgument("token_of: step ", run.token_of.value, " is not before step ",
                           step.value);
  }
  return absl::OkStatus();
}

absl::Status CheckTokens(const SeqRun& run, const StageSpec& spec, const FrameModel& model) {
  if (!spec.embeds) {
    if (!run.tokens.empty()) {
      return InvalidArgument("tokens: ", run.tokens.size(), " ids for a stage that does not embed");
    }
    return absl::OkStatus();
  }
  if (run.tokens.size() != run.n_rows) {
    return InvalidArgument("tokens: ", run.tokens.size(), " ids for ", run.n_rows, " rows");
  }
  for (const int32_t id : run.tokens) {
    if (id < 0 || static_cast<uint32_t>(id) >= model.n_vocab) {
      return InvalidArgument("token id ", id, " is not in [0, ", model.n_vocab, ")");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTable(const BlockTable& table, const BlockRange& needed, uint32_t pool_blocks) {
  const uint64_t end = uint64_t{table.first} + table.blocks.size();
  if (table.first > needed.first || end < needed.end) {
    return InvalidArgument("table holds logical blocks [", table.first, ", ", end,
                           "), the rows need [", needed.first, ", ", needed.end, ")");
  }
  for (const uint32_t block : table.blocks) {
    if (block >= pool_blocks) {
      return InvalidArgument("block ", block, " is not in [0, ", pool_blocks, ")");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckOutput(const OutputRequest& out, const SeqRun& run, const FrameModel& model) {
  if (out.row >= run.n_rows) return InvalidArgument("row ", out.row, " of a run of ", run.n_rows);
  RETURN_IF_ERROR(CheckSample(out.sample));
  if (out.top > std::min(kMaxTopLogits, model.n_vocab)) {
    return InvalidArgument("top ", out.top, " is over ", std::min(kMaxTopLogits, model.n_vocab));
  }
  if (out.want.size() > kMaxWantLogits) {
    return InvalidArgument("want: ", out.want.size(), " ids, at most ", kMaxWantLogits);
  }
  for (const int32_t id : out.want) {
    if (id < 0 || static_cast<uint32_t>(id) >= model.n_vocab) {
      return InvalidArgument("want: id ", id, " is not in [0, ", model.n_vocab, ")");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRun(const SeqRun& run, const StageSpec& spec, const FrameModel& model,
                      StepId step) {
  if (run.n_rows == 0) return InvalidArgument("n_rows is 0");
  if (uint64_t{run.pos} + run.n_rows > spec.max_context) {
    return InvalidArgument("positions up to ", uint64_t{run.pos} + run.n_rows,
                           " are over the context of ", spec.max_context, " tokens");
  }
  RETURN_IF_ERROR(run.token_of != StepId() ? CheckTokenOf(run, spec, step)
                                           : CheckTokens(run, spec, model));
  if (run.tables.size() != model.group_windows.size()) {
    return InvalidArgument("tables: ", run.tables.size(), ", the model has ",
                           model.group_windows.size(), " state groups");
  }
  for (size_t g = 0; g < run.tables.size(); ++g) {
    const uint32_t pool = g < spec.group_blocks.size() ? spec.group_blocks[g] : 0;
    const BlockRange needed = NeededBlocks(run.pos, run.n_rows, model.group_windows[g]);
    RETURN_IF_ERROR(Annotate(CheckTable(run.tables[g], needed, pool), absl::StrCat("group ", g)));
  }
  if (run.outputs.size() > uint64_t{run.n_rows} * kMaxOutputsPerRow) {
    return InvalidArgument("outputs: ", run.outputs.size(), " for ", run.n_rows, " rows, at most ",
                           kMaxOutputsPerRow, " a row");
  }
  for (size_t i = 0; i < run.outputs.size(); ++i) {
    RETURN_IF_ERROR(Annotate(CheckOutput(run.outputs[i], run, model), absl::StrCat("output ", i)));
  }
  return absl::OkStatus();
}

// Sequences with the same beginning read the same blocks, but a block that one run writes belongs
// to it alone: another would read what is not its own, or overwrite it.
absl::Status CheckBlocksOfGroup(const StepBatch& batch, size_t group, uint32_t pool_blocks) {
  std::vector<bool> written(pool_blocks);
  std::vector<uint32_t> user(pool_blocks);  // the last run, from 1, that has the block
  uint32_t r = 0;
  for (const SeqRun& run : batch.runs) {
    ++r;
    const BlockTable& table = run.tables[group];
    const uint32_t first_written = run.pos / kKvBlockTokens;
    for (size_t i = 0; i < table.blocks.size(); ++i) {
      const uint32_t block = table.blocks[i];
      const bool writes = table.first + i >= first_written;
      if (user[block] == r || written[block] || (writes && user[block] != 0)) {
        return InvalidArgument("group ", group, ": block ", block, " is used twice");
      }
      user[block] = r;
      if (writes) written[block] = true;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSample(const SampleSpec& sample) {
  // Written so that NaN fails.
  if (!(sample.temperature >= 0 && sample.temperature <= kMaxTemperature)) {
    return InvalidArgument("temperature is ", sample.temperature, "; it must be from 0 to ",
                           kMaxTemperature);
  }
  if (!(sample.top_p > 0 && sample.top_p <= 1)) {
    return InvalidArgument("top_p is ", sample.top_p, "; it must be above 0 and at most 1");
  }
  if (!(sample.min_p >= 0 && sample.min_p <= 1)) {
    return InvalidArgument("min_p is ", sample.min_p, "; it must be from 0 to 1");
  }
  return absl::OkStatus();
}

BlockRange NeededBlocks(uint32_t pos, uint32_t n_rows, uint32_t window) {
  const uint32_t first_seen = window != 0 && pos >= window ? pos - window + 1 : 0;
  return {first_seen / kKvBlockTokens, (pos + n_rows - 1) / kKvBlockTokens + 1};
}

absl::Status ValidateFrame(const StepFrame& frame, const StageSpec& spec, const FrameModel& model) {
  RETURN_IF_ERROR(CheckDuty(frame, spec));
  const StepBatch& batch = frame.batch;
  if (batch.n_frames == 0 || batch.frame >= batch.n_frames) {
    return InvalidArgument("frame ", batch.frame, " of ", batch.n_frames);
  }
  const uint32_t max_rows = std::min(spec.max_rows, kMaxFrameRows);
  uint64_t rows = 0;  // 64 bits, since the runs' counts cannot be trusted
  for (const SeqRun& run : batch.runs) rows += run.n_rows;
  if (rows == 0 || rows > max_rows) {
    return InvalidArgument("frame has ", rows, " rows, 1 to ", max_rows, " are possible");
  }
  RETURN_IF_ERROR(CheckHidden(frame, spec, model, rows));
  for (size_t i = 0; i < batch.runs.size(); ++i) {
    const absl::Status status = CheckRun(batch.runs[i], spec, model, batch.step);
    if (!status.ok()) {
      return Annotate(status, absl::StrCat("run ", i, " (sequence ", batch.runs[i].seq.value, ")"));
    }
  }
  for (size_t g = 0; g < model.group_windows.size(); ++g) {
    const uint32_t blocks = g < spec.group_blocks.size() ? spec.group_blocks[g] : 0;
    RETURN_IF_ERROR(CheckBlocksOfGroup(batch, g, blocks));
  }
  return absl::OkStatus();
}

}  // namespace lanyard::stage
