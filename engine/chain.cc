#include "engine/chain.h"

#include <algorithm>

namespace lanyard::engine {
namespace {

uint32_t BlocksFor(uint32_t tokens) {
  return (tokens + stage::kKvBlockTokens - 1) / stage::kKvBlockTokens;
}

// The most blocks that one sequence holds.
uint32_t BlocksOfSequence(uint32_t window, const ChainOptions& options) {
  const uint32_t all = BlocksFor(options.max_context);
  if (window == 0) return all;
  return std::min(all, BlocksFor(window + options.max_rows) + 1);
}

}  // namespace

absl::StatusOr<std::vector<stage::StageSpec>> CutEvenly(const model::ModelShape& shape,
                                                        const ChainOptions& options) {
  const uint32_t n = options.stages;
  if (n == 0 || n > shape.n_layers + 2) {
    return InvalidArgument("stages ", n, " is not in [1, ", shape.n_layers + 2, "] for a model of ",
                           shape.n_layers, " layers");
  }
  // Stages without layers: a head alone first, then an embedding alone.
  const uint32_t head_alone = n > shape.n_layers ? 1 : 0;
  const uint32_t embed_alone = n > shape.n_layers + 1 ? 1 : 0;
  const uint32_t with_layers = n - head_alone - embed_alone;
  std::vector<stage::StageSpec> specs(n);
  for (uint32_t i = 0; i < n; ++i) {
    stage::StageSpec& s = specs[i];
    s.plan = PlanId(1);
    s.epoch = Epoch(1);
    s.index = i;
    s.n_stages = n;
    s.numerics = options.numerics;
    const uint32_t part = std::min(i < embed_alone ? 0 : i - embed_alone, with_layers);
    const uint32_t next = i < embed_alone ? 0 : std::min(part + 1, with_layers);
    s.layers = {shape.n_layers * part / with_layers, shape.n_layers * next / with_layers};
    s.embeds = i == 0;
    s.samples = i + 1 == n;
    for (const model::StateGroup& group : shape.groups) {
      s.group_blocks.push_back(BlocksOfSequence(group.window, options) * options.sequences);
    }
    s.max_context = options.max_context;
    s.max_rows = options.max_rows;
  }
  return specs;
}

absl::StatusOr<std::unique_ptr<Chain>> Chain::Create(const model::ModelShape& shape,
                                                     const model::TensorSource& source,
                                                     const ChainOptions& options) {
  auto chain = std::unique_ptr<Chain>(new Chain());
  chain->model_ = FrameModelOf(shape);
  chain->options_ = options;
  ASSIGN_OR_RETURN(chain->specs_, CutEvenly(shape, options));
  for (const stage::StageSpec& spec : chain->specs_) {
    ASSIGN_OR_RETURN(auto stage, LocalStage::Create(shape, spec, source, options.stage));
    chain->stages_.push_back(std::move(stage));
  }
  for (const uint32_t blocks : chain->specs_[0].group_blocks) {
    // Odd blocks lie on top of even ones: neighbours in a sequence are then not neighbours in
    // memory, as in a pool that is in use.
    std::vector<uint32_t> free;
    for (uint32_t b = 0; b < blocks; b += 2) free.push_back(b);
    for (uint32_t b = 1; b < blocks; b += 2) free.push_back(b);
    chain->free_.push_back(std::move(free));
  }
  return chain;
}

absl::Status Chain::Reserve(Sequence& sequence, uint32_t n_rows) {
  sequence.tables.resize(free_.size());
  for (size_t g = 0; g < free_.size(); ++g) {
    stage::BlockTable& table = sequence.tables[g];
    const stage::BlockRange needed =
        stage::NeededBlocks(sequence.pos, n_rows, model_.group_windows[g]);
    const uint32_t gone =
        std::min<uint32_t>(needed.first - table.first, static_cast<uint32_t>(table.blocks.size()));
    free_[g].insert(free_[g].end(), table.blocks.begin(), table.blocks.begin() + gone);
    table.blocks.erase(table.blocks.begin(), table.blocks.begin() + gone);
    table.first = needed.first;
    while (table.first + table.blocks.size() < needed.end) {
      if (free_[g].empty()) {
        return ResourceExhausted("no KV block is left in group ", g, " at position ", sequence.pos);
      }
      table.blocks.push_back(free_[g].back());
      free_[g].pop_back();
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<stage::TokenOut>> Chain::Step(std::span<const Feed> feeds) {
  stage::StepFrame frame;
  frame.plan = specs_[0].plan;
  frame.epoch = specs_[0].epoch;
  frame.numerics = options_.numerics;
  frame.batch.step = StepId(next_step_++);
  for (const Feed& feed : feeds) {
    Sequence& sequence = sequences_[feed.seq];
    stage::SeqRun run;
    run.seq = feed.seq;
    run.pos = sequence.pos;
    run.n_rows = static_cast<uint32_t>(feed.tokens.size());
    run.tokens = feed.tokens;
    run.outputs = feed.outputs;
    RETURN_IF_ERROR(Reserve(sequence, run.n_rows));
    run.tables = sequence.tables;
    sequence.pos += run.n_rows;
    frame.batch.runs.push_back(std::move(run));
  }
  for (size_t i = 0; i < stages_.size(); ++i) {
    frame.stage = static_cast<uint32_t>(i);
    if (options_.wire) {
      ASSIGN_OR_RETURN(frame, options_.wire(std::move(frame)));
    }
    RETURN_IF_ERROR(stage::ValidateFrame(frame, specs_[i], model_));
    ASSIGN_OR_RETURN(StageOutput out, stages_[i]->Run(frame, {}));
    if (specs_[i].samples) return std::move(out.tokens);
    frame.hidden = std::move(out.hidden);
    for (stage::SeqRun& run : frame.batch.runs) run.tokens.clear();
  }
  return Internal("no stage samples");
}

void Chain::Release(SeqId seq) {
  const auto it = sequences_.find(seq);
  if (it == sequences_.end()) return;
  for (size_t g = 0; g < it->second.tables.size(); ++g) {
    const auto& blocks = it->second.tables[g].blocks;
    free_[g].insert(free_[g].end(), blocks.begin(), blocks.end());
  }
  sequences_.erase(it);
}

}  // namespace lanyard::engine
