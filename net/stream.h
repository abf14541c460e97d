// One long-lived bidirectional gRPC stream, from either end: it has an ordered write queue bounded
// in bytes, one outstanding read, and an orderly end. It uses gRPC 1.51's callback API, where a
// message must live until OnWriteDone and gRPC never calls back inside StartWrite, so it may be
// called under the lock, which keeps the order. Handlers run on gRPC's threads and must only
// enqueue.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/alarm.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>
#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "base/mutex.h"
#include "base/status.h"
#include "net/limits.h"
#include "net/status_codes.h"

namespace lanyard::net {

inline size_t SizeOf(const google::protobuf::MessageLite& message) {
  return message.ByteSizeLong();
}
inline size_t SizeOf(const grpc::ByteBuffer& message) { return message.Length(); }

// The messages that wait to be written, bounded in bytes. The stream's mutex guards them.
template <typename Out>
class WriteQueue {
 public:
  absl::Status Push(std::unique_ptr<Out> message) {
    const size_t bytes = SizeOf(*message);
    if (bytes_ > 0 && bytes_ + bytes > kMaxQueuedBytes) {
      return ResourceExhausted("the send queue holds ", bytes_, " bytes and cannot take ", bytes,
                               " more (limit ", kMaxQueuedBytes,
                               "): the other side reads too slowly");
    }
    bytes_ += bytes;
    queue_.emplace_back(std::move(message), bytes);
    return absl::OkStatus();
  }
  bool empty() const { return queue_.empty(); }
  // The message being written stays at the front until Pop.
  const Out* front() const { return queue_.front().first.get(); }
  void Pop() {
    bytes_ -= queue_.front().second;
    queue_.pop_front();
  }
  // The front stays while it is being written.
  void Clear(bool writing) {
    while (queue_.size() > (writing ? 1 : 0)) {
      bytes_ -= queue_.back().second;
      queue_.pop_back();
    }
  }

 private:
  std::deque<std::pair<std::unique_ptr<Out>, size_t>> queue_;
  size_t bytes_ = 0;
};

// The client's end. The destructor cancels the call and waits for gRPC's last callback, so it must
// not run inside a callback.
template <typename Out, typename In>
class ClientLink final : private grpc::ClientBidiReactor<Out, In> {
 public:
  using Reactor = grpc::ClientBidiReactor<Out, In>;
  struct Handlers {
    std::function<void(In&)> on_message;
    std::function<void(const absl::Status&)> on_closed;  // called once, after the last message
  };

  explicit ClientLink(Handlers handlers) : handlers_(std::move(handlers)) {}
  ~ClientLink() override {
    Cancel();
    MutexLock lock(&mu_);
    while (started_ && !done_) cv_.Wait(&mu_);
  }

  // `begin(context, reactor)` makes the call (stub.async()->Method(context, reactor)). To be called
  // once.
  template <typename Begin>
  void Start(const Begin& begin) {
    begin(&context_, static_cast<Reactor*>(this));
    {
      MutexLock lock(&mu_);
      started_ = true;
      open_ = true;
    }
    this->AddHold();  // for writes from outside callbacks
    this->StartRead(&in_);
    this->StartCall();
  }

  absl::Status Send(std::unique_ptr<Out> message) {
    MutexLock lock(&mu_);
    if (!open_ || finishing_) return Unavailable("the stream is closed");
    RETURN_IF_ERROR(queue_.Push(std::move(message)));
    WriteNext();
    return absl::OkStatus();
  }

  void Cancel() {
    MutexLock lock(&mu_);
    if (started_ && !done_) context_.TryCancel();
    CloseLocked();
  }

  // Writes what is queued, half-closes and waits for the other side to end the stream; cancels
  // after `timeout_ms`.
  void Finish(int timeout_ms) {
    {
      MutexLock lock(&mu_);
      finishing_ = true;
      WriteNext();
      const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
      while (started_ && !done_ && std::chrono::steady_clock::now() < end) {
        cv_.WaitFor(&mu_, end - std::chrono::steady_clock::now());
      }
    }
    Cancel();
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      MutexLock lock(&mu_);
      CloseLocked();
      return;
    }
    handlers_.on_message(in_);
    this->StartRead(&in_);
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(&mu_);
    queue_.Pop();
    writing_ = false;
    if (!ok) {
      CloseLocked();
    } else {
      WriteNext();
    }
  }

  void OnDone(const grpc::Status& status) override {
    handlers_.on_closed(FromGrpc(status));
    MutexLock lock(&mu_);
    queue_.Clear(false);
    done_ = true;
    cv_.NotifyAll();
  }

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || !open_) return;
    if (!queue_.empty()) {
      writing_ = true;
      this->StartWrite(queue_.front());
    } else if (finishing_) {
      this->StartWritesDone();
      CloseLocked();
    }
  }

  // No write starts after it; the hold is released, so that OnDone can come.
  void CloseLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!open_) return;
    open_ = false;
    queue_.Clear(writing_);
    this->RemoveHold();
  }

  const Handlers handlers_;
  grpc::ClientContext context_;
  In in_;
  Mutex mu_;
  CondVar cv_;
  WriteQueue<Out> queue_ ABSL_GUARDED_BY(mu_);
  bool started_ ABSL_GUARDED_BY(mu_) = false;
  bool open_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finishing_ ABSL_GUARDED_BY(mu_) = false;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

// Counts a server's live streams, so that its destructor can wait for the last callback.
class LiveCount {
 public:
  // Returns false beyond `limit`.
  bool Add(int limit) {
    MutexLock lock(&mu_);
    if (n_ >= limit) return false;
    ++n_;
    return true;
  }
  void Remove() {
    MutexLock lock(&mu_);
    if (--n_ == 0) cv_.NotifyAll();
  }
  void WaitZero() {
    MutexLock lock(&mu_);
    while (n_ > 0) cv_.Wait(&mu_);
  }

 private:
  Mutex mu_;
  CondVar cv_;
  int n_ ABSL_GUARDED_BY(mu_) = 0;
};

// The server's end keeps itself alive until gRPC's last callback. Others may hold a shared_ptr and
// call Send, End and Abort at any time. A stream whose first message does not come within
// kFirstMessageMs is ended: a member that opens streams and sends nothing cannot use up the
// server's.
template <typename In, typename Out>
class ServerLink : public grpc::ServerBidiReactor<In, Out>,
                   public std::enable_shared_from_this<ServerLink<In, Out>> {
 public:
  // To be called after make_shared. gRPC keeps `context` alive until OnDone.
  void Begin(grpc::CallbackServerContext* context) {
    self_ = this->shared_from_this();
    {
      MutexLock lock(&mu_);
      context_ = context;
    }
    const auto due = std::chrono::system_clock::now() + std::chrono::milliseconds(kFirstMessageMs);
    first_message_.Set(due, [weak = this->weak_from_this()](bool is_due) {
      const auto self = is_due ? weak.lock() : nullptr;
      if (self != nullptr)
        self->Abort(absl::DeadlineExceededError("the stream's first message did not come in time"));
    });
    this->StartRead(&in_);
  }

  absl::Status Send(std::unique_ptr<Out> message) {
    MutexLock lock(&mu_);
    if (ending_) return Unavailable("the stream is closed");
    RETURN_IF_ERROR(queue_.Push(std::move(message)));
    WriteNext();
    return absl::OkStatus();
  }

  // Writes what is queued, then ends the stream with `status`.
  void End(const absl::Status& status) {
    MutexLock lock(&mu_);
    EndLocked(status);
  }

  // Ends the stream at once; queued messages are dropped.
  void Abort(const absl::Status& status) {
    MutexLock lock(&mu_);
    if (done_) return;
    queue_.Clear(writing_);
    if (context_ != nullptr) context_->TryCancel();
    EndLocked(status);
  }

 protected:
  virtual void OnMessage(In& in) = 0;
  virtual void OnClosed() = 0;  // called once, as the last

 private:
  void OnReadDone(bool ok) final {
    if (!ok) {
      End(absl::OkStatus());
      return;
    }
    first_message_.Cancel();
    OnMessage(in_);
    MutexLock lock(&mu_);
    if (!finished_) this->StartRead(&in_);
  }

  void OnWriteDone(bool ok) final {
    MutexLock lock(&mu_);
    queue_.Pop();
    writing_ = false;
    if (!ok) {
      queue_.Clear(false);
      EndLocked(Unavailable("the other side is gone"));
    }
    WriteNext();
  }

  void OnCancel() final {
    MutexLock lock(&mu_);
    queue_.Clear(writing_);
    EndLocked(absl::CancelledError("the stream was cancelled"));
  }

  void OnDone() final {
    OnClosed();
    std::shared_ptr<ServerLink> self = std::move(self_);  // must outlive the lock below
    MutexLock lock(&mu_);
    done_ = true;
    context_ = nullptr;
  }

  void EndLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!ending_) {
      ending_ = true;
      end_status_ = status;
    }
    WriteNext();
  }

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_) return;
    if (!queue_.empty()) {
      writing_ = true;
      this->StartWrite(queue_.front());
    } else if (ending_) {
      finished_ = true;
      this->Finish(ToGrpc(end_status_));
    }
  }

  In in_;
  std::shared_ptr<ServerLink> self_;
  grpc::Alarm first_message_;
  Mutex mu_;
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(mu_) = nullptr;
  WriteQueue<Out> queue_ ABSL_GUARDED_BY(mu_);
  absl::Status end_status_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace lanyard::net
