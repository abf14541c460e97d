// lanyard eval: log-sum-exp, top logits and greedy text of prompts, with the engine alone, in the
// schema of the conformance data.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/file.h"
#include "cli/cli.h"
#include "cli/numerics_flags.h"
#include "engine/cuda/open_devices.h"
#include "engine/evaluate.h"
#include "lanyard/v1/stage.pb.h"
#include "model/gguf.h"
#include "model/tokenizer.h"
#include "net/convert_stage.h"

namespace lanyard::cli {
namespace {

constexpr size_t kMaxPromptsBytes = size_t{1} << 30;

struct EvalArgs {
  std::string model;
  std::string prompts;
  uint32_t generate = 0;
  uint32_t top = 8;
  int threads = 0;
  uint32_t chunk = stage::kMaxFrameRows;
  uint32_t stages = 1;
  bool batch = false;
  std::string isa;
  stage::NumericsChoice numerics;
  std::string devices = "cpu";
  std::string vram;
};

// Prompts stand between lines `----`. Neither the newline before such a line nor the file's last
// newline belongs to a prompt.
absl::StatusOr<std::vector<std::string>> ReadPrompts(const std::string& path) {
  ASSIGN_OR_RETURN(std::string text, ReadSmallInput(path, kMaxPromptsBytes));
  if (!text.empty() && text.back() == '\n') text.pop_back();
  std::vector<std::string> out;
  std::string prompt;
  bool first_line = true;
  size_t at = 0;
  while (at <= text.size()) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    if (line == "----") {
      out.push_back(std::move(prompt));
      prompt.clear();
      first_line = true;
      continue;
    }
    if (!first_line) prompt += '\n';
    prompt += line;
    first_line = false;
  }
  out.push_back(std::move(prompt));
  return out;
}

// Returns a frame as the other machine would see it.
absl::StatusOr<stage::StepFrame> OverTheWire(stage::StepFrame frame) {
  v1::StepFrame message;
  RETURN_IF_ERROR(net::ToProto(frame, &message));
  v1::StepFrame parsed;
  if (!parsed.ParseFromString(message.SerializeAsString()))
    return Internal("a frame does not parse again");
  return net::FromProto(parsed);
}

std::string Float(double x) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.9g", x);
  return text;
}

std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

template <typename T, typename Fn>
std::string JsonList(const std::vector<T>& items, const Fn& fn) {
  std::string out = "[";
  for (size_t i = 0; i < items.size(); ++i) out += (i == 0 ? "" : ",") + fn(items[i]);
  return out + "]";
}

std::string ToJson(const std::string& prompt, const engine::EvalResult& result,
                   const model::Tokenizer& tokenizer) {
  const auto id = [](int32_t x) { return std::to_string(x); };
  std::string greedy_text;
  for (const int32_t token : result.greedy) {
    if (!tokenizer.IsSpecial(token)) greedy_text += tokenizer.PieceBytes(token);
  }
  const auto logit = [](const std::pair<int32_t, float>& x) {
    return "[" + std::to_string(x.first) + "," + Float(x.second) + "]";
  };
  const auto position = [&](const engine::EvalPosition& p) {
    return "{\"lse\":" + Float(p.lse) + ",\"top\":" + JsonList(p.top, logit) + "}";
  };
  return "{\"prompt\":" + Quoted(prompt) + ",\"tokens\":" + JsonList(result.tokens, id) +
         ",\"positions\":" + JsonList(result.positions, position) +
         ",\"mean_nll\":" + Float(result.mean_nll) + ",\"greedy\":" + JsonList(result.greedy, id) +
         ",\"greedy_text\":" + Quoted(greedy_text) + "}";
}

absl::StatusOr<engine::ChainOptions> MakeOptions(const EvalArgs& args,
                                                 const model::ModelShape& shape) {
  engine::ChainOptions options;
  options.stages = args.stages;
  options.numerics = args.numerics.For(shape.float_weights);
  if (!args.isa.empty()) {
    ASSIGN_OR_RETURN(options.stage.isa, ops::ParseIsa(args.isa));
  }
  ASSIGN_OR_RETURN(const engine::DeviceFlags flags, engine::ParseDevices(args.devices, args.vram));
  ASSIGN_OR_RETURN(const auto devices, engine::OpenDevices(flags));
  options.stage.devices.assign(devices.begin(), devices.end());
  options.stage.threads =
      args.threads > 0 ? args.threads : std::max(1u, std::thread::hardware_concurrency());
  if (args.chunk == 0) return InvalidArgument("--chunk 0: at least one token");
  options.wire = OverTheWire;
  return options;
}

absl::Status Eval(const EvalArgs& args) {
  ASSIGN_OR_RETURN(const std::vector<std::string> texts, ReadPrompts(args.prompts));
  ASSIGN_OR_RETURN(const auto file, model::GgufFile::Open(args.model));
  ASSIGN_OR_RETURN(const model::ModelShape shape, model::ShapeFromGguf(*file));
  ASSIGN_OR_RETURN(const auto tokenizer, model::Tokenizer::Load(*file));
  std::vector<std::vector<int32_t>> prompts;
  size_t longest = 0;
  for (const std::string& text : texts) {
    ASSIGN_OR_RETURN(std::vector<int32_t> tokens,
                     tokenizer->Encode(text, {.add_special = true, .parse_special = true}));
    longest = std::max(longest, tokens.size());
    prompts.push_back(std::move(tokens));
  }
  ASSIGN_OR_RETURN(engine::ChainOptions options, MakeOptions(args, shape));
  options.max_context = static_cast<uint32_t>(longest + args.generate);
  options.sequences = args.batch ? static_cast<uint32_t>(prompts.size()) : 1;
  ASSIGN_OR_RETURN(const auto chain, engine::Chain::Create(shape, *file, options));
  engine::EvalOptions eval;
  eval.generate = args.generate;
  eval.top = args.top;
  eval.chunk = args.chunk;
  eval.batch = args.batch;
  eval.is_end = [&](int32_t id) { return tokenizer->IsEog(id); };
  ASSIGN_OR_RETURN(const std::vector<engine::EvalResult> results,
                   engine::Evaluate(*chain, prompts, eval));
  std::printf("[");
  for (size_t i = 0; i < results.size(); ++i) {
    std::printf("%s%s", i == 0 ? "" : ",", ToJson(texts[i], results[i], *tokenizer).c_str());
  }
  std::printf("]\n");
  return absl::OkStatus();
}

}  // namespace

void RegisterEval(CLI::App& app) {
  const auto args = std::make_shared<EvalArgs>();
  CLI::App* command =
      AddCommand(app, "eval", "Logits, likelihood and greedy text of prompts, by the engine alone",
                 "  lanyard eval --model smollm2.gguf --prompts prompts.txt --generate 48\n"
                 "  lanyard eval --model smollm2.gguf --prompts prompts.txt --stages 3 --chunk 16 "
                 "--batch --isa avx2\n"
                 "Prompts are separated by a line `----`. The output is JSON: for every prompt its "
                 "tokens, lse and top logits of every\n"
                 "position, mean_nll (nats per predicted token), greedy continuation.",
                 [args] {
                   const absl::Status status = Eval(*args);
                   return status.ok() ? kOk : Fail(status);
                 });
  command->add_option("--model", args->model, "GGUF file")->required();
  command->add_option("--prompts", args->prompts, "file of prompts")->required();
  command->add_option("--generate", args->generate, "tokens to continue with, at most")
      ->capture_default_str();
  command->add_option("--top", args->top, "logits listed for each position")
      ->check(CLI::Range(0u, 1024u))
      ->capture_default_str();
  command->add_option("--threads", args->threads, "threads (default: all processors)");
  command->add_option("--chunk", args->chunk, "prompt tokens of one step")
      ->check(CLI::Range(1u, stage::kMaxFrameRows))
      ->capture_default_str();
  command
      ->add_option("--stages", args->stages,
                   "cut the model into so many stages, with framing between them")
      ->capture_default_str();
  command->add_flag("--batch", args->batch, "all prompts at once");
  command->add_option("--isa", args->isa, "scalar, avx2 or avx512 (default: the best)");
  command
      ->add_option("--devices", args->devices,
                   "cpu, auto (every card), or cards as cuda:0,cuda:1; the CPU takes the rest")
      ->capture_default_str();
  command->add_option("--vram", args->vram,
                      "of cards: 6GiB or cuda:0=6GiB,cuda:1=4GiB (default: what is free)");
  AddNumericsFlags(*command, &args->numerics);
}

}  // namespace lanyard::cli
