// lanyard bench: the engine alone, tokens per second of prefill and of decode.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/cli.h"
#include "cli/numerics_flags.h"
#include "engine/chain.h"
#include "engine/cuda/open_devices.h"
#include "model/gguf.h"

namespace lanyard::cli {
namespace {

struct BenchArgs {
  std::string model;
  int threads = 0;
  std::vector<uint32_t> prompt = {128, 512};
  uint32_t generate = 64;
  std::vector<uint32_t> users = {1, 8};
  uint32_t repeat = 5;
  std::string isa;
  stage::NumericsChoice numerics;
  std::string devices = "cpu";
  std::string vram;
  bool json = false;
};

struct Figure {
  std::string test;
  std::vector<double> tokens_per_s;
  double min() const { return *std::min_element(tokens_per_s.begin(), tokens_per_s.end()); }
  double max() const { return *std::max_element(tokens_per_s.begin(), tokens_per_s.end()); }
  double median() const {
    std::vector<double> sorted = tokens_per_s;
    std::sort(sorted.begin(), sorted.end());
    const size_t n = sorted.size();
    return n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
  }
};

class Bench {
 public:
  Bench(engine::Chain& chain, uint32_t n_vocab) : chain_(chain), n_vocab_(n_vocab) {}

  // Returns the seconds for a prompt of n tokens, of which the last is sampled.
  absl::StatusOr<double> Prefill(uint32_t n) {
    const SeqId seq(next_seq_++);
    const auto start = std::chrono::steady_clock::now();
    for (uint32_t at = 0; at < n;) {
      engine::Feed feed{seq, {}, {}};
      const uint32_t rows = std::min(n - at, stage::kMaxFrameRows);
      for (uint32_t i = 0; i < rows; ++i) feed.tokens.push_back(Token(at + i));
      at += rows;
      if (at == n) feed.outputs.push_back(Greedy(rows - 1));
      RETURN_IF_ERROR(chain_.Step(std::span(&feed, 1)));
    }
    const double seconds = Since(start);
    chain_.Release(seq);
    return seconds;
  }

  // Returns the seconds for n tokens of each of `users` sequences, with one token of each in a
  // step.
  absl::StatusOr<double> Decode(uint32_t n, uint32_t users) {
    std::vector<engine::Feed> feeds(users);
    for (uint32_t u = 0; u < users; ++u) feeds[u] = {SeqId(next_seq_++), {Token(u)}, {Greedy(0)}};
    const auto start = std::chrono::steady_clock::now();
    for (uint32_t i = 0; i < n; ++i) {
      ASSIGN_OR_RETURN(const auto outs, chain_.Step(feeds));
      for (uint32_t u = 0; u < users; ++u) {
        RETURN_IF_ERROR(outs[u].status);
        feeds[u].tokens = {outs[u].token};
      }
    }
    const double seconds = Since(start);
    for (const engine::Feed& feed : feeds) chain_.Release(feed.seq);
    return seconds;
  }

 private:
  static double Since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  static stage::OutputRequest Greedy(uint32_t row) {
    stage::OutputRequest out;
    out.row = row;
    out.sample.temperature = 0;
    return out;
  }
  // Tokens are spread over the vocabulary, so that embedding rows are not all in cache.
  int32_t Token(uint32_t i) const {
    return static_cast<int32_t>((i * 2654435761ull + 12345) % n_vocab_);
  }

  engine::Chain& chain_;
  const uint32_t n_vocab_;
  uint64_t next_seq_ = 1;
};

// Makes one run that does not count, then `repeat` runs that do.
template <typename Fn>
absl::StatusOr<Figure> Measure(const std::string& test, uint32_t repeat, double tokens,
                               const Fn& fn) {
  Figure figure{test, {}};
  for (uint32_t i = 0; i <= repeat; ++i) {
    ASSIGN_OR_RETURN(const double seconds, fn());
    if (i > 0) figure.tokens_per_s.push_back(tokens / seconds);
  }
  return figure;
}

absl::StatusOr<std::vector<Figure>> RunAll(const BenchArgs& args) {
  ASSIGN_OR_RETURN(const auto file, model::GgufFile::Open(args.model));
  ASSIGN_OR_RETURN(const model::ModelShape shape, model::ShapeFromGguf(*file));
  engine::ChainOptions options;
  options.numerics = args.numerics.For(shape.float_weights);
  if (!args.isa.empty()) {
    ASSIGN_OR_RETURN(options.stage.isa, ops::ParseIsa(args.isa));
  }
  ASSIGN_OR_RETURN(const engine::DeviceFlags flags, engine::ParseDevices(args.devices, args.vram));
  ASSIGN_OR_RETURN(const auto devices, engine::OpenDevices(flags));
  options.stage.devices.assign(devices.begin(), devices.end());
  options.stage.threads =
      args.threads > 0 ? args.threads : std::max(1u, std::thread::hardware_concurrency());
  options.max_context = std::max(args.generate + 1, 1u);
  for (const uint32_t n : args.prompt) options.max_context = std::max(options.max_context, n);
  for (const uint32_t n : args.users) options.sequences = std::max(options.sequences, n);
  ASSIGN_OR_RETURN(const auto chain, engine::Chain::Create(shape, *file, options));
  Bench bench(*chain, shape.n_vocab);
  std::vector<Figure> out;
  for (const uint32_t n : args.prompt) {
    ASSIGN_OR_RETURN(
        Figure f, Measure(absl::StrCat("pp", n), args.repeat, n, [&] { return bench.Prefill(n); }));
    out.push_back(std::move(f));
  }
  if (args.generate == 0) return out;
  for (const uint32_t n : args.users) {
    std::string test = absl::StrCat("tg", args.generate);
    if (n > 1) absl::StrAppend(&test, "x", n);
    ASSIGN_OR_RETURN(Figure f, Measure(test, args.repeat, double(args.generate) * n,
                                       [&] { return bench.Decode(args.generate, n); }));
    out.push_back(std::move(f));
  }
  return out;
}

void PrintFigures(const std::vector<Figure>& figures, bool json) {
  if (json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const Figure& f : figures) {
      list.push_back(
          {{"test", f.test}, {"min", f.min()}, {"median", f.median()}, {"max", f.max()}});
    }
    std::printf("%s\n", list.dump().c_str());
    return;
  }
  std::printf("%-10s %10s %10s %10s  tokens/s\n", "test", "min", "median", "max");
  for (const Figure& f : figures) {
    std::printf("%-10s %10.1f %10.1f %10.1f\n", f.test.c_str(), f.min(), f.median(), f.max());
  }
}

}  // namespace

void RegisterBench(CLI::App& app) {
  const auto args = std::make_shared<BenchArgs>();
  CLI::App* command = AddCommand(app, "bench", "Speed of the engine alone, tokens per second",
                                 "  lanyard bench --model smollm2.gguf --threads 2\n"
                                 "  lanyard bench --model smollm2.gguf --prompt 128,512 --generate "
                                 "64 --users 1,8 --repeat 5 --json\n"
                                 "pp128: prefill of 128 tokens. tg64: 64 tokens, one after "
                                 "another. tg64x8: the same for 8 users at once, total.",
                                 [args] {
                                   const auto figures = RunAll(*args);
                                   if (!figures.ok())
                                     return static_cast<ExitCode>(Fail(figures.status()));
                                   PrintFigures(*figures, args->json);
                                   return kOk;
                                 });
  command->add_option("--model", args->model, "GGUF file")->required();
  command->add_option("--threads", args->threads, "threads (default: all processors)");
  command->add_option("--prompt", args->prompt, "prompt lengths")
      ->delimiter(',')
      ->check(CLI::Range(1u, 1u << 20))
      ->capture_default_str();
  command->add_option("--generate", args->generate, "tokens to generate; 0: no decode tests")
      ->check(CLI::Range(0u, 1u << 20))
      ->capture_default_str();
  command->add_option("--users", args->users, "sequences at once")
      ->delimiter(',')
      ->check(CLI::Range(1u, stage::kMaxFrameRows))
      ->capture_default_str();
  command->add_option("--repeat", args->repeat, "runs of each test that count")
      ->check(CLI::Range(1u, 1000u))
      ->capture_default_str();
  command->add_option("--isa", args->isa, "scalar, avx2 or avx512 (default: the best)");
  command
      ->add_option("--devices", args->devices,
                   "cpu, auto (every card), or cards as cuda:0,cuda:1; the CPU takes the rest")
      ->capture_default_str();
  command->add_option("--vram", args->vram,
                      "of cards: 6GiB or cuda:0=6GiB,cuda:1=4GiB (default: what is free)");
  AddNumericsFlags(*command, &args->numerics);
  command->add_flag("--json", args->json, "a JSON list");
}

}  // namespace lanyard::cli
