#include "web/exchange.h"

#include <utility>

namespace lanyard::web {

Exchange::Exchange(size_t max_queued_bytes, std::function<void()> wake)
    : max_queued_bytes_(max_queued_bytes), wake_(std::move(wake)) {}

void Exchange::WakeLocked() {
  if (woken_ || !wake_) return;
  woken_ = true;
  wake_();
}

void Exchange::Send(Response response) {
  MutexLock lock(&mu_);
  if (ended_ || gone_) return;
  response_ = std::move(response);
  ended_ = true;
  on_gone_ = nullptr;
  WakeLocked();
}

void Exchange::BeginStream() {
  MutexLock lock(&mu_);
  if (ended_ || gone_ || streaming_) return;
  streaming_ = true;
  WakeLocked();
}

void Exchange::Write(std::string events) {
  MutexLock lock(&mu_);
  if (ended_ || gone_ || overflow_) return;
  if (events_.size() + events.size() > max_queued_bytes_) {
    overflow_ = true;
    events_.clear();
    woken_ = false;  // an earlier wake may have come during a write that the client delays
  } else {
    events_ += events;
  }
  WakeLocked();
}

void Exchange::End() {
  MutexLock lock(&mu_);
  if (ended_ || gone_) return;
  ended_ = true;
  on_gone_ = nullptr;
  WakeLocked();
}

void Exchange::OnGone(std::function<void()> callback) {
  {
    MutexLock lock(&mu_);
    if (ended_ && !aborted_) return;
    if (!gone_ && !aborted_) {
      on_gone_ = std::move(callback);
      return;
    }
  }
  callback();
}

bool Exchange::Gone() {
  MutexLock lock(&mu_);
  return gone_ || aborted_;
}

Exchange::Taken Exchange::Take() {
  MutexLock lock(&mu_);
  woken_ = false;
  Taken taken;
  taken.response = std::move(response_);
  response_.reset();
  taken.streaming = streaming_;
  taken.events = std::move(events_);
  events_.clear();
  taken.ended = ended_;
  taken.overflow = overflow_;
  return taken;
}

bool Exchange::overflowed() {
  MutexLock lock(&mu_);
  return overflow_;
}

void Exchange::ClientGone() {
  std::function<void()> callback;
  {
    MutexLock lock(&mu_);
    if (gone_) return;
    gone_ = true;
    callback = std::move(on_gone_);
    on_gone_ = nullptr;
  }
  if (callback) callback();
}

void Exchange::Abort(Response response, std::string event) {
  std::function<void()> callback;
  {
    MutexLock lock(&mu_);
    if (ended_ || gone_) return;
    ended_ = aborted_ = true;
    if (streaming_) {
      events_ += event;
    } else {
      response_ = std::move(response);
    }
    callback = std::move(on_gone_);
    on_gone_ = nullptr;
    WakeLocked();
  }
  if (callback) callback();
}

void Exchange::Detach() {
  MutexLock lock(&mu_);
  wake_ = nullptr;
}

}  // namespace lanyard::web
