#include "tests/sim/hash_stage.h"

#include <cstring>

namespace lanyard::sim {

void HashStage::Poison(uint64_t poison) {
  kv_.assign(model_->n_layers, {});
  for (uint32_t layer = spec_.layers.begin; layer < spec_.layers.end; ++layer) {
    const uint32_t blocks = spec_.group_blocks[model_->group_of_layer[layer]];
    for (uint32_t i = 0; i < blocks * stage::kKvBlockTokens; ++i) {
      kv_[layer].push_back(poison = Mix(poison, i));
    }
  }
}

uint64_t* HashStage::Slot(uint32_t layer, const stage::SeqRun& run, uint32_t pos) {
  const uint32_t group = model_->group_of_layer[layer];
  if (group >= run.tables.size()) return nullptr;
  const stage::BlockTable& table = run.tables[group];
  const uint32_t logical = pos / stage::kKvBlockTokens;
  if (logical < table.first || logical - table.first >= table.blocks.size()) return nullptr;
  const uint64_t slot = uint64_t{table.blocks[logical - table.first]} * stage::kKvBlockTokens +
                        pos % stage::kKvBlockTokens;
  return slot < kv_[layer].size() ? &kv_[layer][slot] : nullptr;
}

absl::Status HashStage::RunRow(const stage::SeqRun& run, uint32_t pos, uint64_t* hidden) {
  for (uint32_t layer = spec_.layers.begin; layer < spec_.layers.end; ++layer) {
    for (uint32_t q = model_->FirstVisible(layer, pos); q <= pos; ++q) {
      if (Slot(layer, run, q) == nullptr) {
        return InvalidArgument("no block for position ", q, " of a row at ", pos);
      }
    }
    *Slot(layer, run, pos) = HashModel::KeyValue(layer, pos, *hidden);
    *hidden = model_->Layer(layer, pos, *hidden, [&](uint32_t q) { return *Slot(layer, run, q); });
  }
  return absl::OkStatus();
}

absl::StatusOr<engine::StageOutput> HashStage::Run(const stage::StepFrame& frame,
                                                   std::stop_token /*stop*/) {
  if (lost_) return Unavailable("the card is gone");
  std::vector<uint64_t> hidden(frame.batch.TotalRows());
  if (!spec_.embeds) std::memcpy(hidden.data(), frame.hidden.data.data(), hidden.size() * 8);
  engine::StageOutput out;
  size_t row = 0;
  for (const stage::SeqRun& run : frame.batch.runs) {
    for (uint32_t i = 0; i < run.n_rows; ++i, ++row) {
      if (spec_.embeds) hidden[row] = HashModel::Embed(run.tokens[i], run.pos + i);
      RETURN_IF_ERROR(RunRow(run, run.pos + i, &hidden[row]));
    }
    if (!spec_.samples) continue;
    for (const stage::OutputRequest& output : run.outputs) {
      stage::TokenOut& token = out.tokens.emplace_back();
      token.seq = run.seq;
      token.pos = run.pos + output.row;
      const uint64_t h = hidden[row - run.n_rows + output.row];
      if (h != HashModel::kNotFinite) {
        token.token = model_->Sample(h, output.sample, token.pos);
      } else {
        token.status = Internal("row ", output.row, " is not finite");
      }
    }
  }
  if (spec_.samples) return out;
  out.hidden.type = stage::WireType::kF32;
  out.hidden.rows = static_cast<uint32_t>(hidden.size());
  out.hidden.cols = kHashColumns;
  out.hidden.data.resize(hidden.size() * 8);
  std::memcpy(out.hidden.data.data(), hidden.data(), hidden.size() * 8);
  return out;
}

}  // namespace lanyard::sim
