// The coordinator's gRPC side: control streams, results, weights.
#include <atomic>
#include <map>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/version.h"
#include "lanyard/v1/control.grpc.pb.h"
#include "lanyard/v1/stage.grpc.pb.h"
#include "net/channel.h"
#include "net/control.h"
#include "net/convert_control.h"
#include "net/convert_stage.h"
#include "net/stream.h"
#include "net/versions.h"
#include "net/weight_service.h"

namespace lanyard::net {
namespace {

constexpr TimeNs kLookEvery = 50 * kMillisecond;

class CoordinatorServerImpl;

// One worker's control stream.
class JoinLink final : public ServerLink<v1::WorkerMessage, v1::CoordinatorMessage> {
 public:
  JoinLink(CoordinatorServerImpl* server, LinkId id, CoordinatorEvents* events,
           std::unique_ptr<PeerGuard> guard)
      : server_(server),
        id_(id),
        events_(events),
        guard_(std::move(guard)),
        last_heard_(MonotonicNow()) {}
  ~JoinLink() override;

  // OnWorkerGone is called once, and only for a link whose hello was told.
  void TellGone(const absl::Status& why) {
    MutexLock lock(&event_mu_);
    if (joined_ && !gone_)
      events_->OnWorkerGone(id_, Annotate(why, absl::StrCat("worker '", name_, "'")));
    gone_ = true;
  }
  void Refuse(const absl::Status& why, bool final) {
    auto message = std::make_unique<v1::CoordinatorMessage>();
    message->mutable_refused()->set_code(ToWireCode(why));
    message->mutable_refused()->set_message(CleanText(StdView(why.message())));
    message->mutable_refused()->set_final(final);
    Send(std::move(message)).IgnoreError();
    End(why);
  }
  void SetWelcomed() { welcomed_.store(true); }
  bool Speaks(const std::string& name) {
    if (!welcomed_.load()) return false;
    MutexLock lock(&event_mu_);
    return name_ == name && !gone_;
  }
  std::string node() const { return guard_->peer().has_value() ? guard_->peer()->node : ""; }
  TimeNs last_heard() const { return last_heard_.load(std::memory_order_relaxed); }
  // To be called after the server itself was held up: silence is counted anew.
  void Forgive(TimeNs now) { last_heard_.store(now, std::memory_order_relaxed); }

 protected:
  void OnMessage(v1::WorkerMessage& message) override;
  void OnClosed() override;

 private:
  bool Greet(WorkerEvent* event);

  CoordinatorServerImpl* const server_;
  const LinkId id_;
  CoordinatorEvents* const events_;
  std::unique_ptr<PeerGuard> guard_;
  std::atomic<TimeNs> last_heard_;
  std::atomic<bool> welcomed_{false};
  Mutex event_mu_;  // held while an event is told, so that the end of the link is the last one
  std::string name_ ABSL_GUARDED_BY(event_mu_);
  bool joined_ ABSL_GUARDED_BY(event_mu_) = false;
  bool gone_ ABSL_GUARDED_BY(event_mu_) = false;
  bool ended_ = false;  // only OnMessage touches it
};

class ResultLink final : public ServerLink<v1::ResultMessage, v1::FrameReply> {
 public:
  ResultLink(CoordinatorServerImpl* server, CoordinatorEvents* events,
             std::unique_ptr<PeerGuard> guard)
      : server_(server), events_(events), guard_(std::move(guard)) {}
  ~ResultLink() override;

 protected:
  void OnMessage(v1::ResultMessage& message) override;
  void OnClosed() override {}

 private:
  void Greet(const v1::ResultMessage& message);

  CoordinatorServerImpl* const server_;
  CoordinatorEvents* const events_;
  std::unique_ptr<PeerGuard> guard_;
  std::string worker_;
  bool ended_ = false;
};

template <typename In, typename Out>
class RefusedStream final : public grpc::ServerBidiReactor<In, Out> {
 public:
  explicit RefusedStream(const absl::Status& status) { this->Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

class CoordinatorServerImpl final : public CoordinatorServer,
                                    public v1::CoordinatorService::CallbackService,
                                    public v1::ResultService::CallbackService {
 public:
  CoordinatorServerImpl(CoordinatorEvents* events, PartProvider* parts)
      : events_(events), weights_(parts, [this](const grpc::ServerContextBase& context) {
          return bound_.Guard(context);
        }) {}

  ~CoordinatorServerImpl() override {
    watcher_.request_stop();
    if (watcher_.joinable()) watcher_.join();
    bound_.Shutdown();
    live_.WaitZero();
  }

  absl::Status Listen(const ServerOptions& options) {
    RETURN_IF_ERROR(
        bound_.Start(options,
                     {static_cast<v1::CoordinatorService::CallbackService*>(this),
                      static_cast<v1::ResultService::CallbackService*>(this), &weights_},
                     kMaxResultMessageBytes));
    watcher_ = std::jthread([this](std::stop_token stop) { Watch(stop); });
    return absl::OkStatus();
  }

  std::string address() const override { return bound_.address(); }

  void Welcome(LinkId id) override {
    const std::shared_ptr<JoinLink> link = Find(id);
    if (link == nullptr) return;
    link->SetWelcomed();  // this comes first: the worker may open its result stream at once
    auto message = std::make_unique<v1::CoordinatorMessage>();
    v1::Welcome* welcome = message->mutable_welcome();
    welcome->set_protocol(kProtocolVersion);
    welcome->set_version(kVersion);
    welcome->set_heartbeat_ms(kHeartbeatMs);
    welcome->set_dead_after_ms(kDeadAfterMs);
    link->Send(std::move(message)).IgnoreError();
    MutexLock lock(&mu_);
    if (!revoked_.empty()) link->Send(RevokedMessage()).IgnoreError();
  }
  void Refuse(LinkId id, const absl::Status& why) override {
    if (const std::shared_ptr<JoinLink> link = Find(id)) link->Refuse(why, false);
  }
  void Assign(LinkId id, Assignment assignment) override {
    const std::shared_ptr<JoinLink> link = Find(id);
    if (link == nullptr) return;
    auto message = std::make_unique<v1::CoordinatorMessage>();
    ToProto(assignment, message->mutable_assign());
    SendOrDrop(link, std::move(message));
  }
  void Release(LinkId id, PlanId plan) override {
    const std::shared_ptr<JoinLink> link = Find(id);
    if (link == nullptr) return;
    auto message = std::make_unique<v1::CoordinatorMessage>();
    message->mutable_release()->set_plan(plan.value);
    SendOrDrop(link, std::move(message));
  }
  void Diagnose(LinkId id, const DiagnoseRequest& request) override {
    const std::shared_ptr<JoinLink> link = Find(id);
    if (link == nullptr) return;
    auto message = std::make_unique<v1::CoordinatorMessage>();
    ToProto(request, message->mutable_diagnose());
    SendOrDrop(link, std::move(message));
  }
  void Close(LinkId id) override {
    const std::shared_ptr<JoinLink> link = Find(id);
    if (link == nullptr) return;
    link->TellGone(absl::CancelledError("closed by the coordinator"));
    link->Abort(absl::CancelledError("closed by the coordinator"));
  }

  void CutOff(const std::string& node, const std::vector<std::string>& all_revoked) override {
    std::vector<std::shared_ptr<JoinLink>> links;
    {
      MutexLock lock(&mu_);
      revoked_ = all_revoked;
      for (const auto& [id, link] : links_) {
        if (link->node() == node) {
          links.push_back(link);
        } else {
          link->Send(RevokedMessage()).IgnoreError();
        }
      }
    }
    const absl::Status why =
        absl::PermissionDeniedError("this machine was revoked by the cluster's administrator");
    for (const std::shared_ptr<JoinLink>& link : links) {
      link->TellGone(why);
      link->Abort(why);
    }
    bound_.CutOff(node);
  }

  grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* Join(
      grpc::CallbackServerContext* context) override {
    using Refused = RefusedStream<v1::WorkerMessage, v1::CoordinatorMessage>;
    absl::StatusOr<std::unique_ptr<PeerGuard>> guard = bound_.Guard(*context);
    if (!guard.ok()) return new Refused(guard.status());
    if (const absl::Status role = (*guard)->Expect(identity::Role::kWorker, ""); !role.ok())
      return new Refused(role);
    if (!live_.Add(2 * kMaxLinks)) {
      return new Refused(
          ResourceExhausted("the coordinator has ", kMaxLinks, " streams open already"));
    }
    std::shared_ptr<JoinLink> link;
    {
      MutexLock lock(&mu_);
      const LinkId id(next_link_++);
      link = std::make_shared<JoinLink>(this, id, events_, *std::move(guard));
      links_[id] = link;
    }
    link->Begin(context);
    return link.get();
  }

  grpc::ServerBidiReactor<v1::ResultMessage, v1::FrameReply>* Results(
      grpc::CallbackServerContext* context) override {
    absl::StatusOr<std::unique_ptr<PeerGuard>> guard = bound_.Guard(*context);
    if (!guard.ok()) return new RefusedStream<v1::ResultMessage, v1::FrameReply>(guard.status());
    if (!live_.Add(2 * kMaxLinks)) {
      return new RefusedStream<v1::ResultMessage, v1::FrameReply>(
          ResourceExhausted("the coordinator has ", kMaxLinks, " streams open already"));
    }
    auto link = std::make_shared<ResultLink>(this, events_, *std::move(guard));
    link->Begin(context);
    return link.get();
  }

  bool IsWelcomed(const std::string& name) {
    std::vector<std::shared_ptr<JoinLink>> links;
    {
      MutexLock lock(&mu_);
      for (const auto& [id, link] : links_) links.push_back(link);
    }
    for (const std::shared_ptr<JoinLink>& link : links) {
      if (link->Speaks(name)) return true;
    }
    return false;
  }
  void Forget(LinkId id) {
    std::shared_ptr<JoinLink> link;
    MutexLock lock(&mu_);
    const auto it = links_.find(id);
    if (it == links_.end()) return;
    link = std::move(it->second);
    links_.erase(it);
  }
  LiveCount* live() { return &live_; }

 private:
  std::shared_ptr<JoinLink> Find(LinkId id) {
    MutexLock lock(&mu_);
    const auto it = links_.find(id);
    return it == links_.end() ? nullptr : it->second;
  }

  static void SendOrDrop(const std::shared_ptr<JoinLink>& link,
                         std::unique_ptr<v1::CoordinatorMessage> message) {
    if (absl::IsResourceExhausted(link->Send(std::move(message)))) {
      link->TellGone(absl::DeadlineExceededError("does not read its control stream"));
      link->Abort(absl::DeadlineExceededError("the control stream is not read"));
    }
  }

  // Gives up links that are silent for too long.
  void Watch(std::stop_token stop) {
    TimeNs before = MonotonicNow();
    while (!stop.stop_requested()) {
      std::this_thread::sleep_for(std::chrono::nanoseconds(kLookEvery));
      const TimeNs now = MonotonicNow();
      // This process was stopped or starved: what the workers sent meanwhile has not been read yet.
      const bool held_up = now - before > 10 * kLookEvery;
      before = now;
      std::vector<std::shared_ptr<JoinLink>> silent;
      {
        MutexLock lock(&mu_);
        for (const auto& [id, link] : links_) {
          if (held_up) {
            link->Forgive(now);
          } else if (now - link->last_heard() > TimeNs{kDeadAfterMs} * kMillisecond) {
            silent.push_back(link);
          }
        }
      }
      for (const std::shared_ptr<JoinLink>& link : silent) {
        const absl::Status why = absl::DeadlineExceededError(
            absl::StrCat("nothing heard for ", kDeadAfterMs, " ms; given up"));
        link->TellGone(why);
        link->Abort(why);
      }
    }
  }

  std::unique_ptr<v1::CoordinatorMessage> RevokedMessage() const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    auto message = std::make_unique<v1::CoordinatorMessage>();
    for (const std::string& node : revoked_) message->mutable_revoked()->add_nodes(node);
    return message;
  }

  CoordinatorEvents* const events_;
  LiveCount live_;
  Mutex mu_;
  std::map<LinkId, std::shared_ptr<JoinLink>> links_ ABSL_GUARDED_BY(mu_);
  uint64_t next_link_ ABSL_GUARDED_BY(mu_) = 1;
  std::vector<std::string> revoked_ ABSL_GUARDED_BY(mu_);
  BoundServer bound_;
  WeightServiceImpl weights_;  // after bound_, whose table its fetches use until they end
  std::jthread watcher_;
};

JoinLink::~JoinLink() {
  guard_.reset();  // its table goes with the server, which waits for live() alone
  server_->live()->Remove();
}

void JoinLink::OnMessage(v1::WorkerMessage& message) {
  last_heard_.store(MonotonicNow(), std::memory_order_relaxed);
  if (ended_) return;
  const absl::Status allowed = guard_->Check();
  absl::StatusOr<WorkerEvent> event =
      allowed.ok() ? FromProto(message) : absl::StatusOr<WorkerEvent>(allowed);
  if (!event.ok()) {
    if (allowed.ok() && absl::IsInvalidArgument(event.status())) guard_->Report(event.status());
    ended_ = true;
    TellGone(event.status());
    Refuse(event.status(), false);
    return;
  }
  {
    bool joined = false;
    {
      MutexLock lock(&event_mu_);
      joined = joined_;
    }
    if (!joined && !Greet(&*event)) {
      ended_ = true;
      return;
    }
    if (joined && std::holds_alternative<WorkerHello>(*event)) return;  // a hello is told once
  }
  if (std::holds_alternative<Heartbeat>(*event)) {
    auto reply = std::make_unique<v1::CoordinatorMessage>();
    reply->mutable_heartbeat();
    Send(std::move(reply)).IgnoreError();
  }
  MutexLock lock(&event_mu_);
  if (!gone_) events_->OnWorkerEvent(id_, *std::move(event));
}

bool JoinLink::Greet(WorkerEvent* event) {
  WorkerHello* hello = std::get_if<WorkerHello>(event);
  if (hello == nullptr) {
    const absl::Status why =
        InvalidArgument("the first message of a control stream must be the worker's hello");
    guard_->Report(why);
    Refuse(why, true);
    return false;
  }
  const absl::Status versions =
      CheckWorkerProgram({hello->protocol, hello->version, hello->numerics});
  if (!versions.ok()) {
    LogWarning("refused a worker: ", versions.message());
    Refuse(versions, true);
    return false;
  }
  if (const absl::Status own = guard_->Expect(identity::Role::kWorker, hello->name); !own.ok()) {
    guard_->Report(own);
    Refuse(own, true);
    return false;
  }
  hello->node = node();
  hello->from = guard_->address();
  MutexLock lock(&event_mu_);
  name_ = hello->name;
  joined_ = true;
  return true;
}

void JoinLink::OnClosed() {
  // gRPC's keepalive may notice a stopped machine before Watch does; it counts as silence all the
  // same.
  const TimeNs silence = MonotonicNow() - last_heard();
  if (silence > 3 * TimeNs{kHeartbeatMs} * kMillisecond) {
    TellGone(absl::DeadlineExceededError(
        absl::StrCat("nothing heard for ", silence / kMillisecond, " ms; given up")));
  } else {
    TellGone(Unavailable("the connection is closed"));
  }
  server_->Forget(id_);
}

ResultLink::~ResultLink() {
  guard_.reset();  // its table goes with the server, as above
  server_->live()->Remove();
}

void ResultLink::OnMessage(v1::ResultMessage& message) {
  if (ended_) return;
  if (const absl::Status allowed = guard_->Check(); !allowed.ok()) {
    ended_ = true;
    End(allowed);
    return;
  }
  if (worker_.empty()) {
    Greet(message);
    return;
  }
  absl::Status status = absl::OkStatus();
  if (message.has_result()) {
    absl::StatusOr<stage::StepResult> result = FromProto(message.result(), worker_);
    if (result.ok()) {
      events_->OnResult(*std::move(result));
    } else {
      status = result.status();
    }
  } else if (message.has_ping()) {
    auto reply = std::make_unique<v1::FrameReply>();
    reply->mutable_pong()->Swap(message.mutable_ping());
    status = Send(std::move(reply));
  } else {
    status = InvalidArgument("a message without a result or ping that this version knows");
  }
  if (status.ok()) return;
  LogWarning("results of worker '", worker_, "': ", status.message());
  if (absl::IsInvalidArgument(status)) guard_->Report(status);
  ended_ = true;
  End(status);
}

void ResultLink::Greet(const v1::ResultMessage& message) {
  const v1::StreamHello& hello = message.hello();
  absl::Status status = message.has_hello()
                            ? CheckWorkerProgram({hello.protocol(), hello.version()})
                            : InvalidArgument("the first message of a stream must be its hello");
  if (status.ok()) status = CheckWorkerName(hello.from());
  if (status.ok()) status = guard_->Expect(identity::Role::kWorker, hello.from());
  if (status.ok() && !server_->IsWelcomed(hello.from())) {
    status =
        absl::PermissionDeniedError(absl::StrCat("worker '", hello.from(), "' has not joined"));
  }
  auto reply = std::make_unique<v1::FrameReply>();
  reply->mutable_welcome()->set_code(ToWireCode(status));
  reply->mutable_welcome()->set_message(CleanText(StdView(status.message())));
  Send(std::move(reply)).IgnoreError();
  if (status.ok()) {
    worker_ = hello.from();
  } else {
    ended_ = true;
    End(status);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(
    const ServerOptions& options, CoordinatorEvents* events, PartProvider* parts) {
  auto server = std::make_unique<CoordinatorServerImpl>(events, parts);
  RETURN_IF_ERROR(server->Listen(options));
  return server;
}

}  // namespace lanyard::net
