// A coordinator that welcomes every worker and records what it receives.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "net/control.h"
#include "worker/testing_util.h"

namespace lanyard::worker::testing {

class FakeCoordinator final : public net::CoordinatorEvents, public net::PartProvider {
 public:
  explicit FakeCoordinator(Parts parts, const std::string& listen = "127.0.0.1:0")
      : parts_(std::move(parts)) {
    auto server = net::CoordinatorServer::Start({listen}, this, this);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  void OnWorkerEvent(net::LinkId link, net::WorkerEvent event) override {
    bool welcome = false;
    {
      MutexLock lock(&mu_);
      if (auto* hello = std::get_if<net::WorkerHello>(&event)) {
        hellos_[hello->name] = *hello;
        links_[hello->name] = link;
        ++joins_;
        welcome = welcome_;
      } else if (auto* ready = std::get_if<net::StageReady>(&event)) {
        ready_[link] = *ready;
      } else if (auto* failed = std::get_if<net::StageFailed>(&event)) {
        failed_.push_back(*failed);
      } else if (auto* changed = std::get_if<net::DevicesChanged>(&event)) {
        for (const auto& [name, of] : links_) {
          if (of == link) hellos_[name].devices = changed->devices;
        }
      } else if (std::holds_alternative<net::Heartbeat>(event)) {
        ++beats_;
      } else if (std::holds_alternative<net::Leaving>(event)) {
        ++leaving_;
        results_at_leaving_ = results_.all().size();
      } else if (std::holds_alternative<net::LoadProgress>(event)) {
        ++progress_;
      }
    }
    if (welcome) server_->Welcome(link);
  }
  void OnWorkerGone(net::LinkId link, const absl::Status& why) override {
    MutexLock lock(&mu_);
    gone_[link] = why;
    gone_at_ = MonotonicNow();
  }
  void OnResult(stage::StepResult result) override { results_.OnResult(std::move(result)); }
  absl::StatusOr<uint64_t> PartBytes(std::string_view sha256) override {
    for (const model::Part& part : parts_.manifest->parts) {
      if (part.sha256 == sha256) return part.bytes;
    }
    return NotFound("no such part");
  }
  absl::Status ReadPart(std::string_view sha256, uint64_t offset, std::span<uint8_t> out) override {
    for (const model::Part& part : parts_.manifest->parts) {
      if (part.sha256 == sha256) return model::ReadPart(*parts_.file, part, offset, out);
    }
    return NotFound("no such part");
  }

  std::optional<net::LinkId> Link(const std::string& name) {
    MutexLock lock(&mu_);
    const auto it = links_.find(name);
    if (it == links_.end() || gone_.count(it->second) != 0) return std::nullopt;
    return it->second;
  }
  net::WorkerHello Hello(const std::string& name) {
    MutexLock lock(&mu_);
    return hellos_[name];
  }
  std::optional<net::StageReady> Ready(net::LinkId link, uint64_t epoch) {
    MutexLock lock(&mu_);
    const auto it = ready_.find(link);
    if (it == ready_.end() || it->second.epoch != Epoch(epoch)) return std::nullopt;
    return it->second;
  }
  std::optional<absl::Status> Gone(net::LinkId link) {
    MutexLock lock(&mu_);
    const auto it = gone_.find(link);
    return it == gone_.end() ? std::nullopt : std::optional(it->second);
  }
  std::vector<net::StageFailed> failed() {
    MutexLock lock(&mu_);
    return failed_;
  }
  TimeNs gone_at() {
    MutexLock lock(&mu_);
    return gone_at_;
  }
  int joins() {
    MutexLock lock(&mu_);
    return joins_;
  }
  int beats() {
    MutexLock lock(&mu_);
    return beats_;
  }
  int leaving() {
    MutexLock lock(&mu_);
    return leaving_;
  }
  size_t results_at_leaving() {
    MutexLock lock(&mu_);
    return results_at_leaving_;
  }
  void SetWelcome(bool welcome) {
    MutexLock lock(&mu_);
    welcome_ = welcome;
  }
  net::CoordinatorServer* server() { return server_.get(); }
  Results& results() { return results_; }

 private:
  const Parts parts_;
  Results results_;
  Mutex mu_;
  std::map<std::string, net::WorkerHello> hellos_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, net::LinkId> links_ ABSL_GUARDED_BY(mu_);
  std::map<net::LinkId, net::StageReady> ready_ ABSL_GUARDED_BY(mu_);
  std::map<net::LinkId, absl::Status> gone_ ABSL_GUARDED_BY(mu_);
  std::vector<net::StageFailed> failed_ ABSL_GUARDED_BY(mu_);
  TimeNs gone_at_ ABSL_GUARDED_BY(mu_) = 0;
  int joins_ ABSL_GUARDED_BY(mu_) = 0;
  int beats_ ABSL_GUARDED_BY(mu_) = 0;
  int leaving_ ABSL_GUARDED_BY(mu_) = 0;
  size_t results_at_leaving_ ABSL_GUARDED_BY(mu_) = 0;
  int progress_ ABSL_GUARDED_BY(mu_) = 0;
  bool welcome_ ABSL_GUARDED_BY(mu_) = true;
  std::unique_ptr<net::CoordinatorServer> server_;
};

}  // namespace lanyard::worker::testing
