#include "model/detokenizer.h"

#include <utility>

#include "model/unicode.h"

namespace lanyard::model {

std::string Utf8Assembler::Push(std::string_view bytes) {
  std::string joined = std::exchange(held_, {});
  joined.append(bytes);
  std::string out;
  std::string_view rest = joined;
  while (!rest.empty()) {
    const Utf8Step step = DecodeUtf8(rest);
    if (step.kind == Utf8Step::kIncomplete) {
      held_ = std::string(rest);
      break;
    }
    if (step.kind == Utf8Step::kChar) {
      out.append(rest.substr(0, step.bytes));
    } else {
      AppendUtf8(0xFFFD, &out);
    }
    rest.remove_prefix(step.bytes);
  }
  return out;
}

std::string Utf8Assembler::Flush() {
  std::string out;
  if (!std::exchange(held_, {}).empty()) AppendUtf8(0xFFFD, &out);
  return out;
}

StreamDecoder::StreamDecoder(const Tokenizer* tokenizer, Options options)
    : tokenizer_(tokenizer),
      options_(options),
      strip_space_(options.whole_text && tokenizer->add_space_prefix()) {}

std::string StreamDecoder::Push(int32_t id) {
  const bool special = tokenizer_->IsSpecial(id);
  if (special && !options_.render_special) return {};
  const std::string piece = tokenizer_->PieceBytes(id);
  std::string_view bytes = piece;
  if (!special && !bytes.empty() && std::exchange(strip_space_, false) && bytes[0] == ' ') {
    bytes.remove_prefix(1);
  }
  return assembler_.Push(bytes);
}

}  // namespace lanyard::model
