// Any bytes as a template: parsed or refused, and what is parsed renders or fails within its
// limits.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "model/jinja/interpreter.h"
#include "model/jinja/parser.h"
#include "model/unicode.h"

namespace {

using lanyard::model::jinja::Dict;
using lanyard::model::jinja::Interpreter;
using lanyard::model::jinja::List;
using lanyard::model::jinja::Text;
using lanyard::model::jinja::Value;

Value Untrusted(const char* s) { return Value::String(Text(s, false)); }

Value Message(const char* role, Value content) {
  auto dict = std::make_shared<Dict>();
  dict->Set(Untrusted("role"), Untrusted(role));
  dict->Set(Untrusted("content"), std::move(content));
  dict->depth = 3;
  return Value::Of(std::move(dict));
}

const Interpreter::Variables& Variables() {
  static const auto* variables = [] {
    auto messages = std::make_shared<List>();
    messages->items = {Message("system", Untrusted("s\xC3\xA9")), Message("user", Untrusted("")),
                       Message("assistant", Value::None())};
    messages->depth = 4;
    return new Interpreter::Variables{{"messages", Value::Of(std::move(messages))},
                                      {"add_generation_prompt", Value::Bool(true)},
                                      {"bos_token", Value::Trusted("<s>")},
                                      {"n", Value::Int(-7)},
                                      {"f", Value::Float(2.5)},
                                      {"u", Untrusted(" <x>\n\xF0\x9F\x98\x80 Abc ")}};
  }();
  return *variables;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto parsed = lanyard::model::jinja::Parser::Parse(source);
  if (!parsed.ok()) return 0;
  lanyard::model::jinja::Limits limits;
  limits.steps = 20'000;
  limits.made_bytes = 1 << 20;
  limits.output_bytes = 1 << 18;
  const auto out = Interpreter(*parsed, Variables(), limits).Run();
  if (out.ok() && !lanyard::model::IsValidUtf8(out->bytes())) std::abort();
  return 0;
}
