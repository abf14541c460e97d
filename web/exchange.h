// The queue between a handler (in any thread) and the connection that writes its answer (in the I/O
// thread). It has no sockets.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "web/http.h"

namespace lanyard::web {

class Exchange : public ResponseWriter {
 public:
  // `wake` tells the connection that there is something to take; it is called under the exchange's
  // lock (so that Detach ends it for good) and must only post. max_queued_bytes bounds what a slow
  // client has not read.
  Exchange(size_t max_queued_bytes, std::function<void()> wake);

  void Send(Response response) override;
  void BeginStream() override;
  void Write(std::string events) override;
  void End() override;
  void OnGone(std::function<void()> callback) override;
  bool Gone() override;

  // --- The connection's side ---
  struct Taken {
    std::optional<Response> response;  // the whole answer
    bool streaming = false;            // BeginStream was called
    std::string events;                // events to be written now
    bool ended = false;                // nothing follows `events`
    bool overflow = false;             // the client reads too slowly
  };
  Taken Take();
  bool overflowed();
  // The client left: the handler's callback runs in the caller's thread, unless the answer had
  // ended.
  void ClientGone();
  // The answer ends here although it was not complete: `response` is sent if nothing has been, else
  // `event` as the last of the stream. The handler is told what it is told when the client leaves.
  // Nothing happens after the end.
  void Abort(Response response, std::string event);
  // The connection goes away: `wake` is never called again.
  void Detach();

 private:
  void WakeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const size_t max_queued_bytes_;
  Mutex mu_;
  std::function<void()> wake_ ABSL_GUARDED_BY(mu_);
  bool woken_ ABSL_GUARDED_BY(mu_) = false;  // a wake is on its way
  std::optional<Response> response_ ABSL_GUARDED_BY(mu_);
  bool streaming_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  bool overflow_ ABSL_GUARDED_BY(mu_) = false;
  bool gone_ ABSL_GUARDED_BY(mu_) = false;
  bool aborted_ ABSL_GUARDED_BY(mu_) = false;
  std::string events_ ABSL_GUARDED_BY(mu_);
  std::function<void()> on_gone_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lanyard::web
