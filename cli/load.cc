// `lanyard load`: many users at once over HTTP, streamed, and the latencies that they saw.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>
#include <vector>

#include "cli/cli.h"
#include "cli/connection.h"
#include "cli/http_client.h"
#include "cli/interrupt.h"
#include "cli/load_stats.h"
#include "cli/pool_json.h"

namespace lanyard::cli {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

// Prompts are token ids, so that their length is exact; these ids exist in every vocabulary of
// practice and are plain text.
constexpr int kFirstToken = 100;
constexpr int kLastToken = 355;

struct LoadOptions {
  HttpClient::Options http;
  std::string model;
  uint32_t users = 1;
  uint32_t requests = 1;
  uint32_t prompt_tokens = 32;
  uint32_t generate = 32;
  bool json = false;
};

// `run` differs from run to run: a pool that has read a prompt before answers it sooner.
std::string RequestBody(const LoadOptions& o, uint32_t run, uint32_t index) {
  std::seed_seq seed{run, index};
  std::mt19937 random(seed);
  json ids = json::array();
  for (uint32_t i = 0; i < o.prompt_tokens; ++i) {
    ids.push_back(kFirstToken + static_cast<int>(random() % (kLastToken - kFirstToken + 1)));
  }
  json body = {{"prompt", std::move(ids)}, {"max_tokens", o.generate},
               {"ignore_eos", true},       {"temperature", 0},
               {"stream", true},           {"stream_options", {{"include_usage", true}}}};
  if (!o.model.empty()) body["model"] = o.model;
  return OneLine(body);
}

void OneRequest(const HttpClient& client, const std::string& body, LoadStats* stats) {
  ++stats->requests;
  bool done = false;
  absl::Status failed;
  const auto ms = [](Clock::duration d) {
    return std::chrono::duration<double, std::milli>(d).count();
  };
  const auto start = Clock::now();
  auto last = start;
  bool any = false;
  const absl::Status status = client.Stream("/v1/completions", body, [&](std::string_view data) {
    const auto now = Clock::now();
    if (data == "[DONE]") {
      done = true;
      return false;
    }
    const json chunk = json::parse(data.begin(), data.end(), nullptr, /*allow_exceptions=*/false);
    if (!chunk.is_object() || chunk.contains("error")) {
      failed = Internal("the stream broke off: ", std::string(data.substr(0, 300)));
      return false;
    }
    if (const auto usage = chunk.find("usage"); usage != chunk.end() && usage->is_object()) {
      stats->prompt_tokens += usage->value("prompt_tokens", 0u);
      stats->completion_tokens += usage->value("completion_tokens", 0u);
    }
    const json text = chunk.value(json::json_pointer("/choices/0/text"), json());
    if (text.is_string() && !text.get_ref<const std::string&>().empty()) {
      (any ? stats->between_ms : stats->ttft_ms).push_back(ms(now - last));
      any = true;
      last = now;
    }
    return true;
  });
  if (failed.ok()) failed = status;
  if (failed.ok() && !done) failed = Internal("the stream ended without [DONE]");
  if (failed.ok()) return;
  ++stats->errors;
  if (stats->first_error.empty()) stats->first_error = Str(failed.message());
}

int Load(LoadOptions o) {
  CatchInterrupts();
  o.http.stop = &Interrupted();
  const auto client = HttpClient::Create(o.http);
  if (!client.ok()) return Fail(client.status());
  if (const auto alive = client->Get("/health"); !alive.ok()) return Fail(alive.status());
  std::atomic<uint32_t> next{0};
  const uint32_t run = std::random_device{}();
  const uint32_t users = std::min(o.users, o.requests);
  std::vector<LoadStats> stats(users);
  std::vector<std::thread> threads;
  const auto start = Clock::now();
  for (uint32_t u = 0; u < users; ++u) {
    threads.emplace_back([&, u] {
      for (uint32_t i = next++; i < o.requests && !Interrupted().load(); i = next++) {
        OneRequest(*client, RequestBody(o, run, i), &stats[u]);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  LoadStats total;
  total.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  for (const LoadStats& s : stats) total.Add(s);
  // Without a single answer there are no figures, only the error.
  if (o.json) std::printf("%s\n", total.ToJson().c_str());
  if (!o.json && total.errors < total.requests) std::fputs(total.ToText().c_str(), stdout);
  if (Interrupted().load()) return kInterrupted;
  if (total.errors == 0) return kOk;
  std::fprintf(stderr, "error: %llu of %llu requests failed, the first with: %s\n",
               static_cast<unsigned long long>(total.errors),
               static_cast<unsigned long long>(total.requests), total.first_error.c_str());
  return kFailed;
}

}  // namespace

void RegisterLoad(CLI::App& app) {
  const auto o = std::make_shared<LoadOptions>();
  CLI::App* load =
      AddCommand(app, "load", "Puts load on a pool over HTTP and measures what its users see",
                 "  lanyard load --users 8 --requests 64 "
                 "--prompt-tokens 128 --generate 64 --json\n"
                 "      "
                 "{\"requests\",\"errors\",\"tokens_per_s\",\"ttft_ms\":{\"p50\",\"p99\"},"
                 "\"between_ms\":{\"p50\",\"p99\"},...}\n"
                 "      tokens_per_s: generated tokens of all users; ttft_ms: to the first text; "
                 "between_ms: from text to text",
                 [o] { return Load(*o); });
  AddConnectionFlags(load, &o->http);
  load->add_option("--model", o->model, "Id of a model of the pool (default: its own)");
  load->add_option("--users", o->users, "Requests at a time")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  load->add_option("--requests", o->requests, "Requests in all")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  load->add_option("--prompt-tokens", o->prompt_tokens,
                   "Tokens of each prompt; every prompt is another")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  load->add_option("--generate", o->generate, "Tokens of each answer")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  load->add_flag("--json", o->json, "One line of JSON");
}

}  // namespace lanyard::cli
