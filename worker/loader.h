// Makes an assignment ready on a thread of its own: weights, stage, connection to the next stage.
// It keeps the loaded stage from one assignment to the next when the duty is the same, and frees it
// before it loads another, unless that one is to stand beside it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "net/control.h"
#include "worker/stage_factory.h"
#include "worker/weight_store.h"

namespace lanyard::worker {

// A stage in memory. Everything it was loaded for, except `spec`'s plan, epoch and index, is its
// duty.
struct LoadedStage {
  std::string digest;  // digest of the model's manifest
  stage::StageSpec spec;
  std::shared_ptr<const model::TensorSource> source;
  std::unique_ptr<engine::LocalStage> stage;  // declared after `source`, which it may read
};

// True when model, layers, ends, numerics, blocks, context and rows are the same: then the stage
// serves the other plan as it is.
bool SameDuty(const LoadedStage& loaded, const net::Assignment& assignment);

struct LoadOutcome {
  net::Assignment assignment;
  absl::Status status;
  std::shared_ptr<LoadedStage> loaded;     // null on an error, and where it was fetched only
  std::unique_ptr<net::RemoteStage> next;  // null for the last stage
  bool next_unreachable = false;           // `status` is about the link to the next worker
  uint64_t fetched_bytes = 0;
};

// Called from the loader's thread (OnNextClosed from gRPC's); an implementation must only enqueue.
class LoaderEvents {
 public:
  virtual ~LoaderEvents() = default;
  virtual void OnLoadProgress(PlanId plan, uint64_t done_bytes, uint64_t total_bytes) = 0;
  virtual void OnLoadEnded(
      LoadOutcome outcome) = 0;  // not called for a load that was replaced or cancelled
  virtual void OnNextClosed(PlanId plan, Epoch epoch, const absl::Status& why) = 0;
};

struct LoaderOptions {
  std::string worker;
  // The credential shown to the next worker; null: plaintext.
  std::shared_ptr<identity::LiveCredential> credential = {};
  uint64_t memory_bytes = 0;  // limit of the whole process
  uint64_t base_bytes = 0;    // the part of it that is taken before any stage
  engine::StageOptions stage;
  StageFactory factory;
  WeightStoreOptions weights;
  FetchPart fetch;
  // For the connection to the next stage, which is tried again and again meanwhile.
  int connect_timeout_ms = 10000;
};

class Loader {
 public:
  Loader(LoaderOptions options, LoaderEvents* events);
  ~Loader();  // cancels and waits; no event comes after it

  // Replaces the load under way. What was loaded earlier is freed, but for `keep` and for what has
  // the same duty; of that the caller must hold nothing but `keep`.
  void Load(net::Assignment assignment, std::shared_ptr<LoadedStage> keep = nullptr);
  // Stops the load under way; a loaded stage is kept.
  void Cancel();
  // Also frees what was loaded, but for `keep`.
  void Unload(std::shared_ptr<LoadedStage> keep = nullptr);

 private:
  using Progress = std::function<void(uint64_t done, uint64_t total)>;
  struct Job {
    std::optional<net::Assignment> assignment;  // nullopt: load nothing
    std::shared_ptr<LoadedStage> keep;
    std::stop_source stop;
  };

  void Loop();
  void Push(std::optional<Job> job);
  LoadOutcome Run(net::Assignment assignment, std::stop_token stop);
  // Frees all but `keep`, and but for what has the assignment's duty (null: nothing has).
  void Free(const LoadedStage* keep, const net::Assignment* assignment);
  // Null for an assignment that only fetches.
  absl::StatusOr<std::shared_ptr<LoadedStage>> LoadStage(const net::Assignment& assignment,
                                                         std::stop_token stop,
                                                         uint64_t* fetched_bytes);
  absl::StatusOr<std::shared_ptr<LoadedStage>> Build(const net::Assignment& assignment,
                                                     const Weights& weights,
                                                     const engine::StageOptions& options,
                                                     std::stop_token stop,
                                                     const Progress& progress);
  absl::Status CheckMemory(const net::Assignment& assignment, const std::vector<std::string>& parts,
                           const engine::StageOptions& options) const;
  absl::StatusOr<std::unique_ptr<net::RemoteStage>> ConnectNext(const net::Assignment& assignment,
                                                                std::stop_token stop);

  const LoaderOptions options_;
  LoaderEvents* const events_;
  WeightStore store_;
  std::vector<std::shared_ptr<LoadedStage>> loaded_;  // only the loader's thread touches it
  Mutex mu_;
  CondVar cv_;
  std::optional<Job> waiting_ ABSL_GUARDED_BY(mu_);
  std::stop_source running_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // the last member: it starts when the others are there
};

}  // namespace lanyard::worker
