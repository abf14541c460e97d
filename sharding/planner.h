// The planner: which machine holds which consecutive layers. Pure: no I/O, no clock; the same input
// gives the same plan.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/manifest.h"
#include "stage/types.h"

namespace lanyard::sharding {

// Resident bytes of a worker before it holds a stage (program, libraries, threads), where nothing
// was measured.
inline constexpr uint64_t kWorkerBaseBytes = 24 << 20;

struct DeviceProfile {
  std::string kind = "cpu";     // "cpu" "cuda"
  std::string name = "cpu";     // "cpu" "cuda:0"
  uint64_t memory_bytes = 0;    // for weights, KV and buffers on this device
  double speed = 1;             // relative to a machine's CPU of speed 1
  bool fast_attention = false;  // has the kernels of stage::AttentionForm::kFast; a CPU never has
};

struct MachineProfile {
  std::string name;
  uint64_t memory_bytes = 0;  // limit of the whole worker process (its RAM)
  uint64_t base_bytes = 0;    // of it taken before any stage: code, libraries, threads
  uint32_t threads = 1;
  double speed = 1;
  std::vector<DeviceProfile> devices;  // beyond the CPU; may be empty
};

struct LinkProfile {
  std::string a, b;  // machine names, symmetric
  double rtt_us = 200;
  double bandwidth_bps = 1e9;
};

struct PlanRequest {
  const model::Manifest* manifest = nullptr;  // digests may be empty
  std::vector<MachineProfile> machines;
  std::vector<LinkProfile> links;  // pairs not listed get the defaults of LinkProfile
  stage::NumericsId numerics;
  uint32_t context = 0;  // tokens of one sequence wanted
  uint32_t users = 1;    // sequences of full context wanted at once
  uint32_t min_context =
      256;  // shrink down to this before saying that nothing fits; == context: never shrink
  uint32_t max_rows = stage::kMaxFrameRows;
  bool require_all = false;          // every machine gets a stage, where some cut allows it
  bool one_stage_a_machine = false;  // a machine's places become one stage, which it cuts itself
};

struct PlannedStage {
  std::string machine;
  std::string device;        // "cuda:0"; several of one stage as "cuda:0+cpu"
  stage::LayerRange layers;  // empty for a stage of the head only
  bool embeds = false;
  bool samples = false;
  uint64_t gguf_bytes = 0;     // of the parts it reads
  uint64_t weights_bytes = 0;  // as held
  uint64_t kv_bytes = 0;
  uint64_t buffer_bytes = 0;
  uint64_t base_bytes = 0;
  uint64_t limit_bytes = 0;
  double ms_per_token = 0;  // predicted, decode of one row, relative units when speeds are relative
};

struct Plan {
  bool fits = false;
  std::vector<PlannedStage> stages;
  std::vector<uint32_t> group_blocks;  // KV blocks of each state group, the same in every stage
  uint32_t context = 0;                // may be less than wanted
  uint32_t users = 0;                  // full-context sequences that the KV holds
  std::string limit;                   // the binding constraint in words
  // Reasons, one sentence each; when !fits: the arithmetic and what would make it fit.
  std::vector<std::string> why;
};

// KV blocks of each state group that `users` sequences of `context` tokens need. A sliding group
// holds its window and two steps' rows on top (a window's old blocks are freed as it moves), never
// more than a full group.
std::vector<uint32_t> GroupBlocks(const model::ModelShape& shape, uint32_t context, uint32_t users,
                                  uint32_t max_rows);

// InvalidArgument for a request that makes no sense (no machines, duplicate names, zero
// context...). A model that does not fit is no error: fits is false and `why` says what is missing.
//
// What is made small: the time of one token over all stages and hops, plus w times that of the
// slowest stage, with w = min(users, machines) - 1, so that the pipeline's throughput counts when
// several users share it (at least 1 with require_all). Ties: the faster slowest stage, then fewer
// stages, then input order. A machine's stages are consecutive, its devices in the order given,
// then its CPU. Exact: over all contiguous cuts and ordered subsets of machines, as long as there
// are at most about 8 unlike machines (machines alike in everything are interchangeable and cost
// little). Beyond that the order is fixed (fastest first) and the cut is exact for that order;
// `why` says so. Memory first: users are given up before context, context in steps of 32 tokens
// down to min_context. With fast attention, layers go to devices that have it; the head, which
// has no attention, may go to any.
absl::StatusOr<Plan> MakePlan(const PlanRequest& request);

}  // namespace lanyard::sharding
