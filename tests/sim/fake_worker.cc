#include "tests/sim/fake_worker.h"

#include <cstring>
#include <utility>

namespace lanyard::sim {

void FakeWorker::TakeBeside() {
  const std::unique_ptr<FakeWorker> beside = std::move(beside_);
  beside->stale_frames_obeyed_ += stale_frames_obeyed_;
  *this = std::move(*beside);
}

void FakeWorker::Release(PlanId plan) {
  if (beside_ != nullptr && beside_->assignment_->spec.plan == plan) {
    beside_.reset();
  } else if (assignment_ && assignment_->spec.plan == plan) {
    if (beside_ != nullptr) return TakeBeside();
    assignment_.reset();
  }
}

void FakeWorker::Assign(const net::Assignment& assignment) {
  if (assignment.mode == net::AssignMode::kFetch) return;
  if (assignment.mode == net::AssignMode::kBeside && assignment_) {
    beside_ = std::make_unique<FakeWorker>(name_, model_, bugs_, poison_ = Mix(poison_, 7));
    net::Assignment alone = assignment;
    alone.mode = net::AssignMode::kInstead;
    return beside_->Assign(alone);
  }
  beside_.reset();
  assignment_ = assignment;
  kv_.assign(model_->n_layers, {});
  const stage::StageSpec& spec = assignment.spec;
  for (uint32_t layer = spec.layers.begin; layer < spec.layers.end; ++layer) {
    const uint32_t blocks = spec.group_blocks[model_->group_of_layer[layer]];
    for (uint32_t i = 0; i < blocks * stage::kKvBlockTokens; ++i) {
      kv_[layer].push_back(poison_ = Mix(poison_, i));
    }
  }
  last_step_ = StepId(0);
  last_frame_ = 0;
  drawn_ = {};
}

stage::StepResult FakeWorker::Result(const stage::StepFrame& frame, absl::Status status) const {
  stage::StepResult result;
  result.plan = frame.plan;
  result.epoch = frame.epoch;
  result.step = frame.batch.step;
  result.frame = frame.batch.frame;
  result.stage = frame.stage;
  result.worker = name_;
  result.status = std::move(status);
  return result;
}

absl::Status FakeWorker::Check(const stage::StepFrame& frame) {
  if (!assignment_) return FailedPrecondition("no stage is assigned");
  const stage::StageSpec& spec = assignment_->spec;
  if (frame.epoch != spec.epoch || frame.plan != spec.plan || frame.stage != spec.index) {
    if (!bugs_.obey_stale_epoch || frame.stage != spec.index) {
      return FailedPrecondition("a frame of epoch ", frame.epoch.value, ", mine is ",
                                spec.epoch.value);
    }
    ++stale_frames_obeyed_;
  }
  if (frame.numerics != spec.numerics) return InvalidArgument("another numerics id");
  const bool in_order = frame.batch.step > last_step_ ||
                        (frame.batch.step == last_step_ && frame.batch.frame > last_frame_) ||
                        last_step_ == StepId(0);
  if (!in_order && !bugs_.obey_out_of_order) {
    return FailedPrecondition("a frame came behind a later one");
  }
  if (frame.batch.TotalRows() > spec.max_rows) return InvalidArgument("too many rows");
  last_step_ = frame.batch.step;
  last_frame_ = frame.batch.frame;
  return absl::OkStatus();
}

uint64_t* FakeWorker::Slot(uint32_t layer, const stage::SeqRun& run, uint32_t pos) {
  const uint32_t group = model_->group_of_layer[layer];
  if (group >= run.tables.size()) return nullptr;
  const stage::BlockTable& table = run.tables[group];
  const uint32_t logical = pos / stage::kKvBlockTokens;
  if (logical < table.first || logical - table.first >= table.blocks.size()) return nullptr;
  const uint64_t slot = uint64_t{table.blocks[logical - table.first]} * stage::kKvBlockTokens +
                        pos % stage::kKvBlockTokens;
  return slot < kv_[layer].size() ? &kv_[layer][slot] : nullptr;
}

absl::Status FakeWorker::RunRows(stage::StepFrame* frame, std::vector<uint64_t>* hidden,
                                 std::vector<stage::TokenOut>* tokens) {
  const stage::StageSpec& spec = assignment_->spec;
  size_t row = 0;
  for (const stage::SeqRun& run : frame->batch.runs) {
    for (uint32_t i = 0; i < run.n_rows; ++i, ++row) {
      const uint32_t pos = run.pos + i;
      if (pos >= spec.max_context) return InvalidArgument("position ", pos, " is past the context");
      uint64_t h = spec.embeds ? HashModel::Embed(run.tokens[i], pos) : (*hidden)[row];
      for (uint32_t layer = spec.layers.begin; layer < spec.layers.end; ++layer) {
        for (uint32_t q = model_->FirstVisible(layer, pos); q <= pos; ++q) {
          if (Slot(layer, run, q) == nullptr) {
            return InvalidArgument("no block for position ", q, " of a row at ", pos);
          }
        }
        *Slot(layer, run, pos) = HashModel::KeyValue(layer, pos, h);
        h = model_->Layer(layer, pos, h, [&](uint32_t q) { return *Slot(layer, run, q); });
      }
      (*hidden)[row] = h;
    }
    if (!spec.samples) continue;
    for (const stage::OutputRequest& output : run.outputs) {
      stage::TokenOut& out = tokens->emplace_back();
      out.seq = run.seq;
      out.pos = run.pos + output.row;
      const uint64_t h = (*hidden)[row - run.n_rows + output.row];
      if (h != HashModel::kNotFinite) {
        out.token = model_->Sample(h, output.sample, out.pos);
      } else {
        out.status = Internal("row ", output.row, " is not finite");
        if (bugs_.fail_whole_frame) return out.status;
      }
    }
  }
  return absl::OkStatus();
}

absl::Status FakeWorker::ReadDrawn(stage::StepBatch* batch) {
  for (const stage::SeqRun& run : batch->runs) {
    if (run.token_of == StepId()) {
      if (assignment_->spec.embeds && run.tokens.size() != run.n_rows)
        return InvalidArgument("tokens are missing");
      continue;
    }
    if (!assignment_->spec.embeds || !assignment_->spec.samples) {
      return InvalidArgument("token_of in stage ", assignment_->spec.index);
    }
  }
  RETURN_IF_ERROR(drawn_.Resolve(batch));
  for (stage::SeqRun& run : batch->runs) {
    if (run.token_of == StepId()) continue;
    const int32_t token = run.tokens[0];
    if (bugs_.stale_token) run.tokens[0] = read_last_;
    read_last_ = token;
  }
  return absl::OkStatus();
}

FakeWorker::Output FakeWorker::Run(stage::StepFrame frame) {
  if (beside_ != nullptr && beside_->assignment_->spec.epoch == frame.epoch) TakeBeside();
  Output output;
  absl::Status status = Check(frame);
  std::vector<uint64_t> hidden(frame.batch.TotalRows());
  std::vector<stage::TokenOut> tokens;
  if (status.ok() && !assignment_->spec.embeds) {
    if (frame.hidden.data.size() == hidden.size() * 8) {
      std::memcpy(hidden.data(), frame.hidden.data.data(), hidden.size() * 8);
    } else {
      status = InvalidArgument("hidden states of another size");
    }
  }
  if (status.ok()) status = ReadDrawn(&frame.batch);
  if (status.ok()) status = RunRows(&frame, &hidden, &tokens);
  if (status.ok()) {
    drawn_.Put(frame.batch.step, tokens);
  } else {
    drawn_.PutFailed(frame.batch, status);
  }
  if (!status.ok() || assignment_->spec.samples) {
    output.result = Result(frame, std::move(status));
    output.result->tokens = std::move(tokens);
    return output;
  }
  for (stage::SeqRun& run : frame.batch.runs) run.tokens.clear();
  frame.stage += 1;
  frame.hidden.rows = static_cast<uint32_t>(hidden.size());
  frame.hidden.cols = 2;
  frame.hidden.data.resize(hidden.size() * 8);
  std::memcpy(frame.hidden.data.data(), hidden.data(), hidden.size() * 8);
  output.forward = std::move(frame);
  return output;
}

}  // namespace lanyard::sim
