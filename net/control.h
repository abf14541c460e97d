// What worker and coordinator say to each other, as plain structs, and the two ends of their link
// as interfaces. The proto messages (proto/lanyard/v1) stay inside net/. Everything that arrives
// has been converted and validated before it is seen here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "identity/peer.h"
#include "model/manifest.h"
#include "net/acceptor.h"
#include "net/diagnosis.h"
#include "net/join.h"
#include "net/load_cause.h"
#include "stage/types.h"

namespace lanyard::identity {
class LiveCredential;
}

namespace lanyard::net {

// How this process proves who it is, and which peers it accepts. Without a credential links are
// plaintext, which servers allow on loopback only.
struct Security {
  std::shared_ptr<identity::LiveCredential> credential = {};
  std::shared_ptr<const identity::PeerPolicy> policy = {};  // null: every node of the cluster
};

inline constexpr uint32_t kHeartbeatMs = 250;
// Silence after which a worker is suspected, and nothing is sent to it.
inline constexpr uint32_t kSuspectAfterMs = 1000;
// Silence after which a peer counts as lost. A process that ends closes its connections and is
// known to be lost at once; this is for machines that stop, and for cables.
inline constexpr uint32_t kDeadAfterMs = 5000;

// The measured rates of a card; 0: not known.
struct DeviceRates {
  double read_bytes_per_second = 0;       // from its memory
  double int8_ops_per_second = 0;         // a multiply and an add count as 2
  double f16_ops_per_second = 0;          // on tensor cores
  double to_device_bytes_per_second = 0;  // over PCIe
  double to_host_bytes_per_second = 0;
};

// A card of a worker.
struct DeviceHello {
  std::string kind;             // "cuda"
  std::string name;             // "cuda:0", unique in the worker
  std::string model;            // for people
  uint64_t memory_bytes = 0;    // memory that stages may use
  double speed = 1;             // on the scale of WorkerHello::speed
  bool fast_attention = false;  // the card has the kernels of stage::AttentionForm::kFast
  DeviceRates rates = {};
};

struct WorkerHello {
  std::string name;
  std::string version;
  uint32_t protocol = 0;
  std::string stage_address;  // host:port
  uint64_t memory_bytes = 0;  // limit of the whole process
  uint64_t base_bytes = 0;    // memory that is resident before any stage
  uint32_t threads = 1;
  double speed = 1;
  std::string isa;
  uint64_t pid = 0;
  // Cards beside the processor, in the order in which the worker fills them.
  std::vector<DeviceHello> devices = {};
  // Node id from the certificate of the link, never from the message; empty: plaintext.
  std::string node = {};
  std::string from = {};  // ip:port of the link
  uint32_t numerics = kNumericsVersion;
};

struct Heartbeat {
  uint64_t resident_bytes = 0;
  double busy = 0;
  uint64_t frames = 0;
};

// A worker's cards as they are now, sent when they differ from what it said last. The next plan
// uses them.
struct DevicesChanged {
  std::vector<DeviceHello> devices;
};

struct LoadProgress {
  PlanId plan;
  uint64_t done_bytes = 0;
  uint64_t total_bytes = 0;
};

struct StageReady {
  PlanId plan;
  Epoch epoch;
  uint64_t weights_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t buffer_bytes = 0;
  uint64_t fetched_bytes = 0;
};

struct StageFailed {
  PlanId plan;
  Epoch epoch;
  absl::Status status;
  std::string unreachable = {};  // the next worker, where the link to it was the reason
  LoadCause cause = LoadCause::kUnknown;
};

struct Leaving {
  std::string reason;
};

using WorkerEvent = std::variant<WorkerHello, Heartbeat, LoadProgress, StageReady, StageFailed,
                                 Leaving, DevicesChanged, Diagnosis>;

enum class AssignMode {
  kInstead,  // of whatever the worker has, which ends at once
  // The stage that serves goes on until its plan is released, or until a frame of this later epoch
  // comes; then this one is the worker's stage. A worker has one beside another at most, the
  // latest.
  kBeside,
  kFetch,  // the weights are only fetched, and the stage that serves goes on
};

// A stage that the worker is to hold. The worker makes it ready (weights, connection to the next
// stage) and answers StageReady or StageFailed. What it holds already for the same duty (same model
// digest and parts) is not loaded again.
struct Assignment {
  stage::StageSpec spec;
  AssignMode mode = AssignMode::kInstead;
  std::shared_ptr<const model::Manifest> manifest;
  std::string next_worker;  // empty for the last stage
  std::string next_address;
  // Node id of the certificate that the next worker must show; empty: plaintext.
  std::string next_node = {};
  std::string from_node = {};  // the same for the stage before, or for the coordinator
};

// Names one control stream for its life. A process never uses an id twice.
using LinkId = StrongId<struct LinkTag>;

// The events of the coordinator's side. They are called from gRPC's threads; an implementation must
// only enqueue.
class CoordinatorEvents : public stage::ResultSink {
 public:
  // The first event of a link is always WorkerHello.
  virtual void OnWorkerEvent(LinkId link, WorkerEvent event) = 0;
  virtual void OnWorkerGone(LinkId link, const absl::Status& why) = 0;
};

// Serves the parts of the model to workers. Thread-safe.
class PartProvider {
 public:
  virtual ~PartProvider() = default;
  virtual absl::StatusOr<uint64_t> PartBytes(std::string_view sha256) = 0;
  virtual absl::Status ReadPart(std::string_view sha256, uint64_t offset,
                                std::span<uint8_t> out) = 0;
};

struct ServerOptions {
  std::string listen = "127.0.0.1:0";  // host:port; port 0 picks one
  Security security = {};              // plaintext is refused on any address but loopback
  AcceptLimits limits = {};
  JoinHandler join = {};  // absent: no machine can join here
};

// The coordinator's gRPC side. Thread-safe.
class CoordinatorServer {
 public:
  // Unavailable names the address and the errno when the port is in use. `events` and `parts` must
  // outlive the server.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(const ServerOptions& options,
                                                                  CoordinatorEvents* events,
                                                                  PartProvider* parts);
  virtual ~CoordinatorServer() = default;   // closes every stream; no event comes after it
  virtual std::string address() const = 0;  // the host:port that was bound

  virtual void Welcome(LinkId link) = 0;
  // Sends the reason, then closes.
  virtual void Refuse(LinkId link, const absl::Status& why) = 0;
  virtual void Assign(LinkId link, Assignment assignment) = 0;
  virtual void Release(LinkId link, PlanId plan) = 0;
  // Drops the stream without sending a reason (for a silent worker).
  virtual void Close(LinkId link) = 0;
  // The answer comes as a Diagnosis among the worker's events.
  virtual void Diagnose(LinkId link, const DiagnoseRequest& request) = 0;
  // The node was revoked: its connections are cut, and the workers are told which nodes they may no
  // longer speak with.
  virtual void CutOff(const std::string& node, const std::vector<std::string>& all_revoked) = 0;
};

// The address at which peers that route like `peer` (host:port) reach a server that is bound to a
// wildcard: the local address that this machine would use towards the peer. Other addresses are
// returned as they are.
absl::StatusOr<std::string> AdvertisedAddress(const std::string& bound, const std::string& peer);

// Where the coordinator is, as its workers need it.
struct Endpoint {
  std::string address;                                        // host:port
  std::shared_ptr<identity::LiveCredential> credential = {};  // null: plaintext
};

struct RemoteStageOptions {
  std::string address;
  std::string from;  // the sender: "coordinator" or the worker's name
  PlanId plan;
  Epoch epoch;
  uint32_t stage = 0;  // the stage that the other side runs
  // It is called once, from a gRPC thread, when the stream ends or could not be opened; `why` tells
  // the reason. It must only enqueue.
  std::function<void(const absl::Status& why)> on_closed;
  std::shared_ptr<identity::LiveCredential> credential = {};  // null: plaintext
  std::string node = {};  // the node whose certificate must be at the address
  // true: the stream carries pings only, which any member of the cluster may send (kMaxProbePings
  // and the like).
  bool probe = false;
};

// Sends frames over one long-lived bidirectional stream to a worker's stage port. Send queues
// (bounded in bytes) and never blocks, also before the stream is open.
class RemoteStage : public stage::StagePort {
 public:
  static std::unique_ptr<RemoteStage> Connect(const RemoteStageOptions& options);
  ~RemoteStage() override = default;
  // True once the other side has welcomed the stream.
  virtual bool ready() const = 0;
  // Waits at most timeout_ms until the stream is ready or closed.
  virtual absl::Status WaitReady(int timeout_ms) = 0;
  // Measures the round trip of a payload over the same stream; for probes and the benchmark.
  virtual absl::StatusOr<int64_t> PingNs(std::span<const uint8_t> payload, int timeout_ms) = 0;
};

}  // namespace lanyard::net
