// What tests of the stage port receive.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "net/stage_server.h"

namespace lanyard::net::testing {

class RecordingSink : public FrameSink {
 public:
  absl::Status AcceptStream(const StreamFrom& from) override {
    MutexLock lock(&mu_);
    from_ = from;
    return accept_;
  }
  void OnFrame(stage::StepFrame frame) override {
    while (blocked_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    MutexLock lock(&mu_);
    frames_.push_back(std::move(frame));
  }
  void OnBadFrame(const StreamFrom&, StepId, uint32_t, const absl::Status& why) override {
    MutexLock lock(&mu_);
    bad_ = why;
  }
  void Refuse(const absl::Status& why) {
    MutexLock lock(&mu_);
    accept_ = why;
  }
  std::vector<stage::StepFrame> frames() {
    MutexLock lock(&mu_);
    return frames_;
  }
  StreamFrom from() {
    MutexLock lock(&mu_);
    return from_;
  }
  std::atomic<bool> blocked_{false};

 private:
  Mutex mu_;
  absl::Status accept_ ABSL_GUARDED_BY(mu_);
  absl::Status bad_ ABSL_GUARDED_BY(mu_);
  StreamFrom from_ ABSL_GUARDED_BY(mu_);
  std::vector<stage::StepFrame> frames_ ABSL_GUARDED_BY(mu_);
};

class Closed {
 public:
  std::function<void(const absl::Status&)> callback() {
    return [this](const absl::Status& why) {
      MutexLock lock(&mu_);
      why_ = why;
      ++times_;
    };
  }
  int times() {
    MutexLock lock(&mu_);
    return times_;
  }
  absl::Status why() {
    MutexLock lock(&mu_);
    return why_;
  }

 private:
  Mutex mu_;
  absl::Status why_ ABSL_GUARDED_BY(mu_);
  int times_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace lanyard::net::testing
