// Makes an assignment ready on a thread of its own: weights, stage, connection to the next stage.
// It keeps the loaded stage from one assignment to the next when the duty is the same. Of another
// duty it keeps the layers that stay (engine/weight_shelf.h) and frees the rest before it loads,
// unless the new stage is to stand beside the old one.
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
#include "engine/weight_shelf.h"
#include "net/control.h"
#include "worker/machine_event.h"
#include "worker/stage_factory.h"
#include "worker/weight_store.h"

namespace lanyard::worker {

// A stage in memory. Everything it was loaded for, except `spec`'s plan, epoch and index, is its
// duty.
struct LoadedStage {
  std::string digest;  // digest of the model's manifest
  stage::StageSpec spec;
  // Of embedding rows; null unless the stage embeds. A stage that follows goes on reading it.
  std::shared_ptr<const model::TensorSource> rows;
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
  NextLinkId next_link;                    // names `next`
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
  // Also of a link that no LoadOutcome has, since the attempt to open it failed.
  virtual void OnNextClosed(NextLinkId link, const absl::Status& why) = 0;
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

  // Replaces the load under way. The stage that was loaded for the epoch `keep` stays in memory; of
  // others the caller must have dropped what it holds. An assignment that only fetches frees
  // nothing.
  void Load(net::Assignment assignment, Epoch keep = Epoch());
  // Stops the load under way; what is loaded is kept.
  void Cancel();
  // Also frees what is loaded, but for the stage of the epoch `keep`.
  void Unload(Epoch keep = Epoch());

 private:
  using Progress = std::function<void(uint64_t done, uint64_t total)>;
  struct Job {
    std::optional<net::Assignment> assignment;  // nullopt: free what is loaded
    Epoch keep;
    std::stop_source stop;
  };
  // A stage in memory, and the epochs that it was assigned for: two when its duty is the same in a
  // plan and in the one beside it.
  struct Held {
    std::shared_ptr<LoadedStage> stage;
    std::vector<Epoch> epochs;
  };

  // What of a stage's parts need not be read, because an earlier stage has it in memory.
  struct Kept {
    WantedParts parts;
    std::shared_ptr<const model::TensorSource> rows;
    engine::StageOptions options = {};  // by which the stage is built
  };

  void Loop();
  void Push(std::optional<Job> job);
  LoadOutcome Run(net::Assignment assignment, Epoch keep, std::stop_token stop);
  // Null where it was fetched only.
  absl::StatusOr<std::shared_ptr<LoadedStage>> LoadStage(const net::Assignment& assignment,
                                                         Epoch keep, std::stop_token stop,
                                                         uint64_t* fetched_bytes);
  absl::StatusOr<std::shared_ptr<LoadedStage>> MakeStage(const net::Assignment& assignment,
                                                         Epoch keep, std::stop_token stop,
                                                         uint64_t* fetched_bytes);
  absl::StatusOr<std::shared_ptr<LoadedStage>> Build(const net::Assignment& assignment,
                                                     const Weights& weights, const Kept& kept,
                                                     std::stop_token stop,
                                                     const Progress& progress);
  // Frees all but the stage of the epoch `keep`, and what is to be used `again`.
  void Free(Epoch keep, const LoadedStage* again = nullptr);
  Kept Keep(const net::Assignment& assignment, std::vector<std::string> parts);
  // Beside what is held.
  absl::Status CheckMemory(const net::Assignment& assignment, const std::vector<std::string>& parts,
                           const engine::StageOptions& options) const;
  uint64_t HeldBytesBeside(const net::Assignment& assignment) const;
  // Counts the attempts in next_link_.
  absl::StatusOr<std::unique_ptr<net::RemoteStage>> ConnectNext(const net::Assignment& assignment,
                                                                std::stop_token stop);

  const LoaderOptions options_;
  LoaderEvents* const events_;
  WeightStore store_;
  // Only the loader's thread touches these.
  std::vector<Held> held_;
  engine::WeightShelf shelf_;
  std::string shelf_digest_;  // of the model whose weights are on it
  NextLinkId next_link_;      // of the latest attempt
  Mutex mu_;
  CondVar cv_;
  std::optional<Job> waiting_ ABSL_GUARDED_BY(mu_);
  std::stop_source running_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // the last member: it starts when the others are there
};

}  // namespace lanyard::worker
