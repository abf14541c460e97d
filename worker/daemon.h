// The workstation's daemon: joins a coordinator, makes the stage it is given ready, runs its
// frames, and comes back for ever when the coordinator is lost. Holds no policy: what it does
// follows from what it was told last.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/version.h"
#include "engine/cuda/cuda_device.h"
#include "engine/ops/isa.h"
#include "net/control.h"
#include "worker/card_profile.h"
#include "worker/stage_factory.h"
#include "worker/weight_store.h"

namespace lanyard::worker {

struct DaemonOptions {
  std::string join;                                           // the coordinator's host:port
  std::string name;                                           // unique in the pool
  std::string listen = "127.0.0.1:0";                         // of the stage port
  std::shared_ptr<identity::LiveCredential> credential = {};  // null: plaintext, on loopback only
  net::AcceptLimits limits = {};                              // of the stage port
  uint64_t memory_bytes = 0;                                  // limit of the whole process
  int threads = 1;
  ops::Isa isa = ops::Isa::kScalar;
  double speed = 1;
  std::vector<std::shared_ptr<engine::CudaDevice>> devices =
      {};                      // that stages are put on before the processor
  CardRates rates = {};        // of devices, where known
  WeightStoreOptions weights;  // state_dir must exist
  StageFactory factory;
  std::string version = kVersion;  // others in tests
  uint32_t protocol = kProtocolVersion;
};

class Daemon {
 public:
  // Binds the stage port (its errors are returned) and starts; joining goes on in the background.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(DaemonOptions options);
  virtual ~Daemon() = default;  // stops without a word to the coordinator, unless Leave came before
  // Tells the coordinator, ends the frame being run, and stops. Returns when it is done.
  virtual void Leave(const std::string& reason) = 0;
  // The reason when the daemon ended by itself (refused for good), else OK while it runs.
  virtual bool ended() const = 0;
  virtual absl::Status status() const = 0;
  virtual std::string stage_address() const = 0;
  // For who supervises the process: when the control loop last turned, and one line of what this
  // worker does. Any thread.
  virtual TimeNs last_turn() const = 0;
  virtual std::string Doing() const = 0;
};

}  // namespace lanyard::worker
