// `lanyard inspect`: what is in a GGUF file: header, shape, parts, metadata, tensors. It reads the
// header only.
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/text.h"
#include "model/chat_template.h"
#include "model/gguf.h"
#include "model/gguf_header.h"
#include "model/manifest.h"
#include "model/tokenizer.h"
#include "model/unicode.h"

namespace lanyard::cli {
namespace {

using model::TensorInfo;
using nlohmann::json;

struct InspectOptions {
  std::string model;
  bool hash = false;
  bool json = false;
};

struct PartLine {
  std::string name;
  uint64_t bytes = 0;
  uint64_t tensors = 0;
  std::string sha256;  // with --hash
};

// What both forms print.
struct Report {
  std::unique_ptr<model::GgufFile> file;
  std::string architecture;  // empty when the file does not say
  std::string name;
  absl::StatusOr<model::Manifest> manifest = absl::UnknownError("");
  absl::Status tokenizer;             // what a pool would refuse of it
  std::vector<std::string> warnings;  // what a pool would say when it loads this
  std::vector<PartLine> parts;
};

// What is found when text is to become tokens. A pool refuses the file for it, or takes it and
// warns.
void CheckText(Report* report) {
  const model::GgufFile& file = *report->file;
  const auto data = model::ReadVocabData(file);
  const auto tokenizer = data.ok() ? model::Tokenizer::Make(*data) : data.status();
  report->tokenizer = tokenizer.status();
  if (!tokenizer.ok()) return;
  report->warnings = (*tokenizer)->warnings();
  const auto chat = model::ChatTemplate::ForModel(file, **tokenizer);
  if (!chat.ok()) {
    report->warnings.push_back(absl::StrCat("chat is off: ", chat.status().message()));
    return;
  }
  report->warnings.insert(report->warnings.end(), chat->warnings().begin(), chat->warnings().end());
}

// Finds by its name the part that a tensor would be in, for an architecture that we do not know.
std::string PartOf(std::string_view tensor) {
  if (tensor.substr(0, 4) == "blk.") {
    const std::string_view rest = tensor.substr(4);
    const size_t dot = rest.find('.');
    uint32_t layer = 0;
    if (dot != std::string_view::npos && absl::SimpleAtoi(AbslView(rest.substr(0, dot)), &layer)) {
      return absl::StrCat("layer.", layer);
    }
  }
  if (tensor.substr(0, 10) == "token_embd") return "embed";
  if (tensor.substr(0, 11) == "output_norm") return "norm";
  if (tensor.substr(0, 7) == "output.") return "output";
  return "common";
}

// Layers come in the order of their numbers; "embed" and "common" stand before them, the head
// behind.
std::vector<PartLine> PartsByName(const model::GgufFile& file) {
  std::map<std::pair<uint64_t, std::string>, PartLine> parts;
  for (const TensorInfo& t : file.tensors()) {
    const std::string name = PartOf(t.name);
    uint64_t rank = name == "embed"    ? 0
                    : name == "common" ? 1
                    : name == "norm"   ? UINT64_MAX - 1
                                       : UINT64_MAX;
    uint32_t layer = 0;
    if (name.substr(0, 6) == "layer." && absl::SimpleAtoi(name.substr(6), &layer))
      rank = uint64_t{2} + layer;
    PartLine& part = parts[{rank, name}];
    part.name = name;
    part.bytes += t.bytes;
    ++part.tensors;
  }
  std::vector<PartLine> out;
  for (auto& [key, part] : parts) out.push_back(std::move(part));
  return out;
}

absl::StatusOr<Report> Inspect(const InspectOptions& o) {
  Report out;
  ASSIGN_OR_RETURN(out.file, model::GgufFile::Open(o.model));
  if (const auto v = out.file->String("general.architecture"); v.ok())
    out.architecture = std::string(*v);
  if (const auto v = out.file->String("general.name"); v.ok()) out.name = std::string(*v);
  CheckText(&out);
  out.manifest = model::BuildManifest(*out.file, o.hash);
  if (!out.manifest.ok()) {
    out.parts = PartsByName(*out.file);
    return out;
  }
  for (const model::Part& part : out.manifest->parts) {
    out.parts.push_back({part.name, part.bytes, part.tensors.size(), part.sha256});
  }
  return out;
}

std::string KindName(const model::StateGroup& group) {
  return group.kind == model::StateKind::kSliding ? "sliding" : "full";
}

json ShapeJson(const model::ModelShape& s) {
  return {{"family", model::FamilyName(s.family)},
          {"n_layers", s.n_layers},
          {"d_model", s.d_model},
          {"n_heads", s.n_heads},
          {"n_kv_heads", s.n_kv_heads},
          {"head_dim", s.head_dim},
          {"d_ff", s.d_ff},
          {"n_vocab", s.n_vocab},
          {"context_length", s.context_length},
          {"norm_eps", s.norm_eps},
          {"attention_scale", s.attention_scale},
          {"n_rot", s.n_rot},
          {"rope_base", s.rope_base},
          {"rope_base_local", s.rope_base_local},
          {"rope_scale", s.rope_scale},
          {"rope_factors", s.rope_factors},
          {"tied_output", s.tied_output},
          {"float_weights", s.float_weights}};
}

json ToJson(const Report& r) {
  json out = {{"version", r.file->version()},
              {"architecture", nullptr},
              {"name", r.name},
              {"file_bytes", r.file->file_bytes()},
              {"alignment", r.file->alignment()},
              {"data_offset", r.file->data_offset()},
              {"shape", nullptr},
              {"groups", json::array()},
              {"metadata", json::array()},
              {"tensors", json::array()},
              {"parts", json::array()}};
  if (!r.architecture.empty()) out["architecture"] = r.architecture;
  if (r.manifest.ok()) {
    out["shape"] = ShapeJson(r.manifest->shape);
    for (const auto& group : r.manifest->shape.groups) {
      out["groups"].push_back(
          {{"kind", KindName(group)}, {"window", group.window}, {"layers", group.layers}});
    }
    if (!r.manifest->digest.empty()) out["digest"] = r.manifest->digest;
  } else {
    out["shape_error"] = Str(r.manifest.status().message());
  }
  if (!r.tokenizer.ok()) out["tokenizer_error"] = Str(r.tokenizer.message());
  out["warnings"] = r.warnings;
  for (const auto& entry : r.file->Entries()) {
    out["metadata"].push_back(
        {{"key", entry.key}, {"type", entry.type}, {"preview", entry.preview}});
  }
  for (const TensorInfo& t : r.file->tensors()) {
    out["tensors"].push_back({{"name", t.name},
                              {"type", TraitsOf(t.type)->name},
                              {"dims", t.dims},
                              {"bytes", t.bytes},
                              {"offset", r.file->OffsetOf(t.name).value_or(0)}});
  }
  for (const PartLine& part : r.parts) {
    json line = {{"name", part.name}, {"bytes", part.bytes}, {"tensors", part.tensors}};
    if (!part.sha256.empty()) line["sha256"] = part.sha256;
    out["parts"].push_back(std::move(line));
  }
  return out;
}

std::string DimsText(const std::vector<uint64_t>& dims) {
  std::string out;
  for (const uint64_t d : dims) absl::StrAppend(&out, out.empty() ? "" : " x ", d);
  return out;
}

void PrintShape(const model::ModelShape& s) {
  std::printf("\nShape\n");
  std::printf("  %-16s %u, %u wide, feed-forward %u%s\n", "layers", s.n_layers, s.d_model, s.d_ff,
              s.float_weights ? ", every matrix F32" : "");
  std::printf("  %-16s %u heads of %u, %u for keys and values, scale %.9g\n", "attention",
              s.n_heads, s.head_dim, s.n_kv_heads, s.attention_scale);
  std::printf("  %-16s %u tokens, context %u%s\n", "vocabulary", s.n_vocab, s.context_length,
              s.tied_output ? ", head tied to the embedding" : "");
  std::printf("  %-16s %u of a head, base %.9g (sliding layers %.9g), scale %.9g%s\n", "rope",
              s.n_rot, s.rope_base, s.rope_base_local, s.rope_scale,
              s.rope_factors ? ", with factors" : "");
  std::printf("  %-16s %.9g\n", "norm epsilon", s.norm_eps);
  for (const model::StateGroup& group : s.groups) {
    std::string layers;
    for (const uint32_t l : group.layers) absl::StrAppend(&layers, layers.empty() ? "" : " ", l);
    const std::string window = group.window > 0 ? absl::StrCat(", window ", group.window) : "";
    std::printf("  %-16s %s%s: layers %s\n", "state group", KindName(group).c_str(), window.c_str(),
                layers.c_str());
  }
}

void PrintText(const Report& r) {
  const auto line = [](const char* name, const std::string& value) {
    std::printf("%-18s %s\n", name, Printable(value, Keep::kNothing).c_str());
  };
  line("file", r.file->path());
  line("format", absl::StrCat("GGUF ", r.file->version(), ", alignment ", r.file->alignment()));
  line("size",
       absl::StrCat(FormatSize(r.file->file_bytes()), " (", r.file->file_bytes(), " bytes)"));
  line("architecture", r.architecture.empty() ? "not named" : model::QuoteName(r.architecture));
  if (!r.name.empty()) line("name", model::QuoteName(r.name));
  if (r.manifest.ok()) {
    if (!r.manifest->digest.empty()) line("digest", r.manifest->digest);
    PrintShape(r.manifest->shape);
  } else {
    line("cannot run here", Str(r.manifest.status().message()));
  }
  if (!r.tokenizer.ok()) line("cannot run here", Str(r.tokenizer.message()));
  for (const std::string& warning : r.warnings) line("warning", warning);
  if (!r.parts.empty()) std::printf("\nParts (%zu)\n", r.parts.size());
  for (const PartLine& part : r.parts) {
    const std::string tensors =
        absl::StrCat(part.tensors, part.tensors == 1 ? " tensor" : " tensors");
    std::printf("  %-16s %12s  %-10s  %s\n", model::EscapeText(part.name).c_str(),
                FormatSize(part.bytes).c_str(), tensors.c_str(), part.sha256.c_str());
  }
  const auto entries = r.file->Entries();
  if (!entries.empty()) std::printf("\nMetadata (%zu)\n", entries.size());
  for (const auto& entry : entries) {
    std::printf("  %-44s %-9s %s\n", model::EscapeText(entry.key).c_str(), entry.type.c_str(),
                entry.preview.c_str());
  }
  if (!r.file->tensors().empty()) std::printf("\nTensors (%zu)\n", r.file->tensors().size());
  for (const TensorInfo& t : r.file->tensors()) {
    std::printf("  %-36s %-5s %-16s %12llu bytes at %llu\n", model::EscapeText(t.name).c_str(),
                std::string(TraitsOf(t.type)->name).c_str(), DimsText(t.dims).c_str(),
                static_cast<unsigned long long>(t.bytes),
                static_cast<unsigned long long>(r.file->OffsetOf(t.name).value_or(0)));
  }
}

int Run(const InspectOptions& o) {
  const auto report = Inspect(o);
  if (!report.ok()) return Fail(report.status());
  if (o.json) {
    // Names in a file need not be UTF-8, but JSON must be; in ASCII it commands no terminal.
    std::printf("%s\n",
                ToJson(*report).dump(-1, ' ', true, json::error_handler_t::replace).c_str());
  } else {
    PrintText(*report);
  }
  return kOk;
}

}  // namespace

void RegisterInspect(CLI::App& app) {
  auto o = std::make_shared<InspectOptions>();
  CLI::App* c = AddCommand(
      app, "inspect", "Show a GGUF file: header, shape, bytes of each layer, metadata, tensors",
      "  lanyard inspect --model smollm2.gguf\n"
      "  lanyard inspect --model smollm2.gguf --hash\n"
      "  lanyard inspect --model smollm2.gguf --json | jq .parts",
      [o] { return Run(*o); });
  c->add_option("--model", o->model,
                "GGUF file; an unsupported architecture and a vocabulary alone are shown too")
      ->required();
  c->add_flag("--hash", o->hash,
              "read every byte and show the SHA-256 of each part and of the model");
  c->add_flag("--json", o->json, "one JSON object on stdout");
}

}  // namespace lanyard::cli
