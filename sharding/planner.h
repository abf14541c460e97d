// The planner decides which machine holds which consecutive layers. It is pure, without I/O or
// clock: the same input gives the same plan.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/manifest.h"
#include "stage/types.h"

namespace lanyard::sharding {

// The resident bytes of a worker before it holds a stage (program, libraries, threads), where
// nothing was measured.
inline constexpr uint64_t kWorkerBaseBytes = 24 << 20;
// Sequences of full context that are planned for where nobody says how many.
inline constexpr uint32_t kDefaultUsers = 4;
// A plan with one machine more must save this share of the predicted time. Each of them can be
// lost, takes part of a desk's machine and its energy, and must be loaded and kept.
inline constexpr double kFurtherMachineSaves = 0.2;
// So many rows of a step cost as much computing as reading the weights once
// (docs/decisions/0005-planner-objective.md).
inline constexpr int64_t kRowsAsOneRead = 8;

struct DeviceProfile {
  std::string kind = "cpu";   // "cpu" "cuda"
  std::string name = "cpu";   // "cpu" "cuda:0"
  uint64_t memory_bytes = 0;  // for weights, KV and buffers on this device
  double speed = 1;           // relative to a machine's CPU of speed 1
  // It has the kernels of stage::AttentionForm::kFast, which no CPU has.
  bool fast_attention = false;
};

struct MachineProfile {
  std::string name;
  uint64_t memory_bytes = 0;  // limit of the whole worker process (its RAM)
  // The part of it that is taken before any stage: code, libraries, threads.
  uint64_t base_bytes = 0;
  uint32_t threads = 1;
  double speed = 1;
  // How many times longer it was measured to take than its speeds promise.
  double slowness = 1;
  // How often it was lost lately; each counts as if it were one machine more.
  double losses = 0;
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
  std::vector<LinkProfile> links;  // pairs that are not listed get the defaults of LinkProfile
  stage::NumericsId numerics;
  uint32_t context = 0;  // tokens of one sequence that are wanted
  uint32_t users = 1;    // sequences of full context that are wanted at once
  // The context may shrink to this before the answer is that nothing fits; == context: it never
  // shrinks.
  uint32_t min_context = 256;
  uint32_t max_rows = stage::kMaxFrameRows;
  bool require_all = false;  // every machine gets a stage, where some cut allows it
  // A machine's places become one stage, which the machine cuts itself.
  bool one_stage_a_machine = false;
  // Set by another thread, it makes MakePlan end soon, with Cancelled. May be null.
  const std::atomic<bool>* give_up = nullptr;

  bool given_up() const { return give_up != nullptr && give_up->load(std::memory_order_relaxed); }
};

struct PlannedStage {
  std::string machine;
  std::string device;        // "cuda:0"; several places of one stage as "cuda:0+cpu"
  stage::LayerRange layers;  // empty for a stage of the head only
  bool embeds = false;
  bool samples = false;
  uint64_t gguf_bytes = 0;     // file bytes of the parts that it reads
  uint64_t weights_bytes = 0;  // as held in memory
  uint64_t kv_bytes = 0;
  uint64_t buffer_bytes = 0;
  uint64_t base_bytes = 0;
  uint64_t limit_bytes = 0;
  // Predicted for the decode of one row; in relative units when speeds are relative.
  double ms_per_token = 0;
  double slowness = 1;  // of its machine, as it was planned with
};

struct Plan {
  bool fits = false;
  std::vector<PlannedStage> stages;
  std::vector<uint32_t> group_blocks;  // KV blocks of each state group, the same in every stage
  uint32_t context = 0;                // may be less than was wanted
  uint32_t users = 0;                  // full-context sequences that the KV holds
  // Predicted for the decode of one row: all stages and hops, and the slowest stage.
  double token_ms = 0;
  double slowest_ms = 0;
  double slowest_weight = 0;  // w below
  double charge = 0;          // m below
  std::string limit;          // the binding constraint in words
  // The reasons, one sentence each. When !fits, they are the arithmetic and what would make it fit.
  std::vector<std::string> why;

  // The predicted time, with the slowest stage counted under the weight of this or another plan.
  double StepMs(double weight) const { return token_ms + weight * slowest_ms; }
  // What the planner makes small: that time with its charge for machines.
  double Objective(double weight) const;
};

// A frame that is computed while the next one comes.
inline constexpr uint32_t kFewestFrames = 2;

// KV blocks of each state group that `users` sequences of `context` tokens need. A sliding group
// holds its windows and on top the rows of `frames` frames of max_rows that are on their way (a
// window's old blocks are freed as it moves), but never more than a full group.
std::vector<uint32_t> GroupBlocks(const model::ModelShape& shape, uint32_t context, uint32_t users,
                                  uint32_t max_rows, uint32_t frames = kFewestFrames);

// InvalidArgument for a request that makes no sense (no machines, duplicate names, zero
// context...); Cancelled when it was given up. A model that does not fit is no error: fits is false
// and `why` says what is missing.
//
// What is made small: the time of one token over all stages and hops, plus w times that of the
// slowest stage, all divided by (1 - kFurtherMachineSaves)^(m - 1). w = (users - 1) /
// kRowsAsOneRead (at least 1 with require_all) is what the others' rows cost where they are
// computed one after another. m is the number of machines, and of their losses lately: fewer and
// steadier machines win unless more of them are faster by enough. Ties are broken by the faster
// slowest stage, then by fewer stages, then by input order. A machine's stages are consecutive: its
// devices in the order given, then its CPU. The result is exact over all contiguous cuts and
// ordered subsets of machines, as long as there are at most about 8 unlike machines (machines alike
// in everything are interchangeable and cost little). Beyond that the order is fixed (fastest
// first) and the cut is exact for that order; `why` says so. Memory decides first: users are given
// up before context, context in steps of 32 tokens down to min_context. With fast attention, layers
// go to devices that have it; the head, which has no attention, may go to any.
absl::StatusOr<Plan> MakePlan(const PlanRequest& request);

}  // namespace lanyard::sharding
