// Makes an assignment ready on a thread of its own: weights, stage, connection to the next stage.
// Keeps the loaded stage from one assignment to the next when the duty is the same, and frees it
// before it loads another.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "base/mutex.h"
#include "net/control.h"
#include "worker/stage_factory.h"
#include "worker/weight_store.h"

namespace lanyard::worker {

// A stage in memory. What it was loaded for besides `spec`'s plan, epoch and index is its duty.
struct LoadedStage {
  std::string digest;  // of the model's manifest
  stage::StageSpec spec;
  std::shared_ptr<const model::TensorSource> source;
  std::unique_ptr<engine::LocalStage> stage;  // after `source`, which it may read
};

// The same model, layers, ends, numerics, blocks, context and rows: such a stage serves the other
// plan as it is.
bool SameDuty(const LoadedStage& loaded, const net::Assignment& assignment);

struct LoadOutcome {
  net::Assignment assignment;
  absl::Status status;
  std::shared_ptr<LoadedStage> loaded;     // null on an error
  std::unique_ptr<net::RemoteStage> next;  // null for the last stage
  uint64_t fetched_bytes = 0;
};

// Called from the loader's thread (OnNextClosed: from gRPC's); must only enqueue.
class LoaderEvents {
 public:
  virtual ~LoaderEvents() = default;
  virtual void OnLoadProgress(PlanId plan, uint64_t done_bytes, uint64_t total_bytes) = 0;
  virtual void OnLoadEnded(
      LoadOutcome outcome) = 0;  // not of a load that was replaced or cancelled
  virtual void OnNextClosed(PlanId plan, Epoch epoch, const absl::Status& why) = 0;
};

struct LoaderOptions {
  std::string worker;
  std::shared_ptr<identity::LiveCredential> credential =
      {};                     // shown to the next worker; null: plaintext
  uint64_t memory_bytes = 0;  // limit of the whole process
  uint64_t base_bytes = 0;    // of it taken before any stage
  engine::StageOptions stage;
  StageFactory factory;
  WeightStoreOptions weights;
  FetchPart fetch;
  int connect_timeout_ms = 10000;  // to the next stage, tried again and again meanwhile
};

class Loader {
 public:
  Loader(LoaderOptions options, LoaderEvents* events);
  ~Loader();  // cancels and waits; no event after it

  // Replaces the load under way. The caller has dropped what it holds of an earlier LoadOutcome.
  void Load(net::Assignment assignment);
  // Stops the load under way; a loaded stage is kept.
  void Cancel();
  // Also frees the loaded stage.
  void Unload();

 private:
  struct Job {
    std::optional<net::Assignment> assignment;  // nullopt: free the stage
    std::stop_source stop;
  };

  void Loop();
  void Push(std::optional<Job> job);
  LoadOutcome Run(net::Assignment assignment, std::stop_token stop);
  absl::Status LoadStage(const net::Assignment& assignment, std::stop_token stop,
                         uint64_t* fetched_bytes);
  absl::Status CheckMemory(const net::Assignment& assignment, const std::vector<std::string>& parts,
                           const engine::StageOptions& options) const;
  absl::StatusOr<std::unique_ptr<net::RemoteStage>> ConnectNext(const net::Assignment& assignment,
                                                                std::stop_token stop);

  const LoaderOptions options_;
  LoaderEvents* const events_;
  WeightStore store_;
  std::shared_ptr<LoadedStage> loaded_;  // only the loader's thread touches it
  Mutex mu_;
  CondVar cv_;
  std::optional<Job> waiting_ ABSL_GUARDED_BY(mu_);
  std::stop_source running_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: started when the rest is there
};

}  // namespace lanyard::worker
