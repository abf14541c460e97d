#include "web/known_fields.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "base/field_error.h"

namespace lanyard::web {
namespace {

using nlohmann::json;

constexpr unsigned kBool = 1, kNumber = 2, kString = 4, kArray = 8, kObject = 16;
constexpr unsigned kBoth =
    static_cast<unsigned>(Endpoint::kChat) | static_cast<unsigned>(Endpoint::kText);
constexpr unsigned kChatOnly = static_cast<unsigned>(Endpoint::kChat);
constexpr unsigned kTextOnly = static_cast<unsigned>(Endpoint::kText);

struct KnownField {
  const char* name;
  unsigned types;       // that it may have, besides null
  const char* neutral;  // a JSON array of the values that change nothing, besides null
  const char* instead;  // what is said of other values; nullptr: made of `neutral`
  unsigned endpoints = kBoth;
};

constexpr char kNoTools[] =
    "leave it out. With tool_choice \"none\" too: the model would be shown them.";
constexpr char kNoThinking[] =
    "this server does not steer how a model thinks, so only false is accepted.";

// By whose name it is: OpenAI, vLLM, llama.cpp, Ollama, Hugging Face's servers, SillyTavern's
// backends. Not here, since alone they change nothing: figures of a sampler that is off unless one
// of these turns it on (dry_base, xtc_threshold, mirostat_tau, repeat_last_n, ...), and what is
// about caches, slots, scheduling hints and extra facts (cache_prompt, id_slot, keep_alive,
// timings_per_token, user, metadata, store, service_tier, ...).
constexpr KnownField kKnown[] = {
    // Tools, formats, other media.
    {"tools", kArray, "[[]]", kNoTools},
    {"functions", kArray, "[[]]", kNoTools},
    {"tool_choice", kString | kObject, R"(["none","auto"])", nullptr},
    {"function_call", kString | kObject, R"(["none","auto"])", nullptr},
    {"modalities", kArray, R"([[],["text"]])", "only [\"text\"] is accepted."},
    {"audio", kObject, "[{}]", nullptr},
    {"images", kArray, "[[]]", nullptr},
    {"web_search_options", kObject, "[]", nullptr},  // {} asks for a search
    {"moderation", kObject, "[]", nullptr},
    {"prediction", kObject, "[{}]", nullptr},
    {"verbosity", kString, R"(["medium"])", nullptr},
    {"format", kString | kObject, R"([""])", nullptr},
    {"grammar", kString, R"([""])", nullptr},
    {"grammar_string", kString, R"([""])", nullptr},
    {"json_schema", kString | kObject, R"([""])", nullptr},  // {} is any JSON, and no other text
    {"structured_outputs", kObject, "[{}]", nullptr},
    {"guided_json", kString | kObject, R"([""])", nullptr},
    {"guided_regex", kString, R"([""])", nullptr},
    {"guided_choice", kArray, "[[]]", nullptr},
    {"guided_grammar", kString, R"([""])", nullptr},
    {"guided_whitespace_pattern", kString, R"([""])", nullptr},
    // Several answers, parts of the prompt in the answer.
    {"n", kNumber, "[1]", nullptr},
    {"n_cmpl", kNumber, "[1]", nullptr},
    {"best_of", kNumber, "[1]", nullptr},
    {"use_beam_search", kBool, "[false]", nullptr},
    {"num_beams", kNumber, "[1]", nullptr},
    {"echo", kBool, "[false]", nullptr},
    {"return_full_text", kBool, "[false]", nullptr},
    {"suffix", kString, R"([""])", nullptr},
    // What is drawn.
    {"logit_bias", kObject | kArray, "[{},[]]", nullptr},
    {"presence_penalty", kNumber, "[0]", nullptr},
    {"frequency_penalty", kNumber, "[0]", nullptr},
    {"repeat_penalty", kNumber, "[1]", nullptr},
    {"repetition_penalty", kNumber, "[1]", nullptr},
    {"rep_pen", kNumber, "[1]", nullptr},
    {"encoder_repetition_penalty", kNumber, "[1]", nullptr},
    {"no_repeat_ngram_size", kNumber, "[0]", nullptr},
    {"penalty_alpha", kNumber, "[0]", nullptr},
    {"guidance_scale", kNumber, "[1]", nullptr},
    {"typical_p", kNumber, "[1]", nullptr},
    {"typical", kNumber, "[1]", nullptr},
    {"tfs_z", kNumber, "[1]", nullptr},
    {"tfs", kNumber, "[1]", nullptr},
    {"top_a", kNumber, "[0]", nullptr},
    {"top_n_sigma", kNumber, "[-1,0]", nullptr},
    {"nsigma", kNumber, "[-1,0]", nullptr},
    {"epsilon_cutoff", kNumber, "[0]", nullptr},
    {"eta_cutoff", kNumber, "[0]", nullptr},
    {"smoothing_factor", kNumber, "[0]", nullptr},
    {"dynamic_temperature", kBool, "[false]", nullptr},
    {"dynatemp_range", kNumber, "[0]", nullptr},
    {"xtc_probability", kNumber, "[0]", nullptr},
    {"dry_multiplier", kNumber, "[0]", nullptr},
    {"mirostat", kNumber, "[0]", nullptr},
    {"mirostat_mode", kNumber, "[0]", nullptr},
    {"adaptive_target", kNumber, "[-1]", nullptr},
    {"min_keep", kNumber, "[0,1]", nullptr},
    {"temperature_last", kBool, "[true]", nullptr},
    {"do_sample", kBool, "[true]", "only true is accepted; for greedy answers use temperature 0."},
    {"samplers", kArray | kString, R"([[],""])",
     "only the order \"top_k\", \"top_p\", \"min_p\", \"temperature\" is accepted."},
    {"logits_processors", kArray, "[[]]", nullptr},
    {"lora", kArray, "[[]]", nullptr},
    {"adapter_id", kString, R"([""])", nullptr},
    {"watermark", kBool, "[false]", nullptr},
    {"watermarking", kBool, "[false]", nullptr},
    {"vllm_xargs", kObject, "[{}]", nullptr},
    // Where the answer ends, and which tokens it may hold.
    {"min_tokens", kNumber, "[0]", nullptr},
    {"min_length", kNumber, "[0]", nullptr},
    {"stop_token_ids", kArray, "[[]]", nullptr},
    {"stop_sequences", kArray, "[[]]", "use 'stop'."},
    {"include_stop_str_in_output", kBool, "[false]", nullptr},
    {"allowed_token_ids", kArray, "[[]]", nullptr},
    {"bad_words", kArray, "[[]]", nullptr},
    {"banned_strings", kArray, "[[]]", nullptr},
    {"banned_tokens", kArray | kString, R"([[],""])", nullptr},
    {"custom_token_bans", kString, R"([""])", nullptr},
    {"ban_eos_token", kBool, "[false]", "use 'ignore_eos'."},
    {"repetition_detection", kObject, "[]", nullptr},
    {"n_indent", kNumber, "[0]", nullptr},
    {"t_max_predict_ms", kNumber, "[-1,0]", nullptr},
    {"skip_special_tokens", kBool, "[true]", nullptr},
    {"spaces_between_special_tokens", kBool, "[true]", nullptr},
    // What the answer shows besides its text.
    {"prompt_logprobs", kNumber | kBool, "[false]", nullptr},
    {"logprob_token_ids", kArray, "[[]]", nullptr},
    {"n_probs", kNumber, "[0]", "use 'logprobs'."},
    {"post_sampling_probs", kBool, "[false]", nullptr},
    {"return_tokens", kBool, "[false]", nullptr},
    {"return_token_ids", kBool, "[false]", nullptr},
    {"return_tokens_as_token_ids", kBool, "[false]", nullptr},
    {"return_prompt_text", kBool, "[false]", nullptr},
    {"response_fields", kArray, "[[]]", nullptr},
    // What the model is shown.
    {"truncate_prompt_tokens", kNumber, "[]", nullptr},
    {"truncate", kNumber | kBool, "[]", nullptr},
    {"add_special_tokens", kBool, "[true]", nullptr, kTextOnly},
    {"add_special_tokens", kBool, "[false]", nullptr, kChatOnly},
    {"add_bos_token", kBool, "[true]", nullptr},
    {"parse_special", kBool, "[false]",
     "what people write in a chat never becomes control tokens, so only false is accepted.",
     kChatOnly},
    {"add_generation_prompt", kBool, "[true]", nullptr},
    {"continue_final_message", kBool, "[false]", nullptr},
    {"prefill", kString | kArray | kObject, R"(["",[],{}])", nullptr},
    {"chat_template", kString, R"([""])", nullptr},
    {"chat_template_kwargs", kObject, "[{}]", nullptr},
    {"documents", kArray, "[[]]", nullptr},
    {"system", kString | kArray, R"(["",[]])", "use a message of role 'system'."},
    {"instructions", kString, R"([""])", "use a message of role 'system'."},
    {"template", kString, R"([""])", nullptr},
    {"raw", kBool, "[false]", nullptr},
    {"context", kArray, "[[]]", nullptr},
    {"options", kObject, "[{}]", "give what it holds as fields of the request."},
    {"parameters", kObject, "[{}]", "give what it holds as fields of the request."},
    // Thinking. `reasoning_effort` is read (openai_request.cc).
    {"think", kBool | kString, R"([false,""])", kNoThinking},
    {"enable_thinking", kBool, "[false]", kNoThinking},
    {"thinking", kObject, R"([{},{"type":"disabled"}])",
     "only {\"type\":\"disabled\"} is accepted."},
    {"thinking_token_budget", kNumber, "[-1]", nullptr},
    {"thinking_budget_tokens", kNumber, "[-1]", nullptr},
    {"reasoning_budget", kNumber, "[-1]", nullptr},
    // Who is served first.
    {"priority", kNumber, "[0]", nullptr},
};

std::string TypeNames(unsigned types) {
  struct Name {
    unsigned type;
    const char* name;
  };
  std::string out;
  for (const Name& n :
       {Name{kBool, "a boolean"}, Name{kNumber, "a number"}, Name{kString, "a string"},
        Name{kArray, "an array"}, Name{kObject, "an object"}}) {
    if ((types & n.type) == 0) continue;
    absl::StrAppend(&out, out.empty() ? "" : " or ", n.name);
  }
  return out;
}

unsigned TypeOf(const json& value) {
  if (value.is_boolean()) return kBool;
  if (value.is_number()) return kNumber;
  if (value.is_string()) return kString;
  return value.is_array() ? kArray : kObject;
}

// "only 0 is accepted."; "leave it out." where the neutral values are only empty ones.
std::string Instead(const KnownField& known, const json& neutral) {
  if (known.instead != nullptr) return known.instead;
  std::string list;
  for (const json& value : neutral) {
    const bool empty = value.is_structured() ? value.empty() : value == "";
    if (!empty) absl::StrAppend(&list, list.empty() ? "" : " and ", value.dump());
  }
  if (list.empty()) return "leave it out.";
  return absl::StrCat("only ", list, neutral.size() > 1 ? " are" : " is", " accepted.");
}

// Whether the order is the one that tokens are drawn in, once samplers are left out that are off.
bool IsOurOrder(const json& samplers) {
  constexpr std::array<std::string_view, 4> kOrder = {"top_k", "top_p", "min_p", "temperature"};
  size_t at = 0;
  for (const json& sampler : samplers) {
    if (!sampler.is_string()) return false;
    const auto& name = sampler.get_ref<const std::string&>();
    if (std::find(kOrder.begin(), kOrder.end(), name) == kOrder.end()) continue;
    if (at == kOrder.size() || name != kOrder[at]) return false;
    ++at;
  }
  return at == kOrder.size();
}

// {"type":"text"} asks for nothing, whatever else stands in it; so does {}.
absl::Status CheckResponseFormat(const Fields& fields) {
  const json* format = fields.Find("response_format");
  if (format == nullptr) return absl::OkStatus();
  if (!format->is_object()) return WrongType("response_format", "an object", *format);
  const auto type = format->find("type");
  if (format->empty() || (type != format->end() && *type == "text")) return absl::OkStatus();
  return NotYet("response_format", "only {\"type\":\"text\"} is accepted.");
}

// Every row with its neutral values as JSON, parsed once.
const std::vector<json>& NeutralValues() {
  static const std::vector<json>* const kValues = [] {
    auto* values = new std::vector<json>();
    for (const KnownField& known : kKnown) values->push_back(json::parse(known.neutral));
    return values;
  }();
  return *kValues;
}

}  // namespace

absl::Status NotYet(std::string_view name, std::string_view allowed) {
  return BadField(
      name,
      absl::StrCat("'", AbslView(name),
                   "' is not supported yet by this server and would change the answer; ",
                   AbslView(allowed)),
      "unsupported_parameter");
}

absl::Status RefuseUnsupported(const Fields& fields, Endpoint endpoint) {
  RETURN_IF_ERROR(CheckResponseFormat(fields));
  const std::vector<json>& neutral = NeutralValues();
  for (size_t i = 0; i < neutral.size(); ++i) {
    const KnownField& known = kKnown[i];
    if ((known.endpoints & static_cast<unsigned>(endpoint)) == 0) continue;
    const json* value = fields.Find(known.name);
    if (value == nullptr) continue;
    if ((known.types & TypeOf(*value)) == 0)
      return WrongType(known.name, TypeNames(known.types), *value);
    if (std::find(neutral[i].begin(), neutral[i].end(), *value) != neutral[i].end()) continue;
    if (std::string_view(known.name) == "samplers" && value->is_array() && IsOurOrder(*value))
      continue;
    return NotYet(known.name, Instead(known, neutral[i]));
  }
  return absl::OkStatus();
}

}  // namespace lanyard::web
