// The workstation's daemon: joins a coordinator, makes the stage it is given ready, runs its
// frames, and comes back again and again when the coordinator is lost. It holds no policy: what it
// does follows from what it was told last.
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
  std::string listen = "127.0.0.1:0";                         // address of the stage port
  std::shared_ptr<identity::LiveCredential> credential = {};  // null: plaintext, on loopback only
  net::AcceptLimits limits = {};                              // for the stage port
  uint64_t memory_bytes = 0;                                  // limit of the whole process
  int threads = 1;
  ops::Isa isa = ops::Isa::kScalar;
  double speed = 1;
  // Devices that stages are put on before the processor.
  std::vector<std::shared_ptr<engine::CudaDevice>> devices = {};
  CardRates rates = {};        // rates of the devices, where they are known
  WeightStoreOptions weights;  // state_dir must exist
  StageFactory factory;
  std::string version = kVersion;  // tests set others
  uint32_t protocol = kProtocolVersion;
};

class Daemon {
 public:
  // Binds the stage port (its errors are returned) and starts. Joining goes on in the background.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(DaemonOptions options);
  // Stops without telling the coordinator, unless Leave was called before.
  virtual ~Daemon() = default;
  // Tells the coordinator, finishes the frame that is being computed, and stops. It returns when
  // this is done.
  virtual void Leave(const std::string& reason) = 0;
  // For the code that hears that the machine sleeps: leaves the pool as Leave does, and returns
  // when this is done or after a few seconds; Wake joins it again. Layers stay in memory. Any
  // thread.
  virtual void Sleep() = 0;
  virtual void Wake() = 0;
  // True when the daemon ended by itself (it was refused for good); `status` tells the reason.
  virtual bool ended() const = 0;
  virtual absl::Status status() const = 0;
  virtual std::string stage_address() const = 0;
  // For the code that supervises the process: when the control loop last turned, and one line that
  // says what this worker does. Any thread.
  virtual TimeNs last_turn() const = 0;
  virtual std::string Doing() const = 0;
};

}  // namespace lanyard::worker
