#include "model/vocab.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/hash/hash.h"
#include "model/counted.h"
#include "model/gguf.h"
#include "model/tokenizer_bpe.h"
#include "model/unicode.h"

namespace lanyard::model {
namespace {

// These texts end a generation whatever their type says, for files that lack the key (llama.cpp's
// list).
constexpr std::array<std::string_view, 33> kEogTexts = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<｜end▁of▁sentence｜>", "[e~[",
    // Padding, repository and file marks of fill-in-the-middle models.
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>",
    "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"};

// Control tokens that converters have left with another type.
constexpr std::array<std::string_view, 23> kControlTexts = {
    "<|fim_prefix|>", "<fim-prefix>",    "<fim_prefix>",   "<｜fim▁begin｜>", "<PRE>",
    "▁<PRE>",         "<|code_prefix|>", "<|prefix|>",     "<|fim_suffix|>",  "<fim-suffix>",
    "<fim_suffix>",   "<｜fim▁hole｜>",  "<SUF>",          "▁<SUF>",          "<|code_suffix|>",
    "<|suffix|>",     "<|fim_middle|>",  "<fim-middle>",   "<fim_middle>",    "<｜fim▁end｜>",
    "<MID>",          "▁<MID>",          "<|code_middle|>"};

std::string Quoted(std::string_view text) {
  return absl::StrCat("'", EscapeText(text.substr(0, 60)), "'");
}

uint64_t HashOf(std::string_view text) { return absl::HashOf(text); }

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// True for "<0x41>" exactly: two hex digits and nothing else ("<0x-1>" has been used to write
// before a buffer).
bool IsByteToken(std::string_view text) {
  return text.size() == 6 && text.substr(0, 3) == "<0x" && text[5] == '>' &&
         HexDigit(text[3]) >= 0 && HexDigit(text[4]) >= 0;
}

// Whether the kind of vocabulary that the file has reads a key.
enum class Use { kRead, kUnused };

// A key that may be absent. One that nothing reads is told and left out where it cannot be read.
template <typename T, typename Out>
absl::Status Optional(absl::StatusOr<T> value, Out* out, VocabData* data, Use use = Use::kRead) {
  if (value.ok()) {
    *out = *std::move(value);
  } else if (!absl::IsNotFound(value.status())) {
    if (use == Use::kRead) return value.status();
    data->unused_faults.push_back(Str(value.status().message()));
  }
  return absl::OkStatus();
}

// That a file lacks a key is a fault of the file, and no question for something that is not there.
absl::Status Required(const absl::Status& status) {
  if (!absl::IsNotFound(status)) return status;
  return InvalidArgument(status.message(),
                         ", so that no text becomes tokens; the file was made without its "
                         "tokenizer: convert the model again");
}

constexpr char kPrefix[] = "tokenizer.ggml.";
constexpr std::string_view kIdSuffix = "_token_id";

// How converters write that there is no such token.
bool IsNone(int64_t id) { return id == 0xFFFFFFFF || id == -1; }

bool IsInside(int64_t id, int32_t n_vocab) { return id >= 0 && id < n_vocab; }

absl::Status OutsideError(const char* key, int64_t id, int32_t n_vocab, const char* use) {
  return InvalidArgument(kPrefix, key, " is ", id, " but the vocabulary has ", n_vocab,
                         " tokens, and ", use,
                         "; the file is damaged or was converted wrongly: convert it again");
}

// Keys that end in _token_id, those that VocabData names aside.
absl::Status ReadUnusedIds(const GgufFile& file, VocabData* data) {
  for (const GgufFile::Entry& entry : file.Entries()) {
    if (!entry.key.starts_with(kPrefix) || !entry.key.ends_with(kIdSuffix)) continue;
    std::string name(entry.key.substr(sizeof(kPrefix) - 1));
    constexpr std::array<std::string_view, 5> kUsed = {
        "bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id", "unknown_token_id"};
    if (std::find(kUsed.begin(), kUsed.end(), name) != kUsed.end()) continue;
    std::optional<int64_t> id;
    RETURN_IF_ERROR(Optional(file.Int(entry.key), &id, data, Use::kUnused));
    if (id) data->unused_ids.emplace_back(std::move(name), *id);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VocabData> ReadVocabData(const GgufFile& file) {
  VocabData data;
  const auto model = file.String("tokenizer.ggml.model");
  RETURN_IF_ERROR(Required(model.status()));
  data.model = std::string(*model);
  const Use of_bpe = data.model == "llama" ? Use::kUnused : Use::kRead;
  const Use of_spm = data.model == "gpt2" ? Use::kUnused : Use::kRead;
  RETURN_IF_ERROR(Optional(file.String("tokenizer.ggml.pre"), &data.pre, &data, of_bpe));
  auto tokens = file.Strings("tokenizer.ggml.tokens");
  RETURN_IF_ERROR(Required(tokens.status()));
  data.tokens = *std::move(tokens);
  RETURN_IF_ERROR(Optional(file.Floats("tokenizer.ggml.scores"), &data.scores, &data, of_spm));
  RETURN_IF_ERROR(Optional(file.Ints("tokenizer.ggml.token_type"), &data.types, &data));
  RETURN_IF_ERROR(Optional(file.Strings("tokenizer.ggml.merges"), &data.merges, &data, of_bpe));
  if (data.model == "gpt2" && data.merges.empty()) return NoMerges("is missing or empty");
  RETURN_IF_ERROR(Optional(file.Int("tokenizer.ggml.bos_token_id"), &data.bos, &data));
  RETURN_IF_ERROR(Optional(file.Int("tokenizer.ggml.eos_token_id"), &data.eos, &data));
  RETURN_IF_ERROR(Optional(file.Int("tokenizer.ggml.eot_token_id"), &data.eot, &data));
  RETURN_IF_ERROR(Optional(file.Int("tokenizer.ggml.eom_token_id"), &data.eom, &data));
  RETURN_IF_ERROR(Optional(file.Int("tokenizer.ggml.unknown_token_id"), &data.unk, &data, of_spm));
  RETURN_IF_ERROR(ReadUnusedIds(file, &data));
  RETURN_IF_ERROR(Optional(file.Bool("tokenizer.ggml.add_bos_token"), &data.add_bos, &data));
  RETURN_IF_ERROR(Optional(file.Bool("tokenizer.ggml.add_eos_token"), &data.add_eos, &data));
  RETURN_IF_ERROR(Optional(file.Bool("tokenizer.ggml.add_space_prefix"), &data.add_space_prefix,
                           &data, of_spm));
  return data;
}

absl::StatusOr<Vocab> Vocab::Make(const VocabData& data, std::vector<std::string>* warnings) {
  Vocab vocab;
  if (data.model == "gpt2") {
    vocab.kind_ = VocabKind::kBpe;
  } else if (data.model == "llama") {
    vocab.kind_ = VocabKind::kSpm;
  } else {
    return Unimplemented("tokenizer.ggml.model '", data.model,
                         "' is not supported; known are 'gpt2' (byte-level BPE) and 'llama' "
                         "(SentencePiece BPE)");
  }
  vocab.pre_ = data.pre;
  RETURN_IF_ERROR(vocab.AddTokens(data, warnings));
  RETURN_IF_ERROR(vocab.SetScores(data, warnings));
  RETURN_IF_ERROR(vocab.SetSpecialIds(data, warnings));
  vocab.DetectSpecialTexts();
  if (vocab.eog_.empty()) {
    warnings->push_back(
        "no token ends an answer (no eos_token_id and none of the known texts), so every answer "
        "runs to its max_tokens");
  }
  return vocab;
}

absl::Status Vocab::AddTokens(const VocabData& data, std::vector<std::string>* warnings) {
  const size_t n = data.tokens.size();
  if (n == 0 || n > 0x7FFFFFFF) {
    return InvalidArgument("tokenizer.ggml.tokens has ", n,
                           " tokens; 1 to 2147483647 are possible");
  }
  if (!data.types.empty() && data.types.size() != n) {
    return InvalidArgument("tokenizer.ggml.token_type has ", data.types.size(), " values for ", n,
                           " tokens");
  }
  offsets_.reserve(n + 1);
  offsets_.push_back(0);
  types_.reserve(n);
  by_hash_.reserve(n);
  Counted empty;
  for (size_t i = 0; i < n; ++i) {
    if (data.tokens[i].empty()) empty.Add("token ", i);
    RETURN_IF_ERROR(AddToken(data.tokens[i], data.types.empty() ? 1 : data.types[i]));
  }
  empty.Report("tokens with an empty text are never made of text and print nothing", warnings);
  return absl::OkStatus();
}

// SentencePiece alone goes by them.
absl::Status Vocab::SetScores(const VocabData& data, std::vector<std::string>* warnings) {
  Counted unused;
  for (const std::string& fault : data.unused_faults) unused.Add(fault);
  const auto nan = std::find_if(data.scores.begin(), data.scores.end(),
                                [](float score) { return std::isnan(score); });
  std::string fault;
  if (!data.scores.empty() && data.scores.size() != data.tokens.size()) {
    fault = absl::StrCat("tokenizer.ggml.scores has ", data.scores.size(), " values for ",
                         data.tokens.size(), " tokens");
  } else if (nan != data.scores.end()) {
    fault = absl::StrCat("tokenizer.ggml.scores: value ", nan - data.scores.begin(), " is NaN");
  }
  if (kind_ == VocabKind::kSpm) {
    if (!fault.empty()) return InvalidArgument(fault);
    scores_ = data.scores;
  } else if (!fault.empty()) {
    unused.Add(fault);
  }
  unused.Report("keys of the tokenizer that nothing here reads are wrong and were left out",
                warnings);
  return absl::OkStatus();
}

absl::Status Vocab::AddToken(std::string_view text, int64_t type) {
  const int32_t id = size();
  types_.push_back(type >= 0 && type <= 6 ? static_cast<TokenType>(type) : TokenType::kUndefined);
  if (types_.back() == TokenType::kByte && !IsByteToken(text)) {
    return InvalidArgument("tokenizer.ggml.tokens: token ", id, " ", Quoted(text),
                           " is of type byte but is not <0x00> to <0xFF>");
  }
  // llama.cpp refuses repeated texts too: text to token would depend on the reader.
  if (const int32_t other = Find(text); other != kNoToken) {
    return InvalidArgument("tokenizer.ggml.tokens: ", Quoted(text), " is both token ", other,
                           " and ", id);
  }
  texts_.append(text);
  offsets_.push_back(texts_.size());
  if (!text.empty() && !by_hash_.try_emplace(HashOf(text), id).second) {
    collisions_.emplace(std::string(text), id);
  }
  return absl::OkStatus();
}

absl::Status Vocab::SetSpecialIds(const VocabData& data, std::vector<std::string>* warnings) {
  if (kind_ == VocabKind::kSpm) {  // what llama.cpp takes where the keys are absent
    if (size() > 1) bos_ = 1;
    if (size() > 2) eos_ = 2;
    unk_ = 0;
  }
  Counted outside;
  const auto take = [&](std::string_view key, const std::optional<int64_t>& id, int32_t* out) {
    if (!id) return;
    if (IsInside(*id, size())) {
      if (out != nullptr) *out = static_cast<int32_t>(*id);
    } else {
      outside.Add(kPrefix, AbslView(key), " is ", *id);
    }
  };
  take("bos_token_id", data.bos, &bos_);
  take("eos_token_id", data.eos, &eos_);
  take("eot_token_id", data.eot, &eot_);
  take("eom_token_id", data.eom, &eom_);
  take("unknown_token_id", data.unk, &unk_);
  for (const auto& [key, id] : data.unused_ids) take(key, id, nullptr);
  RETURN_IF_ERROR(SetBosAndEos(data));
  outside.Report(absl::StrCat("special ids outside the vocabulary of ", size(),
                              " tokens are taken as if they were absent"),
                 warnings);
  add_space_prefix_ =
      data.add_space_prefix.value_or(kind_ == VocabKind::kSpm) && kind_ == VocabKind::kSpm;
  return absl::OkStatus();
}

// Whether they are added, and that those which are used exist.
absl::Status Vocab::SetBosAndEos(const VocabData& data) {
  const auto wrong = [&](const std::optional<int64_t>& id) {
    return id && !IsInside(*id, size()) && !IsNone(*id);
  };
  const bool llama_bpe =
      kind_ == VocabKind::kBpe && (pre_ == "llama-bpe" || pre_ == "llama3" || pre_ == "llama-v3");
  add_bos_ = data.add_bos.value_or(kind_ == VocabKind::kSpm || llama_bpe);
  add_eos_ = data.add_eos.value_or(false);
  if (add_bos_ && wrong(data.bos)) {
    return OutsideError("bos_token_id", *data.bos, size(),
                        data.add_bos ? "every prompt begins with it (add_bos_token is true)"
                                     : "every prompt begins with it (as this kind of tokenizer "
                                       "does where add_bos_token is absent)");
  }
  if (wrong(data.eos)) {
    return OutsideError("eos_token_id", *data.eos, size(), "answers end at it");
  }
  if (add_bos_ && bos_ == kNoToken) {
    if (data.add_bos) {
      return InvalidArgument("tokenizer.ggml.add_bos_token is true but there is no bos_token_id");
    }
    add_bos_ = false;
  }
  if (add_eos_ && eos_ == kNoToken) {
    return InvalidArgument("tokenizer.ggml.add_eos_token is true but there is no eos_token_id");
  }
  return absl::OkStatus();
}

void Vocab::DetectSpecialTexts() {
  for (const std::string_view text : kControlTexts) {
    if (const int32_t id = Find(text); id != kNoToken) types_[id] = TokenType::kControl;
  }
  for (const std::string_view text : kEogTexts) {
    const int32_t id = Find(text);
    if (id == kNoToken) continue;
    // Byte-level BPE has learnt this HTML tag as an ordinary word (Qwen 2); it ends nothing there.
    const bool html_tag =
        text == "</s>" && kind_ == VocabKind::kBpe && types_[id] == TokenType::kNormal;
    if (html_tag) continue;
    types_[id] = TokenType::kControl;
    eog_.insert(id);
  }
  for (const int32_t id : {eos_, eot_, eom_}) {
    if (id != kNoToken) eog_.insert(id);
  }
  // In the "harmony" format <|end|> ends a message, not the answer.
  const auto ends = [&](std::string_view text) {
    const int32_t id = Find(text);
    return id != kNoToken && eog_.contains(id);
  };
  const bool harmony = ends("<|return|>") && (ends("<|call|>") || ends("<|calls|>"));
  const bool solar = ends("<|flush|>") && (ends("<|call|>") || ends("<|calls|>"));
  if (harmony || solar) {
    if (const int32_t id = Find("<|end|>"); id != kNoToken && id != eos_) eog_.erase(id);
  }
}

int32_t Vocab::Find(std::string_view text) const {
  if (text.empty()) return kNoToken;
  const auto it = by_hash_.find(HashOf(text));
  if (it == by_hash_.end()) return kNoToken;
  if (Text(it->second) == text) return it->second;
  const auto other = collisions_.find(AbslView(text));
  return other == collisions_.end() ? kNoToken : other->second;
}

uint8_t Vocab::ByteOf(int32_t id) const {
  const std::string_view text = Text(id);
  return static_cast<uint8_t>(HexDigit(text[3]) * 16 + HexDigit(text[4]));
}

}  // namespace lanyard::model
