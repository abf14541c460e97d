#include "worker/card_watch.h"

#include <chrono>

#include "base/mutex.h"

namespace lanyard::worker {
namespace {

constexpr TimeNs kStopWait = 500 * kMillisecond;

}  // namespace

struct CardWatch::State {
  std::function<void()> look;
  TimeNs every = 0;
  mutable Mutex mu;
  CondVar cv;
  uint64_t asked ABSL_GUARDED_BY(mu) = 0;
  uint64_t done ABSL_GUARDED_BY(mu) = 0;
  TimeNs begun_at ABSL_GUARDED_BY(mu) = 0;  // 0: no look is under way
  bool stop ABSL_GUARDED_BY(mu) = false;
  bool ended ABSL_GUARDED_BY(mu) = false;
};

CardWatch::CardWatch(std::function<void()> look, TimeNs every) : state_(std::make_shared<State>()) {
  state_->look = std::move(look);
  state_->every = every;
  thread_ = std::thread([state = state_] { Loop(state); });
}

CardWatch::~CardWatch() {
  bool ended = false;
  {
    MutexLock lock(&state_->mu);
    state_->stop = true;
    state_->cv.NotifyAll();
    const TimeNs end = MonotonicNow() + kStopWait;
    while (!state_->ended) {
      const TimeNs left = end - MonotonicNow();
      if (left <= 0) break;
      state_->cv.WaitFor(&state_->mu, std::chrono::nanoseconds(left));
    }
    ended = state_->ended;
  }
  if (ended) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

uint64_t CardWatch::LookSoon() {
  MutexLock lock(&state_->mu);
  state_->cv.NotifyAll();
  return ++state_->asked;
}

bool CardWatch::Looked(uint64_t ticket) const {
  MutexLock lock(&state_->mu);
  return state_->done >= ticket;
}

TimeNs CardWatch::busy_for(TimeNs now) const {
  MutexLock lock(&state_->mu);
  return state_->begun_at == 0 ? 0 : now - state_->begun_at;
}

void CardWatch::Loop(const std::shared_ptr<State>& state) {
  state->mu.Lock();
  while (!state->stop) {
    const uint64_t asked = state->asked;
    state->begun_at = MonotonicNow();
    state->mu.Unlock();
    state->look();
    state->mu.Lock();
    state->begun_at = 0;
    state->done = asked;
    const TimeNs next = MonotonicNow() + state->every;
    while (!state->stop && state->asked == asked) {
      const TimeNs left = next - MonotonicNow();
      if (left <= 0) break;
      state->cv.WaitFor(&state->mu, std::chrono::nanoseconds(left));
    }
  }
  state->ended = true;
  state->cv.NotifyAll();
  state->mu.Unlock();
}

}  // namespace lanyard::worker
