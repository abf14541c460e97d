// `lanyard plan`: the cut of a model over machines, on paper.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/numerics_flags.h"
#include "cli/text.h"
#include "model/gguf.h"
#include "model/gguf_header.h"
#include "model/manifest.h"
#include "model/tokenizer.h"
#include "sharding/machines_toml.h"
#include "sharding/planner.h"

namespace lanyard::cli {
namespace {

using nlohmann::json;

// The context that is planned for when none is asked for: it is enough for a chat, and no model's
// KV is wasteful at it.
constexpr uint32_t kDefaultContext = 4096;

struct PlanOptions {
  std::string model;
  std::string machines;
  uint32_t context = 0;
  uint32_t users = sharding::kDefaultUsers;
  stage::NumericsChoice numerics;
  bool all = false;
  bool json = false;
};

absl::StatusOr<sharding::MachinesFile> ReadMachines(const std::string& path) {
  const auto text = ReadSmallInput(path);
  if (!text.ok()) {
    return absl::Status(text.status().code(),
                        absl::StrCat(text.status().message(),
                                     "; --machines names a TOML file (see lanyard plan --help)"));
  }
  auto file = sharding::ParseMachinesToml(*text);
  if (!file.ok()) return Annotate(file.status(), path);
  return file;
}

json ToJson(const sharding::Plan& plan) {
  json stages = json::array();
  for (const auto& s : plan.stages) {
    json layers = nullptr;
    if (s.layers.size() > 0) layers = {s.layers.begin, s.layers.end - 1};
    stages.push_back({{"machine", s.machine},
                      {"device", s.device},
                      {"layers", layers},
                      {"embeds", s.embeds},
                      {"samples", s.samples},
                      {"bytes", s.gguf_bytes},
                      {"weights_bytes", s.weights_bytes},
                      {"kv_bytes", s.kv_bytes},
                      {"buffer_bytes", s.buffer_bytes},
                      {"base_bytes", s.base_bytes},
                      {"limit_bytes", s.limit_bytes},
                      {"ms_per_token", s.ms_per_token}});
  }
  return {{"fits", plan.fits}, {"context", plan.context}, {"users", plan.users},
          {"stages", stages},  {"limit", plan.limit},     {"why", plan.why}};
}

std::string LayersText(const sharding::PlannedStage& s) {
  std::string text;
  if (s.layers.size() > 0) text = absl::StrCat(s.layers.begin, "-", s.layers.end - 1);
  if (s.samples) absl::StrAppend(&text, text.empty() ? "" : " ", "head");
  return text;
}

// Names of machines are somebody's, and command no terminal.
std::string Line(const std::string& text) { return Printable(text, Keep::kNothing); }

void PrintTable(const sharding::Plan& plan) {
  if (!plan.fits) {
    std::printf("does not fit; limit: %s\n", Line(plan.limit).c_str());
  } else {
    std::printf("fits: context %u for %u user%s; limit: %s\n\n", plan.context, plan.users,
                plan.users == 1 ? "" : "s", Line(plan.limit).c_str());
    std::printf("%-14s %-8s %-12s %10s %10s %10s %10s %10s\n", "MACHINE", "DEVICE", "LAYERS",
                "WEIGHTS", "KV", "BUFFERS", "PROGRAM", "LIMIT");
    for (const auto& s : plan.stages) {
      std::printf("%-14s %-8s %-12s %10s %10s %10s %10s %10s\n", Line(s.machine).c_str(),
                  Line(s.device).c_str(), LayersText(s).c_str(),
                  FormatSize(s.weights_bytes).c_str(), FormatSize(s.kv_bytes).c_str(),
                  FormatSize(s.buffer_bytes).c_str(), FormatSize(s.base_bytes).c_str(),
                  FormatSize(s.limit_bytes).c_str());
    }
  }
  std::printf("\n");
  for (const std::string& why : plan.why) std::printf("- %s\n", Line(why).c_str());
}

// Of a file that a pool would serve: what it would refuse is no plan's.
absl::StatusOr<model::Manifest> Manifest(const model::GgufFile& file) {
  auto manifest = model::BuildManifest(file, /*hash=*/false);
  absl::Status status = manifest.status();
  if (status.ok()) status = model::Tokenizer::Load(file).status();
  if (status.ok()) return manifest;
  return Annotate(status, absl::StrCat("model ", model::QuoteName(file.path())));
}

absl::StatusOr<sharding::Plan> Plan(const PlanOptions& o) {
  ASSIGN_OR_RETURN(const auto file, model::GgufFile::Open(o.model));
  ASSIGN_OR_RETURN(const model::Manifest manifest, Manifest(*file));
  ASSIGN_OR_RETURN(sharding::MachinesFile machines, ReadMachines(o.machines));
  sharding::PlanRequest request;
  request.manifest = &manifest;
  request.machines = std::move(machines.machines);
  request.links = std::move(machines.links);
  request.numerics = o.numerics.For(manifest.shape.float_weights);
  const uint32_t trained = manifest.shape.context_length;
  request.context = o.context != 0 ? o.context : std::min(kDefaultContext, trained);
  if (request.context > trained) {
    return InvalidArgument("--context ", request.context, " is more than the ", trained,
                           " tokens that the model was trained for");
  }
  request.users = o.users;
  request.require_all = o.all;
  request.max_rows = stage::kStepFrameRows;
  return sharding::MakePlan(request);
}

int Run(const PlanOptions& o) {
  const auto plan = Plan(o);
  if (!plan.ok()) return Fail(plan.status());
  if (o.json) {
    std::printf("%s\n", ToJson(*plan).dump(-1, ' ', true).c_str());
  } else {
    PrintTable(*plan);
  }
  return plan->fits ? kOk : kFailed;
}

}  // namespace

void RegisterPlan(CLI::App& app) {
  auto o = std::make_shared<PlanOptions>();
  CLI::App* c = AddCommand(
      app, "plan", "Show how a model would be cut over machines, and why, without running anything",
      "  lanyard plan --model smollm2.gguf --machines machines.toml --context 4096 --users 8\n"
      "  lanyard plan --model smollm2.gguf --machines machines.toml --json\n\n"
      "machines.toml:\n"
      "  [[machine]]\n  name = \"pc1\"\n  memory = \"8GiB\"      # of the whole worker\n  speed = "
      "1.0\n"
      "  [[machine.device]]\n  kind = \"cuda\"\n  name = \"cuda:0\"\n  memory = \"12GiB\"\n  speed "
      "= 8.0\n  fast_attention = true  # of level 80: RTX 30 series and later\n"
      "  [[machine]]\n  name = \"pc2\"\n  memory = \"16GiB\"\n"
      "  [[link]]\n  a = \"pc1\"\n  b = \"pc2\"\n  rtt_us = 200\n  bandwidth = \"1Gbit\"\n\n"
      "Optional for a machine: threads, base (what the worker takes before any stage; 24MiB).\n"
      "Exit code 1 when no cut fits.",
      [o] { return Run(*o); });
  c->add_option("--model", o->model, "GGUF file")->required();
  c->add_option("--machines", o->machines, "TOML file of machines and links")->required();
  c->add_option("--context", o->context,
                "Tokens of one sequence (default: 4096, or what the model was trained for)")
      ->check(CLI::Range(1u, 1u << 24));
  c->add_option("--users", o->users, "Sequences of full context at once")
      ->check(CLI::Range(1u, 65536u))
      ->capture_default_str();
  AddNumericsFlags(*c, &o->numerics);
  c->add_flag("--all", o->all, "Give every machine a stage where some cut allows it");
  c->add_flag("--json", o->json, "One JSON object");
}

}  // namespace lanyard::cli
