#include "web/known_fields.h"

#include <algorithm>
#include <array>
#include <span>
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
  // The field's name here: a value changes nothing where that field says the same.
  const char* same_as = nullptr;
};

constexpr char kNoTools[] =
    "leave it out. With tool_choice \"none\" too: the model would be shown them.";
constexpr char kOurOrder[] =
    "only the order \"top_k\", \"top_p\", \"min_p\", \"temperature\" is accepted.";
constexpr char kFieldsInside[] = "give what it holds as fields of the request.";
constexpr char kStop[] = "use 'stop'.";
constexpr char kMaxTokens[] = "use 'max_tokens'.";
constexpr char kNoVariables[] =
    "only {} and a \"no\" to thinking, as in {\"enable_thinking\":false}, are accepted.";
constexpr char kNoThinking[] =
    "this server does not steer how a model thinks, so only false is accepted.";

// By whose name it is: OpenAI, vLLM, SGLang, llama.cpp, Ollama, Hugging Face's servers and library,
// KoboldCpp, text-generation-webui, TabbyAPI, Mistral. Not here, since alone they change nothing:
// figures of a sampler that is off unless one of these turns it on (dry_base, xtc_threshold,
// mirostat_tau, repeat_last_n, rep_pen_range, ...), and what is about caches, slots, scheduling
// hints and extra facts (cache_prompt, id_slot, keep_alive, timings_per_token, user, metadata,
// store, service_tier, ...).
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
    {"regex", kString, R"([""])", nullptr},
    {"regex_pattern", kString, R"([""])", nullptr},
    {"ebnf", kString, R"([""])", nullptr},
    {"structural_tag", kString | kObject, R"([""])", nullptr},
    {"prompt_embeds", kString | kArray, R"(["",[]])", nullptr},
    {"input_embeds", kArray, "[[]]", nullptr},
    {"image_data", kString | kArray | kObject, R"(["",[],{}])", nullptr},
    {"plugins", kArray, "[[]]", nullptr},
    // Several answers, parts of the prompt in the answer.
    {"n", kNumber, "[1]", nullptr},
    {"n_cmpl", kNumber, "[1]", nullptr},
    {"best_of", kNumber, "[1]", nullptr},
    {"use_beam_search", kBool, "[false]", nullptr},
    {"num_beams", kNumber, "[1]", nullptr},
    {"num_beam_groups", kNumber, "[1]", nullptr},
    {"num_return_sequences", kNumber, "[1]", nullptr},
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
    {"encoder_no_repeat_ngram_size", kNumber, "[0]", nullptr},
    {"diversity_penalty", kNumber, "[0]", nullptr},
    {"sequence_bias", kObject | kArray, "[{},[]]", nullptr},
    {"exponential_decay_length_penalty", kArray, "[[]]", nullptr},
    {"penalty_alpha", kNumber, "[0]", nullptr},
    {"guidance_scale", kNumber, "[1]", nullptr},
    {"cfg_scale", kNumber, "[1]", nullptr},
    {"negative_prompt", kString, R"([""])", nullptr},
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
    {"skew", kNumber, "[0]", nullptr},
    {"max_temp", kNumber, "[1]", nullptr},
    {"min_temp", kNumber, "[1]", nullptr},
    {"token_healing", kBool, "[false]", nullptr},
    {"sampler_seed", kNumber, "[-1]", "use 'seed'.", kBoth, "seed"},
    {"sampling_seed", kNumber, "[]", "use 'seed'.", kBoth, "seed"},
    {"random_seed", kNumber, "[]", "use 'seed'.", kBoth, "seed"},
    {"min_keep", kNumber, "[0,1]", nullptr},
    {"temperature_last", kBool, "[true]", nullptr},
    {"do_sample", kBool, "[true]", "only true is accepted; for greedy answers use temperature 0."},
    {"samplers", kArray | kString, R"([[],""])", kOurOrder},
    {"sampler_priority", kArray | kString, R"([[],""])", kOurOrder},
    // KoboldCpp's numbers: 0 is top_k, 2 top_p, 5 temperature; it has none of min_p.
    {"sampler_order", kArray, "[[],[6,0,1,3,4,2,5],[0,1,3,4,2,5]]",
     "only [6,0,1,3,4,2,5] is accepted."},
    {"logits_processors", kArray, "[[]]", nullptr},
    {"custom_logit_processor", kString, R"([""])", nullptr},
    {"lora", kArray, "[[]]", nullptr},
    {"lora_path", kString | kArray, R"(["",[]])", nullptr},
    {"preset", kString, R"([""])", nullptr},
    {"adapter_id", kString, R"([""])", nullptr},
    {"watermark", kBool, "[false]", nullptr},
    {"watermarking", kBool, "[false]", nullptr},
    {"vllm_xargs", kObject, "[{}]", nullptr},
    // Where the answer ends, and which tokens it may hold.
    {"min_tokens", kNumber, "[0]", nullptr},
    {"min_length", kNumber, "[0]", nullptr},
    {"min_new_tokens", kNumber, "[0]", nullptr},
    {"max_length", kNumber, "[]", kMaxTokens, kBoth, "max_tokens"},
    {"max_output_tokens", kNumber, "[]", kMaxTokens, kBoth, "max_tokens"},
    {"max_tokens_to_sample", kNumber, "[]", kMaxTokens, kBoth, "max_tokens"},
    {"auto_max_new_tokens", kBool, "[false]", nullptr},
    {"stop_token_ids", kArray, "[[]]", nullptr},
    {"eos_token_id", kNumber | kArray, "[[]]", nullptr},
    {"forced_eos_token_id", kNumber | kArray, "[[]]", nullptr},
    {"forced_bos_token_id", kNumber, "[]", nullptr},
    {"stop_sequences", kArray, "[[]]", kStop, kBoth, "stop"},
    {"stop_sequence", kArray | kString, R"([[],""])", kStop, kBoth, "stop"},
    {"stop_strings", kArray | kString, R"([[],""])", kStop, kBoth, "stop"},
    {"stopping_strings", kArray | kString, R"([[],""])", kStop, kBoth, "stop"},
    {"custom_stopping_strings", kArray | kString, R"([[],""])", kStop, kBoth, "stop"},
    {"stop_regex", kString | kArray, R"(["",[]])", nullptr},
    {"no_stop_trim", kBool, "[false]", nullptr},
    {"include_stop_str_in_output", kBool, "[false]", nullptr},
    {"allowed_token_ids", kArray, "[[]]", nullptr},
    {"allowed_tokens", kArray, "[[]]", nullptr},
    {"bad_words", kArray, "[[]]", nullptr},
    {"bad_words_ids", kArray, "[[]]", nullptr},
    {"force_words_ids", kArray, "[[]]", nullptr},
    {"suppress_tokens", kArray, "[[]]", nullptr},
    {"begin_suppress_tokens", kArray, "[[]]", nullptr},
    {"banned_strings", kArray, "[[]]", nullptr},
    {"banned_tokens", kArray | kString, R"([[],""])", nullptr},
    {"custom_token_bans", kString, R"([""])", nullptr},
    {"ban_eos_token", kBool, "[false]", "use 'ignore_eos'."},
    {"repetition_detection", kObject, "[]", nullptr},
    {"n_indent", kNumber, "[0]", nullptr},
    {"singleline", kBool, "[false]", nullptr},
    {"t_max_predict_ms", kNumber, "[-1,0]", nullptr},
    {"max_time", kNumber, "[0]", nullptr},
    {"skip_special_tokens", kBool, "[true]", nullptr},
    {"spaces_between_special_tokens", kBool, "[true]", nullptr},
    // What the answer shows besides its text.
    {"prompt_logprobs", kNumber | kBool, "[false]", nullptr},
    {"logprob_token_ids", kArray, "[[]]", nullptr},
    {"n_probs", kNumber, "[0]", "use 'logprobs'."},
    {"top_n_tokens", kNumber, "[0]", "use 'top_logprobs'."},
    {"return_hidden_states", kBool, "[false]", nullptr},
    {"render_special", kBool, "[false]", nullptr},
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
    {"chat_template_kwargs", kObject, "[{}]", kNoVariables},
    {"template_vars", kObject, "[{}]", kNoVariables},
    {"prompt_template", kString, R"([""])", nullptr},
    {"instruction_template", kString, R"([""])", nullptr},
    {"instruction_template_str", kString, R"([""])", nullptr},
    {"chat_template_str", kString, R"([""])", nullptr},
    {"response_prefix", kString, R"([""])", nullptr},
    {"continue_", kBool, "[false]", nullptr},
    {"continue_assistant_turn", kBool, "[false]", nullptr},
    {"adapter", kString | kObject, R"(["",{}])", nullptr},
    {"memory", kString, R"([""])", "put it in front of the prompt."},
    {"guideline", kString, R"([""])", "use a message of role 'system'."},
    {"preamble", kString, R"([""])", "use a message of role 'system'."},
    {"safe_prompt", kBool, "[false]", "use a message of role 'system'."},
    {"documents", kArray, "[[]]", nullptr},
    {"system", kString | kArray, R"(["",[]])", "use a message of role 'system'."},
    {"instructions", kString, R"([""])", "use a message of role 'system'."},
    {"template", kString, R"([""])", nullptr},
    {"raw", kBool, "[false]", nullptr},
    {"context", kArray, "[[]]", nullptr},
    {"options", kObject, "[{}]", kFieldsInside},
    {"parameters", kObject, "[{}]", kFieldsInside},
    {"sampling_params", kObject, "[{}]", kFieldsInside},
    {"generation_config", kObject | kString, R"([{},""])", kFieldsInside},
    {"extra_body", kObject, "[{}]", kFieldsInside},
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

// The same of a message. Not here: what other servers gave back with a message and nobody reads
// (annotations, reasoning_content, ...), and hints (cache_control, weight, ...).
constexpr KnownField kKnownOfMessages[] = {
    {"tool_calls", kArray, "[[]]", nullptr},
    {"function_call", kString | kObject, R"(["",{}])", nullptr},
    {"audio", kObject, "[{}]", nullptr},
    {"images", kArray, "[[]]", nullptr},
    {"videos", kArray, "[[]]", nullptr},
    {"files", kArray, "[[]]", nullptr},
    {"file_ids", kArray, "[[]]", nullptr},
    {"attachments", kArray, "[[]]", nullptr},
    {"documents", kArray, "[[]]", nullptr},
    {"tools", kArray, "[[]]", nullptr},
    // The model is to go on with this message.
    {"prefix", kBool, "[false]", nullptr},
    {"partial", kBool, "[false]", nullptr},
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

bool Holds(const json& values, const json& value) {
  return std::find(values.begin(), values.end(), value) != values.end();
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
struct Table {
  explicit Table(std::span<const KnownField> known) : rows(known) {
    for (const KnownField& row : rows) neutral.push_back(json::parse(row.neutral));
  }
  const std::span<const KnownField> rows;
  std::vector<json> neutral;
};

const Table& RequestTable() {
  static const auto* const kTable = new Table(kKnown);
  return *kTable;
}

const Table& MessageTable() {
  static const auto* const kTable = new Table(kKnownOfMessages);
  return *kTable;
}

// A template's variables of which each is absent, or says no to what this server does not do.
bool SaysOnlyNo(const json& variables) {
  for (const auto& [name, value] : variables.items()) {
    const bool no = (name == "enable_thinking" || name == "thinking") && value == false;
    if (!no && !value.is_null()) return false;
  }
  return true;
}

// Whether what is asked for under one name is asked for under the other too: an equal value, or a
// list of which each element is in the other.
bool SaysTheSame(const json& value, const json* other) {
  if (other == nullptr) return false;
  if (value == *other) return true;
  if (!value.is_array()) return other->is_array() && Holds(*other, value);
  return std::all_of(value.begin(), value.end(), [&](const json& element) {
    return element == *other || (other->is_array() && Holds(*other, element));
  });
}

// Beyond the neutral values: what a row's name says of how a value is read.
bool ChangesNothing(const KnownField& row, const json& value, const Fields& fields) {
  const std::string_view name = row.name;
  if (name == "samplers" || name == "sampler_priority")
    return value.is_array() && IsOurOrder(value);
  if (name == "chat_template_kwargs" || name == "template_vars") return SaysOnlyNo(value);
  return row.same_as != nullptr && SaysTheSame(value, fields.Find(row.same_as));
}

absl::Status Refuse(const Table& table, const Fields& fields, unsigned endpoint) {
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const KnownField& row = table.rows[i];
    if ((row.endpoints & endpoint) == 0) continue;
    const json* value = fields.Find(row.name);
    if (value == nullptr) continue;
    const std::string name = fields.NameOf(row.name);
    if ((row.types & TypeOf(*value)) == 0) return WrongType(name, TypeNames(row.types), *value);
    if (Holds(table.neutral[i], *value) || ChangesNothing(row, *value, fields)) continue;
    return NotYet(name, Instead(row, table.neutral[i]));
  }
  return absl::OkStatus();
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
  return Refuse(RequestTable(), fields, static_cast<unsigned>(endpoint));
}

absl::Status RefuseInMessage(const Fields& message) {
  return Refuse(MessageTable(), message, kBoth);
}

}  // namespace lanyard::web
