#include "sharding/problem.h"

#include <algorithm>
#include <cmath>

#include "stage/speed.h"

namespace lanyard::sharding {
namespace {

constexpr int kLayersBit = 1;
constexpr int kEmbedsBit = 2;
constexpr int kSamplesBit = 4;

std::string LayerName(uint32_t layer) { return absl::StrCat("layer.", layer); }

uint64_t HeldBytes(const model::Manifest& manifest, const std::string& part) {
  const model::Part* p = manifest.Find(part);
  return p == nullptr ? 0 : model::HeldBytes(p->tensors);
}

uint64_t FileBytes(const model::Manifest& manifest, const std::string& part) {
  const model::Part* p = manifest.Find(part);
  return p == nullptr ? 0 : p->bytes;
}

std::string HeadPart(const model::ModelShape& shape) {
  return shape.tied_output ? "embed" : "output";
}

// One that is lost all the time is used all the same where nothing fits without it.
constexpr double kMostLosses = 4;

}  // namespace

Picoseconds StepTime(Picoseconds sum, Picoseconds slowest, int64_t rows_beside) {
  return sum + rows_beside * slowest / kRowsAsOneRead;
}

double Charged(double time, int64_t charge) {
  const double further = static_cast<double>(charge - kOneMachine) / kOneMachine;
  return time * std::pow(1 - kFurtherMachineSaves, -further);
}

Problem::Problem(const PlanRequest& request, uint32_t context, uint32_t users, uint32_t frames)
    : request_(&request), n_layers_(request.manifest->shape.n_layers) {
  group_blocks_ = GroupBlocks(request.manifest->shape, context, users, request.max_rows, frames);
  AddPlaces();
  AddUnits();
  for (const MachineProfile& machine : request.machines) {
    charge_.push_back(kOneMachine +
                      std::llround(kOneMachine * std::min(machine.losses, kMostLosses)));
  }
  const double hidden_bytes = static_cast<double>(
      stage::Hidden::BytesFor(request.numerics.wire, 1, request.manifest->shape.d_model));
  const auto time = [&](const LinkProfile& link) {
    const double us = link.rtt_us / 2 + hidden_bytes * 8 / link.bandwidth_bps * 1e6;
    return static_cast<Picoseconds>(std::llround(us * 1e6));
  };
  hop_.assign(machines(), std::vector<Picoseconds>(machines(), time(LinkProfile{})));
  for (size_t i = 0; i < machines(); ++i) hop_[i][i] = 0;
  for (const LinkProfile& link : request.links) {
    const auto index = [&](const std::string& name) {
      size_t i = 0;
      while (i < machines() && request.machines[i].name != name) ++i;
      return i;
    };
    const size_t a = index(link.a), b = index(link.b);
    hop_[a][b] = hop_[b][a] = time(link);
  }
}

void Problem::AddPlaces() {
  const bool exact = request_->numerics.attention == stage::AttentionForm::kExact;
  const model::ModelShape& shape = request_->manifest->shape;
  const bool fast = stage::CheckFastAttention({shape.n_heads, shape.n_kv_heads, shape.head_dim},
                                              request_->numerics.kv)
                        .ok();
  places_of_.resize(machines());
  for (size_t m = 0; m < machines(); ++m) {
    const MachineProfile& machine = request_->machines[m];
    for (const DeviceProfile& d : machine.devices) {
      places_of_[m].push_back(places_.size());
      places_.push_back({m, d.name, d.memory_bytes, 0, d.speed / machine.slowness, machine.threads,
                         exact || (fast && d.fast_attention)});
    }
    places_of_[m].push_back(places_.size());
    places_.push_back({m, "cpu", machine.memory_bytes, machine.base_bytes,
                       machine.speed / machine.slowness, machine.threads, exact});
  }
}

void Problem::AddUnits() {
  const model::Manifest& manifest = *request_->manifest;
  const model::ModelShape& shape = manifest.shape;
  model::StageDuty duty;
  duty.group_blocks = group_blocks_;
  duty.kv_block_tokens = stage::kKvBlockTokens;
  duty.kv_head_bytes = model::KvHeadBytes(stage::KvTypeName(request_->numerics.kv), shape.head_dim);
  duty.max_rows = request_->max_rows;
  duty.wire_row_bytes = stage::Hidden::BytesFor(request_->numerics.wire, 1, shape.d_model);

  common_bytes_ = {0, HeldBytes(manifest, "common")};
  weights_prefix_ = {0};
  kv_prefix_ = {0};
  for (uint32_t layer = 0; layer < n_layers_; ++layer) {
    const uint32_t blocks = group_blocks_[model::GroupOfLayer(shape, layer)];
    weights_prefix_.push_back(weights_prefix_.back() + HeldBytes(manifest, LayerName(layer)));
    kv_prefix_.push_back(kv_prefix_.back() + model::LayerKvBytes(shape, blocks, duty));
  }
  weights_prefix_.push_back(weights_prefix_.back() + HeldBytes(manifest, "norm") +
                            HeldBytes(manifest, HeadPart(shape)));
  kv_prefix_.push_back(kv_prefix_.back());

  for (const Place& place : places_) {
    std::vector<Picoseconds> prefix = {0};
    for (uint32_t u = 0; u < units(); ++u) {
      const auto bytes = static_cast<double>(weights_prefix_[u + 1] - weights_prefix_[u]);
      const double seconds = bytes / (stage::kBytesPerSecondAtSpeed1 * place.speed);
      prefix.push_back(prefix.back() + static_cast<Picoseconds>(std::llround(seconds * 1e12)));
    }
    time_prefix_.push_back(std::move(prefix));
    std::array<uint64_t, 8> buffers{};
    duty.threads = place.threads;
    for (int bits = 0; bits < 8; ++bits) {
      duty.layer_end = (bits & kLayersBit) != 0 ? 1 : 0;
      duty.embeds = (bits & kEmbedsBit) != 0;
      duty.samples = (bits & kSamplesBit) != 0;
      buffers[static_cast<size_t>(bits)] = model::BufferBytes(manifest, duty);
    }
    buffers_.push_back(buffers);
  }
}

model::StageBytes Problem::Bytes(size_t place, uint32_t begin, uint32_t end) const {
  const bool has_layers = begin < n_layers_;
  const int bits = (has_layers ? kLayersBit : 0) | (begin == 0 ? kEmbedsBit : 0) |
                   (end == units() ? kSamplesBit : 0);
  model::StageBytes bytes;
  bytes.weights = weights_prefix_[end] - weights_prefix_[begin] + common_bytes_[has_layers ? 1 : 0];
  bytes.kv = kv_prefix_[end] - kv_prefix_[begin];
  bytes.buffers = buffers_[place][static_cast<size_t>(bits)];
  return bytes;
}

bool Problem::Fits(size_t place, uint32_t begin, uint32_t end) const {
  const Place& p = places_[place];
  if (!p.attends && begin < n_layers_) return false;
  return p.base_bytes + Bytes(place, begin, end).total() <= p.limit_bytes;
}

uint32_t Problem::MaxEnd(size_t place, uint32_t begin) const {
  uint32_t low = begin, high = units();  // low fits (or is empty); above high we do not ask
  while (low < high) {
    const uint32_t middle = low + (high - low + 1) / 2;
    if (Fits(place, begin, middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

Picoseconds Problem::StageTime(size_t place, uint32_t begin, uint32_t end) const {
  return time_prefix_[place][end] - time_prefix_[place][begin];
}

Picoseconds Problem::HopTime(size_t from_machine, size_t to_machine) const {
  return hop_[from_machine][to_machine];
}

uint64_t Problem::GgufBytes(uint32_t begin, uint32_t end) const {
  const model::Manifest& manifest = *request_->manifest;
  const bool samples = end == units();
  uint64_t bytes = 0;
  for (uint32_t layer = begin; layer < std::min(end, n_layers_); ++layer) {
    bytes += FileBytes(manifest, LayerName(layer));
  }
  if (begin < n_layers_) bytes += FileBytes(manifest, "common");
  const bool tied = manifest.shape.tied_output;
  if (begin == 0 || (samples && tied)) bytes += FileBytes(manifest, "embed");
  if (samples) bytes += FileBytes(manifest, "norm") + (tied ? 0 : FileBytes(manifest, "output"));
  return bytes;
}

}  // namespace lanyard::sharding
