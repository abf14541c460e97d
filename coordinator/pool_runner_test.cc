// The runner with its thread, callers in theirs, and a pool in this process in place of the
// network: what TSan looks at.
#include "coordinator/pool_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <deque>
#include <filesystem>
#include <future>

#include "base/field_error.h"
#include "base/version.h"

namespace lanyard::coordinator {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kLetters = 26;  // tokens 3 .. 28 are "a" .. "z"

// The answer to a prompt of n tokens is a function of positions alone: letter (pos % 26) follows
// position pos.
int32_t TokenAt(uint32_t pos) { return 3 + static_cast<int32_t>(pos % kLetters); }

// Does what it is told in a thread of its own, as gRPC's callbacks come.
class Thread {
 public:
  Thread() : thread_([this] { Loop(); }) {}
  ~Thread() {
    Do(nullptr);
    thread_.join();
  }
  void Do(std::function<void()> what) {
    MutexLock lock(&mu_);
    queue_.push_back(std::move(what));
    cv_.NotifyOne();
  }

 private:
  void Loop() {
    while (true) {
      std::function<void()> what;
      {
        MutexLock lock(&mu_);
        while (queue_.empty()) cv_.Wait(&mu_);
        what = std::move(queue_.front());
        queue_.pop_front();
      }
      if (what == nullptr) return;
      what();
    }
  }

  Mutex mu_;
  CondVar cv_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

// One worker "w1" with the whole model, behind the coordinator's own interfaces.
class InProcessPool : public net::CoordinatorServer {
 public:
  explicit InProcessPool(net::CoordinatorEvents* events) : events_(events) {}

  void Join() {
    thread_.Do([this] {
      net::WorkerHello hello;
      hello.name = "w1";
      hello.version = kVersion;
      hello.protocol = kProtocolVersion;
      hello.stage_address = "here:1";
      hello.memory_bytes = uint64_t{1} << 30;
      hello.base_bytes = 1 << 20;
      link_ = net::LinkId(link_.value + 1);
      events_->OnWorkerEvent(link_, hello);
    });
  }
  void Beat() {
    thread_.Do([this] { events_->OnWorkerEvent(link_, net::Heartbeat{1 << 20, 0.5, 1}); });
  }
  void Die() {
    thread_.Do([this] { events_->OnWorkerGone(link_, Unavailable("connection reset")); });
  }
  void SetMute(bool mute) { mute_ = mute; }
  void Run(stage::StepFrame frame) {
    if (mute_) return;
    thread_.Do([this, frame = std::move(frame)] {
      stage::StepResult result;
      result.plan = frame.plan;
      result.epoch = frame.epoch;
      result.step = frame.batch.step;
      result.frame = frame.batch.frame;
      result.worker = "w1";
      for (const stage::SeqRun& run : frame.batch.runs) {
        for (const auto& output : run.outputs) {
          stage::TokenOut& out = result.tokens.emplace_back();
          out.seq = run.seq;
          out.pos = run.pos + output.row;
          out.token = TokenAt(out.pos);
        }
      }
      events_->OnResult(std::move(result));
    });
  }

  std::string address() const override { return "here:0"; }
  void Welcome(net::LinkId) override {}
  void Refuse(net::LinkId, const absl::Status&) override {}
  void Assign(net::LinkId link, net::Assignment assignment) override {
    thread_.Do([this, link, spec = assignment.spec] {
      net::StageReady ready;
      ready.plan = spec.plan;
      ready.epoch = spec.epoch;
      events_->OnWorkerEvent(link, ready);
    });
  }
  void Release(net::LinkId, PlanId) override {}
  void Close(net::LinkId) override {}
  void Diagnose(net::LinkId link, const net::DiagnoseRequest& request) override {
    thread_.Do([this, link, id = request.id] {
      net::Diagnosis diagnosis;
      diagnosis.id = id;
      diagnosis.available_bytes = 12345;
      events_->OnWorkerEvent(link, diagnosis);
    });
  }
  void CutOff(const std::string&, const std::vector<std::string>&) override {}

 private:
  net::CoordinatorEvents* const events_;
  std::atomic<bool> mute_{false};
  net::LinkId link_;
  Thread thread_;
};

class InProcessStage : public net::RemoteStage {
 public:
  explicit InProcessStage(InProcessPool* pool) : pool_(pool) {}
  absl::Status Send(stage::StepFrame frame) override {
    pool_->Run(std::move(frame));
    return absl::OkStatus();
  }
  bool ready() const override { return true; }
  absl::Status WaitReady(int) override { return absl::OkStatus(); }
  absl::StatusOr<int64_t> PingNs(std::span<const uint8_t>, int) override { return 1; }

 private:
  InProcessPool* const pool_;
};

class Sink : public TokenSink {
 public:
  void OnText(std::string text, std::vector<TokenLogprob>) override {
    MutexLock lock(&mu_);
    EXPECT_FALSE(ended_);
    text_ += text;
    cv_.NotifyAll();
  }
  void OnDone(FinishReason reason, Usage usage) override { End(absl::OkStatus(), reason, usage); }
  void OnError(const absl::Status& status, Usage usage) override {
    End(status, FinishReason::kStop, usage);
  }

  // The text, or the error.
  absl::StatusOr<std::string> Wait() {
    MutexLock lock(&mu_);
    while (!ended_) {
      if (!cv_.WaitFor(&mu_, std::chrono::seconds(20)))
        return absl::DeadlineExceededError("the answer hangs");
    }
    if (!status_.ok()) return status_;
    return text_;
  }
  void WaitForText() {
    MutexLock lock(&mu_);
    while (text_.empty() && cv_.WaitFor(&mu_, std::chrono::seconds(20))) {
    }
  }
  FinishReason reason() {
    MutexLock lock(&mu_);
    return reason_;
  }
  Usage usage() {
    MutexLock lock(&mu_);
    return usage_;
  }

 private:
  void End(const absl::Status& status, FinishReason reason, Usage usage) {
    MutexLock lock(&mu_);
    EXPECT_FALSE(ended_);
    ended_ = true;
    status_ = status;
    reason_ = reason;
    usage_ = usage;
    cv_.NotifyAll();
  }

  Mutex mu_;
  CondVar cv_;
  std::string text_ ABSL_GUARDED_BY(mu_);
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  FinishReason reason_ ABSL_GUARDED_BY(mu_) = FinishReason::kStop;
  Usage usage_ ABSL_GUARDED_BY(mu_);
};

std::shared_ptr<ServedModel> SmallModel() {
  auto model = std::make_shared<ServedModel>();
  model->id = "letters";
  auto manifest = std::make_shared<model::Manifest>();
  model::ModelShape& shape = manifest->shape;
  shape.name = "letters";
  shape.n_layers = 2;
  shape.d_model = 64;
  shape.n_heads = shape.n_kv_heads = 1;
  shape.head_dim = 64;
  shape.d_ff = 64;
  shape.n_vocab = 3 + 256 + kLetters;
  shape.context_length = 512;
  shape.n_rot = 64;
  shape.groups = {{model::StateKind::kFull, 0, {0, 1}}};
  shape.tied_output = true;
  for (const char* name : {"embed", "layer.0", "layer.1", "norm"}) {
    model::Part part;
    part.name = name;
    part.bytes = 1024;
    part.tensors.push_back({absl::StrCat(name, ".weight"), TensorType::kF32, {256}, 1024});
    manifest->parts.push_back(part);
  }
  model->manifest = manifest;
  std::deque<std::string> texts = {"<unk>", "<s>", "</s>"};
  model::VocabData data;
  data.types = {2, 3, 3};
  for (char c = 'a'; c <= 'z'; ++c) {
    texts.push_back(std::string(1, c));
    data.types.push_back(1);
  }
  for (int i = 0; i < 256; ++i) {
    texts.push_back(absl::StrFormat("<0x%02X>", i));
    data.types.push_back(6);
  }
  data.model = "llama";
  data.tokens.assign(texts.begin(), texts.end());
  data.scores.assign(texts.size(), -1.F);
  data.bos = 1;
  data.eos = 2;
  data.unk = 0;
  auto tokenizer = model::Tokenizer::Make(data);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  model->tokenizer = *std::move(tokenizer);
  model->eos_ids = {2};
  return model;
}

class PoolRunnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    state_ = ::testing::TempDir() + absl::StrCat("runner-", ::getpid());
    PoolRunnerOptions& options = options_;
    options.state_directory = state_;
    options.expect_workers = 1;
    options.on_shutdown = [this] { shutdown_ = true; };
    options.serve =
        [this](const net::ServerOptions&, net::CoordinatorEvents* events,
               net::PartProvider*) -> absl::StatusOr<std::unique_ptr<net::CoordinatorServer>> {
      auto pool = std::make_unique<InProcessPool>(events);
      pool_ = pool.get();
      return pool;
    };
    options.connect = [this](const net::RemoteStageOptions&) {
      return std::make_unique<InProcessStage>(pool_);
    };
    StartRunner();
    heart_ = std::jthread([this](std::stop_token stop) {
      while (!stop.stop_requested()) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        if (joined_) pool_->Beat();
      }
    });
  }
  void StartRunner() {
    auto runner = PoolRunner::Start(options_, SmallModel());
    ASSERT_TRUE(runner.ok()) << runner.status();
    runner_ = *std::move(runner);
  }
  void TearDown() override {
    heart_ = {};
    runner_.reset();
    std::filesystem::remove_all(state_);
  }

  void Join() {
    pool_->Join();
    joined_ = true;
    WaitReady();
  }
  void WaitReady() {
    for (int i = 0; i < 2000 && !runner_->Status().ready; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ASSERT_TRUE(runner_->Status().ready) << runner_->Status().why;
  }
  static GenerateRequest Request(uint32_t prompt, uint32_t max_tokens) {
    GenerateRequest request;
    request.prompt = std::vector<int32_t>(prompt, 5);
    request.max_tokens = max_tokens;
    request.request_id = "r1";
    return request;
  }
  static std::string Expected(uint32_t prompt, uint32_t n) {
    std::string text;
    for (uint32_t i = 0; i < n; ++i) text += static_cast<char>('a' + (prompt - 1 + i) % kLetters);
    return text;
  }

  PoolRunnerOptions options_;
  std::string state_;
  std::atomic<bool> shutdown_{false};
  std::atomic<bool> joined_{false};
  InProcessPool* pool_ = nullptr;
  std::unique_ptr<PoolRunner> runner_;
  std::jthread heart_;
};

TEST_F(PoolRunnerTest, RefusesBeforeItIsReadyAndSaysWhy) {
  auto sink = std::make_shared<Sink>();
  const auto started = runner_->Start(Request(4, 3), sink);
  ASSERT_TRUE(absl::IsUnavailable(started.status()));
  EXPECT_THAT(std::string(started.status().message()), HasSubstr("no worker has joined yet"));
  EXPECT_EQ(runner_->Status().state, "waiting for workers");
}

TEST_F(PoolRunnerTest, AnswersAndCounts) {
  Join();
  auto sink = std::make_shared<Sink>();
  ASSERT_TRUE(runner_->Start(Request(7, 30), sink).ok());
  const auto text = sink->Wait();
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, Expected(7, 30));
  EXPECT_EQ(sink->reason(), FinishReason::kLength);
  EXPECT_EQ(sink->usage().prompt_tokens, 7u);
  EXPECT_EQ(sink->usage().completion_tokens, 30u);
  const PoolStatus status = runner_->Status();
  EXPECT_EQ(status.model, "letters");
  EXPECT_EQ(status.kv_blocks_used, 0u);
  const std::string metrics = runner_->MetricsText();
  EXPECT_THAT(metrics,
              HasSubstr("vllm:generation_tokens_total{engine=\"0\",model_name=\"letters\"} 30\n"));
  EXPECT_THAT(metrics, HasSubstr("finished_reason=\"length\"} 1\n"));
  EXPECT_THAT(metrics,
              HasSubstr("lanyard_node_up{engine=\"0\",model_name=\"letters\",node=\"w1\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("lanyard_pool_loop_lag_seconds_bucket{"));
  runner_->RequestShutdown();
  EXPECT_TRUE(shutdown_);
}

TEST_F(PoolRunnerTest, BadRequestsAreTyped) {
  Join();
  const auto code = [&](GenerateRequest request) {
    return runner_->Start(request, std::make_shared<Sink>()).status().code();
  };
  const uint32_t context = runner_->Status().context;
  EXPECT_EQ(code(Request(context, 1)), absl::StatusCode::kOutOfRange);
  const auto over = runner_->Start(Request(context, 1), std::make_shared<Sink>()).status();
  EXPECT_THAT(
      std::string(over.message()),
      HasSubstr("maximum context length is 512 tokens, and at least 1 of them is needed for "
                "the answer. However, your prompt has 512 tokens, which is 1 token too "));
  EXPECT_EQ(FieldPayload(over, kFieldParamKey), "prompt");
  GenerateRequest request = Request(4, 1);
  request.model = "other";
  EXPECT_EQ(code(request), absl::StatusCode::kNotFound);
  request = Request(4, 0);
  EXPECT_EQ(code(request), absl::StatusCode::kInvalidArgument);
  request.prompt = std::vector<int32_t>{1, 100000};
  request.max_tokens = 1;
  EXPECT_EQ(code(request), absl::StatusCode::kInvalidArgument);
  request.prompt = std::vector<int32_t>();
  EXPECT_EQ(code(request), absl::StatusCode::kInvalidArgument);
  request.prompt = std::vector<ChatMessage>{{"user", "hi", ""}};
  EXPECT_EQ(code(request), absl::StatusCode::kInvalidArgument);  // no chat template
}

// The runner counts what waits against the limit that its scheduler has, whatever that is.
TEST_F(PoolRunnerTest, TheQueueIsAsLongAsTheOptionSays) {
  for (const uint32_t most : {1U, 3U}) {
    runner_.reset();
    joined_ = false;
    options_.scheduler.max_running = 1;
    options_.scheduler.max_waiting = most;
    StartRunner();
    Join();
    pool_->SetMute(true);  // the first never ends, so the others wait
    const auto start = [&] {
      return runner_->Start(Request(4, 400), std::make_shared<Sink>()).status();
    };
    ASSERT_TRUE(start().ok());
    const auto waiting = [&] {
      const auto requests = runner_->Status().requests;
      return std::count_if(requests.begin(), requests.end(),
                           [](const RequestStatus& r) { return r.state == "queued"; });
    };
    for (int i = 0; i < 2000 && (runner_->Status().requests.empty() || waiting() > 0); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    for (uint32_t i = 0; i < most; ++i) EXPECT_TRUE(start().ok()) << i << " of " << most;
    const absl::Status refused = start();
    EXPECT_TRUE(absl::IsResourceExhausted(refused)) << most;
    EXPECT_THAT(std::string(refused.message()),
                HasSubstr(absl::StrCat("the queue is full: ", most)));
  }
}

TEST_F(PoolRunnerTest, AStopStringEndsTheSequence) {
  Join();
  GenerateRequest request = Request(1, 400);
  request.stop = {"de"};
  auto sink = std::make_shared<Sink>();
  ASSERT_TRUE(runner_->Start(request, sink).ok());
  EXPECT_EQ(*sink->Wait(), "abc");
  EXPECT_EQ(sink->reason(), FinishReason::kStop);
  for (int i = 0; i < 500 && runner_->Status().kv_blocks_used != 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_EQ(runner_->Status().kv_blocks_used, 0u);
}

TEST_F(PoolRunnerTest, ManyCallersAtOnceWithCancels) {
  Join();
  std::vector<std::jthread> callers;
  std::atomic<int> right{0};
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&, c] {
      for (uint32_t i = 0; i < 25; ++i) {
        auto sink = std::make_shared<Sink>();
        const uint32_t prompt = 1 + (i * 37 + static_cast<uint32_t>(c) * 11) % 200;
        const auto id = runner_->Start(Request(prompt, 20), sink);
        ASSERT_TRUE(id.ok()) << id.status();
        if (i % 5 == 4) {
          runner_->Cancel(*id);
          continue;
        }
        const auto text = sink->Wait();
        ASSERT_TRUE(text.ok()) << text.status();
        if (*text == Expected(prompt, 20)) ++right;
        if (i % 7 == 0) runner_->MetricsText();
      }
    });
  }
  callers.clear();
  EXPECT_EQ(right, 80);
  for (int i = 0; i < 500 && !runner_->Status().requests.empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_TRUE(runner_->Status().requests.empty());
  EXPECT_EQ(runner_->Status().kv_blocks_used, 0u);
}

TEST_F(PoolRunnerTest, AnAnswerGoesOnWhenItsLostWorkerComesBack) {
  Join();
  auto sink = std::make_shared<Sink>();
  ASSERT_TRUE(runner_->Start(Request(4, 300), sink).ok());
  sink->WaitForText();
  pool_->SetMute(true);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const uint64_t epoch = runner_->Status().epoch;
  joined_ = false;
  pool_->Die();
  while (runner_->Status().ready) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  // What comes meanwhile waits too.
  auto second = std::make_shared<Sink>();
  ASSERT_TRUE(runner_->Start(Request(5, 20), second).ok());
  pool_->SetMute(false);
  Join();
  EXPECT_EQ(*sink->Wait(), Expected(4, 300));
  EXPECT_EQ(*second->Wait(), Expected(5, 20));
  EXPECT_GT(runner_->Status().epoch, epoch);
}

TEST_F(PoolRunnerTest, AsksItsMachinesHowTheyAre) {
  Join();
  const auto ask = [&](const std::string& node) {
    auto answer = std::make_shared<std::promise<absl::StatusOr<PoolDiagnosis>>>();
    auto future = answer->get_future();
    runner_->Diagnose(
        node, [answer](absl::StatusOr<PoolDiagnosis> d) { answer->set_value(std::move(d)); });
    return future.get();
  };
  const auto all = ask("");
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(all->nodes.size(), 1u);
  EXPECT_EQ(all->nodes[0].name, "w1");
  EXPECT_EQ(all->nodes[0].error, "");
  EXPECT_EQ(all->nodes[0].available_bytes, 12345u);
  EXPECT_TRUE(absl::IsNotFound(ask("w9").status()));
}

// The front that shows the answers to clients is still there after it.
TEST_F(PoolRunnerTest, EndAnswersEndsWhatRunsAndWhatWaits) {
  options_.scheduler.max_running = 1;
  joined_ = false;
  runner_.reset();
  StartRunner();
  Join();
  pool_->SetMute(true);
  std::vector<std::shared_ptr<Sink>> sinks;
  for (int i = 0; i < 3; ++i) {
    sinks.push_back(std::make_shared<Sink>());
    ASSERT_TRUE(runner_->Start(Request(4, 300), sinks.back()).ok());
  }
  runner_->EndAnswers();
  for (const auto& sink : sinks) {
    const absl::Status ended = sink->Wait().status();
    EXPECT_TRUE(absl::IsUnavailable(ended)) << ended;
    EXPECT_THAT(std::string(ended.message()), HasSubstr("the coordinator is stopping"));
  }
  EXPECT_TRUE(
      absl::IsUnavailable(runner_->Start(Request(4, 1), std::make_shared<Sink>()).status()));
  EXPECT_TRUE(absl::IsUnavailable(runner_->SetDrained("w1", true)));
  EXPECT_TRUE(runner_->Status().requests.empty());
  runner_->EndAnswers();
}

TEST_F(PoolRunnerTest, StoppingEndsWhatIsOpen) {
  Join();
  pool_->SetMute(true);
  auto sink = std::make_shared<Sink>();
  ASSERT_TRUE(runner_->Start(Request(4, 300), sink).ok());
  heart_ = {};
  runner_.reset();
  EXPECT_TRUE(absl::IsUnavailable(sink->Wait().status()));
}

}  // namespace
}  // namespace lanyard::coordinator
