// The model that a pool serves, as the coordinator needs it: manifest with digests, tokenizer and
// chat template. It holds no weights; workers read them through the part provider.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "coordinator/serve/generator.h"
#include "model/chat_template.h"
#include "model/gguf.h"
#include "model/manifest.h"
#include "model/tokenizer.h"

namespace lanyard::coordinator {

// What ends the reading of a prompt early.
struct PromptLimits {
  uint32_t context = std::numeric_limits<uint32_t>::max();  // tokens of prompt and answer
  std::function<bool()> stop = {};                          // see model::EncodeLimits
};

struct ServedModel {
  std::string id;  // the file's stem
  std::string path;
  int64_t created_unix_s = 0;  // time of the file
  uint64_t bytes = 0;
  std::shared_ptr<const model::GgufFile> file;
  std::shared_ptr<const model::Manifest> manifest;  // with its digests
  std::unique_ptr<const model::Tokenizer> tokenizer;
  // An error when the model has no template that we can render; the error says why.
  absl::StatusOr<model::ChatTemplate> chat_template = FailedPrecondition("not loaded");
  std::vector<int32_t> eos_ids;

  // Opens and checks the file. Hashing reads all of it once. The digests are kept in
  // `state_directory` by path, size and time of change, so that a second start is quick; an empty
  // path keeps none.
  static absl::StatusOr<std::shared_ptr<const ServedModel>> Load(
      const std::string& path, const std::string& state_directory);

  // The prompt's tokens; BadField for what cannot be one. Texts of control tokens become those
  // tokens in a raw prompt (unless it says otherwise) and in what the template itself writes, never
  // in what people wrote in a chat. OutOfRange for a prompt that certainly does not fit: by its
  // bytes before it is tokenised, and where it has more than twice as many tokens as the context.
  // A shorter one is counted to its end, so that the client can be told by how much it is too long.
  // Cancelled when limits.stop said so.
  absl::StatusOr<std::vector<int32_t>> Encode(const GenerateRequest& request,
                                              const PromptLimits& limits = {}) const;
  // InvalidArgument when so many tokens hold no conversation at all: what the template puts around
  // the shortest question, and one token of an answer.
  absl::Status CheckContext(uint32_t context) const;

 private:
  absl::StatusOr<std::vector<model::PromptPart>> RenderChat(const GenerateRequest& request) const;
};

}  // namespace lanyard::coordinator
