// Where a worker's weights come from, in this order: a local copy of the GGUF file, the cache of
// parts by content in the state folder, the coordinator. Every byte is verified by SHA-256 before
// it is used, on every start.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "model/manifest.h"
#include "model/tensor_source.h"

namespace lanyard::worker {

struct WeightStoreOptions {
  std::string state_dir;                 // parts go to <state_dir>/weights/<sha256>
  std::vector<std::string> local_files;  // GGUF files to look into
  std::string local_dir;                 // and every *.gguf in it; may be empty
  // Limit of the cache of parts (weight_cache.h); 0: the disk's own.
  uint64_t cache_limit_bytes = 0;
  // For so long a fetch that gets no byte is tried again.
  int fetch_patience_ms = 120'000;
};

// Streams a part from `offset` to its end (see net::WeightClient::Fetch).
using FetchPart =
    std::function<absl::Status(const std::string& sha256, uint64_t offset, std::stop_token stop,
                               const std::function<absl::Status(std::span<const uint8_t>)>& take)>;

struct Weights {
  std::shared_ptr<const model::TensorSource> source;
  uint64_t fetched_bytes = 0;  // over the network
  std::string origin;          // for people: "cache", "coordinator" or the file's path
};

struct WantedParts {
  std::vector<std::string> read;  // are verified, and fetched where they are missing
  // Are in memory already, so that their bytes are not looked at; what the cache has of them stays.
  std::vector<std::string> kept = {};
};

// For one caller at a time.
class WeightStore {
 public:
  explicit WeightStore(WeightStoreOptions options) : options_(std::move(options)) {}

  // Errors carry their net::LoadCause: ResourceExhausted (naming path and bytes) when the disk is
  // full, DataLoss when a part does not match its digest after a second try, Unavailable when the
  // coordinator gave nothing for fetch_patience_ms. Cancelled when `stop` asks, or fetch's error.
  // What was fetched of a part is kept, unless it is wrong or the disk is full.
  // `progress(done, total)` counts bytes; it may be null.
  absl::StatusOr<Weights> Prepare(const model::Manifest& manifest, const WantedParts& parts,
                                  const FetchPart& fetch, std::stop_token stop,
                                  const std::function<void(uint64_t, uint64_t)>& progress);

 private:
  struct Job;
  struct Fetching;
  absl::StatusOr<bool> UseCached(const Job& job, const model::Part& part);
  void MakeRoom(const model::Manifest& manifest, const WantedParts& parts) const;
  absl::Status FetchOne(Job* job, const model::Part& part);
  absl::Status FetchOnce(Job* job, const model::Part& part, const std::string& temp);
  absl::Status FetchRest(Job* job, const model::Part& part, Fetching* to) const;
  std::shared_ptr<const model::TensorSource> FromLocalFile(Job* job,
                                                           const model::Manifest& manifest,
                                                           const std::vector<std::string>& parts,
                                                           std::string* path);
  std::vector<std::string> LocalFiles() const;
  std::string WeightsDir() const { return options_.state_dir + "/weights"; }

  const WeightStoreOptions options_;
  // Local files that do not hold the bytes of a manifest, by path: its digest and their last
  // change. They are not read again until they change.
  std::map<std::string, std::pair<std::string, int64_t>> avoided_;
  std::set<std::string> damaged_;  // parts that were found damaged in the cache once
};

}  // namespace lanyard::worker
