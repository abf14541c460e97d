// A Generator without a model, for tests of web/ and of its clients. One thread plays the pool:
// every tick each open sequence gets one "token", a word that depends on the prompt, the seed (at
// temperature above 0) and the position.
//
// A prompt's text can ask for errors: "TOO LONG" (OutOfRange), "QUEUE FULL", "NOT READY", "DIE"
// (Unavailable after 3 tokens), "STALL" (never any text), "FLOOD" (64 KiB a token).
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/field_error.h"
#include "base/mutex.h"
#include "base/status.h"
#include "coordinator/serve/generator.h"

namespace lanyard::web {

class FakeGenerator : public coordinator::Generator {
 public:
  static constexpr uint32_t kContext = 4096;
  static constexpr uint32_t kNaturalTokens = 12;  // an answer ends by itself after this many

  explicit FakeGenerator(std::chrono::microseconds tick = std::chrono::microseconds(200))
      : tick_(tick), thread_([this] { Loop(); }) {}
  ~FakeGenerator() override {
    {
      MutexLock lock(&mu_);
      stop_ = true;
    }
    thread_.join();
  }

  absl::StatusOr<SeqId> Start(const coordinator::GenerateRequest& request,
                              std::shared_ptr<coordinator::TokenSink> sink) override {
    Sequence seq;
    seq.text = PromptText(request);
    if (!request.model.empty() && request.model != kModel) {
      return NotFound("The model '", Shortened(request.model),
                      "' does not exist; this pool serves '", kModel, "'.");
    }
    if (seq.text.find("TOO LONG") != std::string::npos) {
      return absl::OutOfRangeError(absl::StrCat("This model's maximum context length is ", kContext,
                                                " tokens. However, your prompt has 5000 tokens."));
    }
    if (seq.text.find("QUEUE FULL") != std::string::npos)
      return ResourceExhausted("the queue is full (256 requests)");
    if (seq.text.find("NOT READY") != std::string::npos)
      return Unavailable("the pool is loading the model");
    seq.request = request;
    seq.sink = std::move(sink);
    seq.prompt_tokens = static_cast<uint32_t>(seq.text.size() / 4 + 1);
    MutexLock lock(&mu_);
    last_request_ = request;
    const SeqId id(++next_id_);
    sequences_.emplace(id.value, std::move(seq));
    return id;
  }

  void Cancel(SeqId id) override {
    MutexLock lock(&mu_);
    cancelled_ += sequences_.erase(id.value);
  }

  coordinator::PoolStatus Status() const override {
    MutexLock lock(&mu_);
    coordinator::PoolStatus s;
    s.ready = ready_;
    s.state = ready_ ? "ready" : "loading";
    if (!ready_) s.ready_in_s = 7;
    s.model = kModel;
    s.model_digest = Digest();
    s.model_bytes = 1000;
    s.created_unix_s = 1700000000;
    s.context = kContext;
    s.numerics = kNumerics;
    s.epoch = 1;
    for (int i = 0; i < 2; ++i) {
      coordinator::NodeStatus n;
      n.name = i == 0 ? "w1" : "w2";
      n.state = ready_ ? "ready" : "loading";
      n.load_done_bytes = ready_ ? 500 : 250;
      n.load_total_bytes = 500;
      n.has_stage = true;
      n.layers = {.begin = i == 0 ? 0u : 10u, .end = i == 0 ? 10u : 12u};
      n.embeds = i == 0;
      n.samples = i == 1;
      n.gguf_bytes = 500;
      s.nodes.push_back(n);
    }
    for (const auto& [id, seq] : sequences_) {
      coordinator::RequestStatus r;
      r.request_id = seq.request.request_id;
      r.state = "decode";
      r.prompt_tokens = r.prefilled_tokens = seq.prompt_tokens;
      r.completion_tokens = seq.made;
      s.requests.push_back(r);
    }
    return s;
  }

  coordinator::ModelIdentity Model() const override { return {kModel, Digest(), kNumerics}; }

  std::string MetricsText() const override {
    MutexLock lock(&mu_);
    return absl::StrCat("# TYPE fake_cancelled_total counter\nfake_cancelled_total ", cancelled_,
                        "\n# TYPE fake_open gauge\nfake_open ", sequences_.size(), "\n");
  }
  void RequestShutdown() override {
    MutexLock lock(&mu_);
    shutdown_requested_ = true;
  }

  void set_ready(bool ready) {
    MutexLock lock(&mu_);
    ready_ = ready;
  }
  uint64_t cancelled() const {
    MutexLock lock(&mu_);
    return cancelled_;
  }
  size_t open() const {
    MutexLock lock(&mu_);
    return sequences_.size();
  }
  bool shutdown_requested() const {
    MutexLock lock(&mu_);
    return shutdown_requested_;
  }
  coordinator::GenerateRequest last_request() const {
    MutexLock lock(&mu_);
    return last_request_;
  }

  static constexpr char kModel[] = "fake/model:1";
  static constexpr char kNumerics[] = "n1-kv.f16-wire.f16";
  static std::string Digest() { return std::string(64, 'a'); }

 private:
  struct Sequence {
    std::string text;
    coordinator::GenerateRequest request;
    std::shared_ptr<coordinator::TokenSink> sink;
    uint32_t prompt_tokens = 0;
    uint32_t made = 0;
    std::string answer;
  };

  static std::string PromptText(const coordinator::GenerateRequest& request) {
    if (const auto* text = std::get_if<std::string>(&request.prompt)) return *text;
    std::string out;
    if (const auto* ids = std::get_if<std::vector<int32_t>>(&request.prompt)) {
      for (const int32_t id : *ids) out += std::to_string(id) + " ";
      return out;
    }
    for (const auto& m : std::get<std::vector<coordinator::ChatMessage>>(request.prompt)) {
      out += m.role + ": " + m.content + "\n";
    }
    return out;
  }

  static std::string Word(const Sequence& seq) {
    static constexpr const char* kWords[] = {
        "one", "two", "tree", "\xC3\xA9t\xC3\xA9", "\xF0\x9F\x8E\x89", "sea", "sun", "end"};
    if (seq.text.find("FLOOD") != std::string::npos) return std::string(64u << 10, 'x');
    uint64_t h = seq.request.sample.temperature > 0 ? seq.request.sample.seed : 0;
    for (const char c : seq.text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
    h = (h + seq.made) * 0x9e3779b97f4a7c15ull;
    return std::string(seq.made == 0 ? "" : " ") + kWords[h >> 61];
  }

  // Makes one token; returns true when the sequence is over.
  static bool Step(Sequence& seq) {
    const coordinator::Usage usage{.prompt_tokens = seq.prompt_tokens,
                                   .completion_tokens = seq.made};
    if (seq.text.find("STALL") != std::string::npos) return false;
    if (seq.text.find("DIE") != std::string::npos && seq.made == 3) {
      seq.sink->OnError(Unavailable("worker w2 was lost"), usage);
      return true;
    }
    const bool limited = seq.request.max_tokens.has_value();
    if (limited && seq.made >= *seq.request.max_tokens) {
      seq.sink->OnDone(coordinator::FinishReason::kLength, usage);
      return true;
    }
    if (!seq.request.ignore_eos && seq.made >= kNaturalTokens &&
        seq.text.find("FLOOD") == std::string::npos) {
      seq.sink->OnDone(coordinator::FinishReason::kStop, usage);
      return true;
    }
    const std::string word = Word(seq);
    ++seq.made;
    for (const std::string& stop : seq.request.stop) {
      // Here no stop string spans two words; the real pool's tests have such ones.
      if (const size_t at = word.find(stop); at != std::string::npos) {
        seq.sink->OnText(word.substr(0, at), {});
        seq.sink->OnDone(coordinator::FinishReason::kStop, {seq.prompt_tokens, seq.made});
        return true;
      }
    }
    std::vector<coordinator::TokenLogprob> logprobs;
    if (seq.request.logprobs) {
      coordinator::TokenLogprob lp{.id = 7, .bytes = word, .logprob = -0.5f, .top = {}};
      for (uint32_t i = 0; i < seq.request.top_logprobs; ++i)
        lp.top.emplace_back(word + std::to_string(i), -0.5f - i);
      logprobs.push_back(std::move(lp));
    }
    seq.sink->OnText(word, std::move(logprobs));
    return false;
  }

  void Loop() {
    while (true) {
      {
        MutexLock lock(&mu_);
        if (stop_) return;
        for (auto it = sequences_.begin(); it != sequences_.end();) {
          it = Step(it->second) ? sequences_.erase(it) : std::next(it);
        }
      }
      std::this_thread::sleep_for(tick_);
    }
  }

  const std::chrono::microseconds tick_;
  mutable Mutex mu_;
  std::map<uint64_t, Sequence> sequences_ ABSL_GUARDED_BY(mu_);
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t cancelled_ ABSL_GUARDED_BY(mu_) = 0;
  bool ready_ ABSL_GUARDED_BY(mu_) = true;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  bool shutdown_requested_ ABSL_GUARDED_BY(mu_) = false;
  coordinator::GenerateRequest last_request_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

}  // namespace lanyard::web
