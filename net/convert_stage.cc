#include "net/convert_stage.h"

#include "net/limits.h"
#include "net/status_codes.h"

namespace lanyard::net {
namespace {

void TableToProto(const stage::BlockTable& in, v1::BlockTable* out) {
  out->set_first(in.first);
  out->mutable_blocks()->Add(in.blocks.begin(), in.blocks.end());
}

void OutputToProto(const stage::OutputRequest& in, v1::OutputRequest* out) {
  out->set_row(in.row);
  out->set_top(in.top);
  out->mutable_want()->Add(in.want.begin(), in.want.end());
  v1::SampleSpec* sample = out->mutable_sample();
  sample->set_temperature(in.sample.temperature);
  sample->set_top_k(in.sample.top_k);
  sample->set_top_p(in.sample.top_p);
  sample->set_min_p(in.sample.min_p);
  sample->set_seed(in.sample.seed);
}

void RunToProto(const stage::SeqRun& in, v1::SeqRun* out) {
  out->set_seq(in.seq.value);
  out->set_pos(in.pos);
  out->set_n_rows(in.n_rows);
  out->mutable_tokens()->Add(in.tokens.begin(), in.tokens.end());
  out->set_token_of(in.token_of.value);
  for (const stage::BlockTable& table : in.tables) TableToProto(table, out->add_tables());
  for (const stage::OutputRequest& output : in.outputs) OutputToProto(output, out->add_outputs());
}

absl::Status TooManyInFrame(std::string_view what, uint64_t n, uint64_t limit) {
  return InvalidArgument("frame: ", n, " ", AbslView(what), ", at most ", limit, " are allowed");
}

absl::StatusOr<stage::OutputRequest> OutputFromProto(const v1::OutputRequest& in) {
  if (in.top() > stage::kMaxTopLogits) return TooManyInFrame("top logits asked", in.top(), kMaxTop);
  if (in.want_size() > kMaxWant) return TooManyInFrame("wanted logits", in.want_size(), kMaxWant);
  stage::OutputRequest out;
  out.row = in.row();
  out.top = in.top();
  out.want.assign(in.want().begin(), in.want().end());
  const v1::SampleSpec& sample = in.sample();
  out.sample = {sample.temperature(), sample.top_k(), sample.top_p(), sample.min_p(),
                sample.seed()};
  RETURN_IF_ERROR(Annotate(stage::CheckSample(out.sample), "frame"));
  return out;
}

absl::StatusOr<stage::SeqRun> RunFromProto(const v1::SeqRun& in) {
  if (in.n_rows() == 0 || in.n_rows() > stage::kMaxFrameRows) {
    return InvalidArgument("frame: a run of ", in.n_rows(), " rows, 1 to ", stage::kMaxFrameRows,
                           " are allowed");
  }
  if (in.tokens_size() != 0 && static_cast<uint32_t>(in.tokens_size()) != in.n_rows()) {
    return InvalidArgument("frame: ", in.tokens_size(), " tokens for ", in.n_rows(), " rows");
  }
  if (in.tables_size() > kMaxGroups)
    return TooManyInFrame("block tables in a run", in.tables_size(), kMaxGroups);
  if (static_cast<uint32_t>(in.outputs_size()) > in.n_rows() * stage::kMaxOutputsPerRow) {
    return TooManyInFrame("outputs in a run", in.outputs_size(),
                          in.n_rows() * stage::kMaxOutputsPerRow);
  }
  stage::SeqRun out;
  out.seq = SeqId(in.seq());
  out.pos = in.pos();
  out.n_rows = in.n_rows();
  out.tokens.assign(in.tokens().begin(), in.tokens().end());
  out.token_of = StepId(in.token_of());
  out.tables.reserve(in.tables_size());
  for (const v1::BlockTable& table : in.tables()) {
    if (table.blocks_size() > kMaxBlocks)
      return TooManyInFrame("blocks in a table", table.blocks_size(), kMaxBlocks);
    out.tables.push_back({table.first(), {table.blocks().begin(), table.blocks().end()}});
  }
  out.outputs.reserve(in.outputs_size());
  for (const v1::OutputRequest& output : in.outputs()) {
    ASSIGN_OR_RETURN(stage::OutputRequest request, OutputFromProto(output));
    out.outputs.push_back(std::move(request));
  }
  return out;
}

absl::StatusOr<stage::WireType> WireTypeFromProto(int value) {
  if (value != v1::WIRE_F32 && value != v1::WIRE_F16) {
    return InvalidArgument("wire type ", value, " is unknown; 0 (f32) and 1 (f16) are known");
  }
  return static_cast<stage::WireType>(value);
}

absl::Status HiddenFromProto(const v1::StepFrame& in, stage::Hidden* out) {
  ASSIGN_OR_RETURN(out->type, WireTypeFromProto(in.hidden_type()));
  if (in.hidden_rows() > stage::kMaxFrameRows) {
    return TooManyInFrame("hidden rows", in.hidden_rows(), stage::kMaxFrameRows);
  }
  const uint64_t row_bytes = stage::Hidden::BytesFor(out->type, 1, 1);
  if (in.hidden_cols() > kMaxFrameBytes ||
      in.hidden_rows() * row_bytes * in.hidden_cols() > 2 * kMaxFrameBytes) {
    return InvalidArgument("frame: hidden states of ", in.hidden_rows(), " x ", in.hidden_cols(),
                           " exceed ", kMaxFrameBytes, " bytes");
  }
  const uint64_t want_bytes =
      in.hidden_rows() == 0
          ? 0
          : stage::Hidden::BytesFor(out->type, in.hidden_rows(), in.hidden_cols());
  if (in.hidden().size() != want_bytes || want_bytes > kMaxFrameBytes) {
    return InvalidArgument("frame: ", in.hidden().size(), " bytes of hidden states, ",
                           in.hidden_rows(), " x ", in.hidden_cols(), " need ", want_bytes,
                           " and at most ", kMaxFrameBytes, " are allowed");
  }
  out->rows = in.hidden_rows();
  out->cols = in.hidden_cols();
  out->data.assign(in.hidden().begin(), in.hidden().end());
  return absl::OkStatus();
}

absl::StatusOr<stage::TokenOut> TokenFromProto(const v1::TokenOut& in) {
  if (in.top_size() > kMaxTop) return TooManyInFrame("top logits", in.top_size(), kMaxTop);
  if (in.want_size() > kMaxWant) return TooManyInFrame("wanted logits", in.want_size(), kMaxWant);
  stage::TokenOut out;
  out.seq = SeqId(in.seq());
  out.pos = in.pos();
  out.token = in.token();
  out.logprob = in.logprob();
  out.lse = in.lse();
  out.top.reserve(in.top_size());
  for (const v1::TokenLogit& logit : in.top()) out.top.emplace_back(logit.id(), logit.logit());
  out.want.assign(in.want().begin(), in.want().end());
  if (in.code() != 0) out.status = FromWireCode(in.code(), in.message());
  return out;
}

void TokenToProto(const stage::TokenOut& in, v1::TokenOut* out) {
  out->set_seq(in.seq.value);
  out->set_pos(in.pos);
  out->set_token(in.token);
  out->set_logprob(in.logprob);
  out->set_lse(in.lse);
  for (const auto& [id, logit] : in.top) {
    v1::TokenLogit* entry = out->add_top();
    entry->set_id(id);
    entry->set_logit(logit);
  }
  out->mutable_want()->Add(in.want.begin(), in.want.end());
  if (in.status.ok()) return;
  out->set_code(ToWireCode(in.status));
  out->set_message(CleanText(StdView(in.status.message())));
}

}  // namespace

void ToProto(const stage::NumericsId& in, v1::NumericsId* out) {
  out->set_version(in.version);
  out->set_kv(static_cast<v1::KvType>(in.kv));
  out->set_wire(static_cast<v1::WireType>(in.wire));
  out->set_attention(static_cast<v1::AttentionForm>(in.attention));
}

absl::StatusOr<stage::NumericsId> FromProto(const v1::NumericsId& in) {
  stage::NumericsId out;
  out.version = in.version();
  if (in.kv() != v1::KV_F32 && in.kv() != v1::KV_F16 && in.kv() != v1::KV_Q8) {
    return InvalidArgument("KV type ", static_cast<int>(in.kv()), " is unknown; 0 to 2 are known");
  }
  out.kv = static_cast<stage::KvType>(in.kv());
  ASSIGN_OR_RETURN(out.wire, WireTypeFromProto(in.wire()));
  if (in.attention() != v1::ATTENTION_EXACT && in.attention() != v1::ATTENTION_FAST) {
    return InvalidArgument("attention form ", static_cast<int>(in.attention()),
                           " is unknown; 0 (exact) and 1 (fast) are known");
  }
  out.attention = static_cast<stage::AttentionForm>(in.attention());
  return out;
}

absl::Status ToProto(const stage::StepFrame& in, v1::StepFrame* out) {
  if (in.hidden.data.size() > kMaxFrameBytes) {
    return InvalidArgument("frame: ", in.hidden.data.size(), " bytes of hidden states, at most ",
                           kMaxFrameBytes, " go into one frame; send fewer rows");
  }
  out->set_plan(in.plan.value);
  out->set_epoch(in.epoch.value);
  out->set_stage(in.stage);
  ToProto(in.numerics, out->mutable_numerics());
  out->set_step(in.batch.step.value);
  out->set_frame(in.batch.frame);
  out->set_n_frames(in.batch.n_frames);
  for (const stage::SeqRun& run : in.batch.runs) RunToProto(run, out->add_runs());
  out->set_hidden_type(static_cast<v1::WireType>(in.hidden.type));
  out->set_hidden_rows(in.hidden.rows);
  out->set_hidden_cols(in.hidden.cols);
  if (!in.hidden.data.empty()) out->set_hidden(in.hidden.data.data(), in.hidden.data.size());
  return absl::OkStatus();
}

absl::StatusOr<stage::StepFrame> FromProto(const v1::StepFrame& in) {
  if (in.runs_size() > kMaxRuns) return TooManyInFrame("runs", in.runs_size(), kMaxRuns);
  if (in.n_frames() == 0 || in.frame() >= in.n_frames()) {
    return InvalidArgument("frame: number ", in.frame(), " of ", in.n_frames());
  }
  uint64_t rows = 0;
  for (const v1::SeqRun& run : in.runs()) rows += run.n_rows();
  if (rows == 0 || rows > stage::kMaxFrameRows) {
    return InvalidArgument("frame: ", rows, " rows, 1 to ", stage::kMaxFrameRows, " are allowed");
  }
  if (in.hidden_rows() != 0 && in.hidden_rows() != rows) {
    return InvalidArgument("frame: hidden states of ", in.hidden_rows(), " rows for ", rows,
                           " rows");
  }
  stage::StepFrame out;
  out.plan = PlanId(in.plan());
  out.epoch = Epoch(in.epoch());
  out.stage = in.stage();
  ASSIGN_OR_RETURN(out.numerics, FromProto(in.numerics()));
  out.batch.step = StepId(in.step());
  out.batch.frame = in.frame();
  out.batch.n_frames = in.n_frames();
  RETURN_IF_ERROR(HiddenFromProto(in, &out.hidden));
  out.batch.runs.reserve(in.runs_size());
  for (const v1::SeqRun& run : in.runs()) {
    ASSIGN_OR_RETURN(stage::SeqRun converted, RunFromProto(run));
    out.batch.runs.push_back(std::move(converted));
  }
  return out;
}

void ToProto(const stage::StepResult& in, v1::StepResult* out) {
  out->set_plan(in.plan.value);
  out->set_epoch(in.epoch.value);
  out->set_step(in.step.value);
  out->set_frame(in.frame);
  out->set_stage(in.stage);
  out->set_worker(in.worker);
  out->set_code(ToWireCode(in.status));
  out->set_message(CleanText(StdView(in.status.message())));
  for (const stage::TokenOut& token : in.tokens) TokenToProto(token, out->add_tokens());
}

absl::StatusOr<stage::StepResult> FromProto(const v1::StepResult& in, const std::string& worker) {
  if (in.tokens_size() > kMaxTokensOut) {
    return InvalidArgument("result: ", in.tokens_size(), " tokens, at most ", kMaxTokensOut,
                           " are allowed");
  }
  stage::StepResult out;
  out.plan = PlanId(in.plan());
  out.epoch = Epoch(in.epoch());
  out.step = StepId(in.step());
  out.frame = in.frame();
  out.stage = in.stage();
  out.worker = worker;
  out.status = in.code() == 0 ? absl::OkStatus() : FromWireCode(in.code(), in.message());
  out.tokens.reserve(in.tokens_size());
  for (const v1::TokenOut& token : in.tokens()) {
    ASSIGN_OR_RETURN(stage::TokenOut converted, TokenFromProto(token));
    out.tokens.push_back(std::move(converted));
  }
  return out;
}

}  // namespace lanyard::net
