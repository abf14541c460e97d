// A pool machine over two workers' worth of plan, for tests: they say what happens, and see what
// the machine asks for.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/version.h"
#include "coordinator/pool.h"

namespace lanyard::coordinator {

class PoolTest : public ::testing::Test {
 protected:
  PoolTest() {
    auto manifest = std::make_shared<model::Manifest>();
    manifest->shape.n_layers = 4;
    manifest->shape.n_vocab = 100;
    manifest->shape.groups = {{model::StateKind::kFull, 0, {0, 1, 2, 3}}};
    PoolOptions& options = options_;
    options.deployment.rollout.manifest = manifest;
    options.deployment.rollout.context = 256;
    options.deployment.rollout.expect_workers = 2;
    make_plan_ = [](const sharding::PlanRequest& request) {
      sharding::Plan plan;
      plan.context = 256;
      plan.group_blocks = {16};
      plan.fits = request.machines.size() == 2;
      plan.why = {"two machines are needed"};
      AddStages(request, static_cast<uint32_t>(request.machines.size()), &plan);
      return absl::StatusOr<sharding::Plan>(plan);
    };
    pool_ = std::make_unique<PoolMachine>(options);
  }

  // The model's four layers over the first n machines, as evenly as it goes.
  static void AddStages(const sharding::PlanRequest& request, uint32_t n, sharding::Plan* plan) {
    for (uint32_t i = 0; i < n; ++i) {
      plan->stages.push_back({.machine = request.machines[i].name,
                              .device = "cpu",
                              .layers = {4 * i / n, 4 * (i + 1) / n},
                              .embeds = i == 0,
                              .samples = i + 1 == n});
    }
  }

  void Join(uint64_t link, const std::string& name) {
    net::WorkerHello hello;
    hello.name = name;
    hello.version = kVersion;
    hello.protocol = protocol_;
    hello.stage_address = name + ":7";
    hello.memory_bytes = 1 << 30;
    pool_->OnWorkerEvent(net::LinkId(link), hello, now_);
    Plan();
  }
  void Ready(uint64_t link) {
    net::StageReady ready;
    ready.plan = pool_->rollout().plan_id();
    ready.epoch = pool_->rollout().epoch();
    pool_->OnWorkerEvent(net::LinkId(link), ready, now_);
    Plan();
  }
  void Serve() {
    Join(1, "w1");
    Join(2, "w2");
    Ready(1);
    Ready(2);
    ASSERT_TRUE(pool_->serving());
  }
  void Beat(std::initializer_list<uint64_t> links) {
    for (const uint64_t link : links) {
      pool_->OnWorkerEvent(net::LinkId(link), net::Heartbeat{}, now_);
    }
  }
  // Plans are made at once.
  void Plan() {
    while (true) {
      std::vector<PoolAction::Any> actions = pool_->TakeActions();
      std::vector<PoolAction::MakePlan> plans;
      for (PoolAction::Any& action : actions) {
        if (auto* plan = std::get_if<PoolAction::MakePlan>(&action)) {
          plans.push_back(std::move(*plan));
        } else {
          taken_.push_back(std::move(action));
        }
      }
      if (plans.empty()) return;
      for (const auto& plan : plans)
        pool_->OnPlanned(plan.deployment, plan.job.id, make_plan_(plan.job.request), now_);
    }
  }
  void Tick() {
    pool_->OnTick(now_);
    Plan();
  }
  // The answer to a drain.
  absl::Status Drain(const std::string& worker) {
    pool_->Drain(worker, now_);
    Plan();
    for (const PoolAction::Any& action : taken_) {
      const auto* answer = std::get_if<PoolAction::DrainAnswer>(&action);
      if (answer != nullptr && answer->worker == worker) {
        const absl::Status status = answer->status;
        std::erase_if(taken_, [](const auto& a) {
          return std::holds_alternative<PoolAction::DrainAnswer>(a);
        });
        return status;
      }
    }
    return Internal("no answer");
  }
  std::vector<PoolAction::Any> TakeAll() {
    Plan();
    return std::exchange(taken_, {});
  }
  template <typename A>
  std::vector<A> Take() {
    std::vector<A> out;
    for (PoolAction::Any& action : TakeAll()) {
      if (auto* a = std::get_if<A>(&action)) out.push_back(std::move(*a));
    }
    return out;
  }
  void SubmitOne() {
    SequenceSpec spec;
    spec.id = SeqId(1);
    spec.prompt = {1, 2, 3};
    spec.max_tokens = 50;
    ASSERT_TRUE(pool_->Submit(spec, now_).ok());
    pool_->Pump(now_);
  }

  PoolOptions options_;
  std::function<absl::StatusOr<sharding::Plan>(const sharding::PlanRequest&)> make_plan_;
  std::vector<PoolAction::Any> taken_;
  std::unique_ptr<PoolMachine> pool_;
  TimeNs now_ = kSecond;
  uint32_t protocol_ = kProtocolVersion;
};

}  // namespace lanyard::coordinator
