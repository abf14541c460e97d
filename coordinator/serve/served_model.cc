#include "coordinator/serve/served_model.h"

#include <sys/stat.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "base/clock.h"
#include "base/field_error.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/size.h"
#include "coordinator/serve/request_check.h"
#include "coordinator/state/state_dir.h"

namespace lanyard::coordinator {
namespace {

constexpr char kCacheHeader[] = "lanyard-digests-1";

// The key of the digests: another file, or a changed one, has another key.
std::string CacheKey(const struct stat& st) {
  return absl::StrCat(kCacheHeader, " ", st.st_size, " ", st.st_mtim.tv_sec, ".",
                      st.st_mtim.tv_nsec, " ", st.st_ino);
}

std::string CacheName(const std::string& path) {
  std::error_code ec;
  const std::string absolute = std::filesystem::absolute(path, ec).string();
  return absl::StrCat(
      "digests-", Sha256Hex({reinterpret_cast<const uint8_t*>(absolute.data()), absolute.size()})
                      .substr(0, 16));
}

// Fills in digests that were kept. Returns false when they are of another file or make no sense.
bool Restore(const std::string& text, const std::string& key, model::Manifest* manifest) {
  std::istringstream in(text);
  std::string line;
  if (!std::getline(in, line) || line != key) return false;
  model::Manifest filled = *manifest;
  if (!(in >> filled.digest)) return false;
  for (model::Part& part : filled.parts) {
    if (!(in >> part.sha256)) return false;
  }
  if (!model::ValidateManifest(filled).ok()) return false;
  *manifest = std::move(filled);
  return true;
}

std::string Keep(const std::string& key, const model::Manifest& manifest) {
  std::string text = absl::StrCat(key, "\n", manifest.digest, "\n");
  for (const model::Part& part : manifest.parts) absl::StrAppend(&text, part.sha256, "\n");
  return text;
}

absl::StatusOr<model::Manifest> HashedManifest(const model::GgufFile& file, const struct stat& st,
                                               const std::string& state_directory) {
  const std::string key = CacheKey(st);
  std::optional<StateDirectory> state;
  if (!state_directory.empty()) {
    ASSIGN_OR_RETURN(state, StateDirectory::Open(state_directory));
    ASSIGN_OR_RETURN(model::Manifest manifest, model::BuildManifest(file, /*hash=*/false));
    const auto kept = state->Read(CacheName(file.path()));
    if (kept && Restore(*kept, key, &manifest)) return manifest;
  }
  LogInfo("hashing ", FormatSize(static_cast<uint64_t>(st.st_size)),
          " of weights, once for this file");
  const TimeNs start = MonotonicNow();
  ASSIGN_OR_RETURN(model::Manifest manifest, model::BuildManifest(file, /*hash=*/true));
  LogInfo("hashed in ", (MonotonicNow() - start) / kMillisecond, " ms");
  if (state) {
    const absl::Status kept = state->Write(CacheName(file.path()), Keep(key, manifest));
    if (!kept.ok()) LogWarning("the digests are not kept: ", kept.message());
  }
  return manifest;
}

absl::StatusOr<std::vector<int32_t>> CheckedIds(const std::vector<int32_t>& ids, int32_t n_vocab) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= n_vocab) {
      return BadField("prompt",
                      absl::StrCat("prompt token ", i, " is ", ids[i],
                                   "; the vocabulary has ids 0 to ", n_vocab - 1),
                      "invalid_value");
    }
  }
  return ids;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ServedModel>> ServedModel::Load(
    const std::string& path, const std::string& state_directory) {
  auto out = std::make_shared<ServedModel>();
  out->path = path;
  out->id = std::filesystem::path(path).stem().string();
  ASSIGN_OR_RETURN(std::unique_ptr<model::GgufFile> file, model::GgufFile::Open(path));
  struct stat st = {};
  if (::stat(path.c_str(), &st) != 0) return NotFound("cannot stat ", path);
  out->created_unix_s = st.st_mtim.tv_sec;
  out->bytes = static_cast<uint64_t>(st.st_size);
  RETURN_IF_ERROR(
      model::ShapeFromGguf(*file));  // an unknown family is named before its tokenizer is missed
  ASSIGN_OR_RETURN(out->tokenizer, model::Tokenizer::Load(*file));
  ASSIGN_OR_RETURN(model::Manifest manifest, HashedManifest(*file, st, state_directory));
  if (static_cast<uint32_t>(out->tokenizer->n_vocab()) != manifest.shape.n_vocab) {
    return InvalidArgument(path, ": the tokenizer has ", out->tokenizer->n_vocab(),
                           " tokens, the model ", manifest.shape.n_vocab, " rows");
  }
  for (int32_t id = 0; id < out->tokenizer->n_vocab(); ++id) {
    if (out->tokenizer->IsEog(id)) out->eos_ids.push_back(id);
  }
  out->chat_template = model::ChatTemplate::ForModel(*file, *out->tokenizer);
  if (out->chat_template.ok()) {
    for (const std::string& warning : out->chat_template->warnings())
      LogWarning("the model's file: ", warning);
  } else {
    LogWarning("chat is off: ", out->chat_template.status().message());
  }
  out->manifest = std::make_shared<const model::Manifest>(std::move(manifest));
  out->file = std::move(file);
  return out;
}

absl::StatusOr<std::vector<model::PromptPart>> ServedModel::RenderChat(
    const GenerateRequest& request) const {
  if (!chat_template.ok()) {
    return BadField("messages",
                    absl::StrCat("the model has no chat template that can be used (",
                                 chat_template.status().message(), "); ask by /v1/completions"),
                    "no_chat_template");
  }
  // Where the template does not read it, every effort gives the same answer, so any is taken.
  if (!request.reasoning_effort.empty() &&
      (chat_template->Mentions("reasoning_effort") || chat_template->Mentions("enable_thinking"))) {
    return BadField("reasoning_effort",
                    "'reasoning_effort' is not supported yet by this server and would change the "
                    "answer of this model; leave it out.",
                    "unsupported_parameter");
  }
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  for (const ChatMessage& message : std::get<std::vector<ChatMessage>>(request.prompt)) {
    nlohmann::ordered_json& entry = messages.emplace_back();
    entry["role"] = message.role;
    entry["content"] = message.content;
    if (!message.name.empty()) entry["name"] = message.name;
  }
  return chat_template->RenderChat(messages, {});
}

absl::StatusOr<std::vector<int32_t>> ServedModel::Encode(const GenerateRequest& request,
                                                         const PromptLimits& limits) const {
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&request.prompt)) {
    return CheckedIds(*ids, tokenizer->n_vocab());
  }
  const uint64_t max_tokens = 2 * uint64_t{limits.context};
  const model::EncodeLimits encode{static_cast<size_t>(max_tokens), limits.stop};
  absl::StatusOr<std::vector<int32_t>> ids;
  const auto* text = std::get_if<std::string>(&request.prompt);
  if (text != nullptr) {
    RETURN_IF_ERROR(CheckPromptMayFit(tokenizer->FewestTokens(*text), limits.context));
    ids = tokenizer->Encode(*text, {.add_special = true, .parse_special = request.parse_special},
                            encode);
  } else {
    // Only now, since a template may leave out much of what it is given.
    ASSIGN_OR_RETURN(const std::vector<model::PromptPart> parts, RenderChat(request));
    RETURN_IF_ERROR(CheckPromptMayFit(tokenizer->FewestTokens(parts), limits.context));
    ids = tokenizer->Encode(parts, /*add_special=*/true, encode);
  }
  if (ids.ok() || absl::IsCancelled(ids.status())) return ids;
  if (absl::IsOutOfRange(ids.status())) return CheckPromptMayFit(max_tokens + 1, limits.context);
  // The same text would fail again, so it is the client's, whatever the limit was.
  return BadField(text != nullptr ? "prompt" : "messages", StdView(ids.status().message()),
                  "invalid_value");
}

absl::Status ServedModel::CheckContext(uint32_t context) const {
  GenerateRequest shortest;
  shortest.prompt = std::string("a");
  if (chat_template.ok()) shortest.prompt = std::vector<ChatMessage>{{"user", "a", ""}};
  const absl::StatusOr<std::vector<int32_t>> tokens = Encode(shortest);
  if (!tokens.ok() || context > tokens->size()) return absl::OkStatus();
  return InvalidArgument(
      "--context ", context, ": ", id, " takes ", tokens->size(),
      " tokens for the shortest question, and an answer needs one more; give at ", "least ",
      tokens->size() + 1, ", for example 4096");
}

}  // namespace lanyard::coordinator
