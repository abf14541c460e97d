// The flags that choose a numerics id. They have the same words wherever a pool, a plan or an
// evaluation is asked for. This is a header only, so that a program links no more than it needs.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "stage/types.h"

namespace lanyard::cli {

// Adds --kv, --wire and --attention; an unknown value is a usage error. `out` must outlive the
// parsing.
inline void AddNumericsFlags(CLI::App& app, stage::NumericsChoice* out) {
  const auto add = [&app](const char* name, auto parse, auto* to, const char* help) {
    app.add_option_function<std::string>(
           name, [=](const std::string& s) { *to = *parse(s); }, help)
        ->check([=](const std::string& s) {
          const auto value = parse(s);
          return value.ok() ? std::string() : Str(value.status().message());
        });
  };
  add("--kv", stage::ParseKvType, &out->kv,
      "Type of the KV cache: f32, f16 or q8 (default: f16; f32 for float models)");
  add("--wire", stage::ParseWireType, &out->wire,
      "Type of hidden states between machines: f32 or f16 (default: f16; f32 for float models)");
  add("--attention", stage::ParseAttentionForm, &out->attention,
      "exact: the same bits on every machine; fast: on the tensor cores of cards of level 80 (RTX "
      "30 series and later), in "
      "bits of their own (default: exact)");
}

// The same choice as words for another program; what was not chosen is left out.
inline std::vector<std::string> NumericsArgs(const stage::NumericsChoice& choice) {
  std::vector<std::string> out;
  if (choice.kv) out.insert(out.end(), {"--kv", stage::KvTypeName(*choice.kv)});
  if (choice.wire) out.insert(out.end(), {"--wire", stage::WireTypeName(*choice.wire)});
  if (choice.attention != stage::AttentionForm::kExact) {
    out.insert(out.end(), {"--attention", stage::AttentionFormName(choice.attention)});
  }
  return out;
}

}  // namespace lanyard::cli
