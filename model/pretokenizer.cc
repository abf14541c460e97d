#include "model/pretokenizer.h"

#include <array>
#include <span>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace lanyard::model {
namespace {

// Unicode's White_Space inside a class. PCRE2's own \s also takes U+180E, which left that set in
// Unicode 6.3.
#define WS R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})"
#define S "[" WS "]"
#define NOT_S "[^" WS "]"
#define GPT2 \
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" S "+(?!" NOT_S ")|" S "+"
// Llama 3 and Qwen 2 write it like this; they differ in how many digits go together.
#define CL100K(DIGITS)                                                                          \
  "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" DIGITS "| ?[^" WS \
  "\\p{L}\\p{N}]+[\\r\\n]*|" S "*[\\r\\n]+|" S "+(?!" NOT_S ")|" S "+"

struct Row {
  std::string_view names;  // separated by spaces, with one at both ends
  std::array<const char*, 5>
      regexes;  // each splits the pieces that the one before it left; null ends the list
  bool ignore_merges = false;
};

constexpr Row kRows[] = {
    {" gpt-2 phi-2 jina-es jina-de gigachat a.x-4.0 mellum mpt olmo jais trillion granite-docling "
     "exaone4 ",
     {GPT2}},
    {" smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ", {"\\p{N}", GPT2}},
    {" llama-bpe llama3 llama-v3 ", {CL100K("\\p{N}{1,3}")}, true},
    {" qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez ", {CL100K("\\p{N}")}},
    {" deepseek-coder ",
     {"[\\r\\n]", S "?\\p{L}+", S "?\\p{P}+",
      "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+", "\\p{N}"}},
    {" default ", {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
};
#undef CL100K
#undef GPT2
#undef NOT_S
#undef S
#undef WS

constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;

const Row* FindRow(std::string_view name) {
  if (name.empty()) name = "default";
  if (name.find(' ') != std::string_view::npos) return nullptr;
  const std::string word = " " + std::string(name) + " ";
  for (const Row& row : kRows) {
    if (row.names.find(word) != std::string_view::npos) return &row;
  }
  return nullptr;
}

std::string ErrorText(int code) {
  PCRE2_UCHAR8 text[120] = {};
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

}  // namespace

// The memory for one call of Split; PCRE2 does not allow two threads to share it.
struct Pretokenizer::Scratch {
  Scratch() {
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Scratch() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  pcre2_match_data* const data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* const context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* const stack = pcre2_jit_stack_create(32 * 1024, 1024 * 1024, nullptr);
};

struct Pretokenizer::Regex {
  ~Regex() { pcre2_code_free(code); }
  pcre2_code* code = nullptr;
};

Pretokenizer::Pretokenizer() = default;
Pretokenizer::~Pretokenizer() = default;

absl::StatusOr<std::unique_ptr<Pretokenizer>> Pretokenizer::Make(std::string_view name) {
  const Row* row = FindRow(name);
  if (row == nullptr) {
    std::string known;
    for (const Row& r : kRows) known.append(r.names.substr(0, r.names.size() - 1));
    return Unimplemented("pre-tokeniser '", AbslView(name),
                         "' (tokenizer.ggml.pre) is not supported; known are:", known);
  }
  std::unique_ptr<Pretokenizer> out(new Pretokenizer());
  out->ignore_merges_ = row->ignore_merges;
  for (const char* pattern : row->regexes) {
    if (pattern == nullptr) break;
    int error = 0;
    PCRE2_SIZE offset = 0;
    auto regex = std::make_unique<Regex>();
    regex->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                                PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
    if (regex->code == nullptr) {
      return Internal("pre-tokeniser '", AbslView(name), "': ", ErrorText(error), " at ", offset,
                      " of ", pattern);
    }
    // Where there is no JIT, the interpreter gives the same result.
    pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE);
    out->regexes_.push_back(std::move(regex));
  }
  return out;
}

// Depth first, so that a long text's first words are out before its last are looked for.
absl::Status Pretokenizer::SplitFrom(size_t level, std::string_view text, const Scratch& scratch,
                                     WordFn word) const {
  if (level == regexes_.size()) return word(text);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t begin = 0;  // beginning of the text that is not given out yet
  while (begin < text.size()) {
    const int count =
        pcre2_match(regexes_[level]->code, subject, text.size(), begin,
                    PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, scratch.data, scratch.context);
    if (count == PCRE2_ERROR_NOMATCH) break;
    if (count < 0) {
      return ResourceExhausted("splitting the text into words failed at byte ", begin, ": ",
                               ErrorText(count));
    }
    // The next level writes into the same place.
    const PCRE2_SIZE match_begin = pcre2_get_ovector_pointer(scratch.data)[0];
    const PCRE2_SIZE match_end = pcre2_get_ovector_pointer(scratch.data)[1];
    if (match_begin > begin)
      RETURN_IF_ERROR(SplitFrom(level + 1, text.substr(begin, match_begin - begin), scratch, word));
    RETURN_IF_ERROR(
        SplitFrom(level + 1, text.substr(match_begin, match_end - match_begin), scratch, word));
    begin = match_end;
  }
  if (begin < text.size()) return SplitFrom(level + 1, text.substr(begin), scratch, word);
  return absl::OkStatus();
}

absl::Status Pretokenizer::Split(std::string_view text, WordFn word) const {
  const Scratch scratch;
  if (scratch.data == nullptr || scratch.context == nullptr) {
    return ResourceExhausted("no memory for the pre-tokeniser");
  }
  return text.empty() ? absl::OkStatus() : SplitFrom(0, text, scratch, word);
}

}  // namespace lanyard::model
