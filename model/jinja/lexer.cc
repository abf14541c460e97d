#include "model/jinja/lexer.h"

#include <array>
#include <charconv>
#include <optional>

#include "absl/strings/match.h"
#include "model/jinja/strings.h"
#include "model/unicode.h"

namespace lanyard::model::jinja {
namespace {

constexpr char kRefusalKey[] = "lanyard.template.refusal";

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

constexpr std::array<std::string_view, 25> kOperators = {
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "[",
    "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ","};

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)), rest_(source_) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (!rest_.empty()) RETURN_IF_ERROR(Root());
    Emit(Token::Type::kEnd, "", position_);
    return std::move(tokens_);
  }

 private:
  enum class Open { kVariable, kBlock, kComment };

  void Emit(Token::Type type, std::string_view text, Position at) {
    Token token;
    token.type = type;
    token.text = std::string(text);
    token.position = at;
    tokens_.push_back(std::move(token));
  }
  bool Starts(std::string_view with) const { return rest_.substr(0, with.size()) == with; }
  // Consumes n bytes. The last byte of a match decides whether the next data begins a line.
  void Advance(size_t n) {
    for (size_t i = 0; i < n; ++i) {
      if (rest_[i] == '\n') {
        ++position_.line;
        position_.column = 1;
      } else {
        ++position_.column;
      }
    }
    if (n > 0) line_starting_ = rest_[n - 1] == '\n';
    rest_.remove_prefix(n);
  }
  void SkipSpace() { Advance(LeadingSpaceBytes(rest_)); }

  // Returns the data before a tag, less what '-' or lstrip_blocks remove at its end.
  static std::string_view StripData(std::string_view data, char sign, bool lstrip,
                                    bool line_starting) {
    if (sign == '-') return data.substr(0, data.size() - TrailingSpaceBytes(data));
    if (sign == '+' || !lstrip) return data;
    const size_t newline = data.rfind('\n');
    const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
    if (line == 0 && !line_starting) return data;
    const std::string_view tail = data.substr(line);
    return LeadingSpaceBytes(tail) == tail.size() ? data.substr(0, line) : data;
  }

  // Reads data up to the next tag, and the tag.
  absl::Status Root() {
    size_t at = 0;
    while (at < rest_.size()) {
      at = rest_.find('{', at);
      if (at == std::string_view::npos || at + 1 >= rest_.size()) at = rest_.size();
      if (at == rest_.size()) break;
      const char next = rest_[at + 1];
      if (next == '{' || next == '%' || next == '#') break;
      ++at;
    }
    const std::string_view data = rest_.substr(0, at);
    if (at == rest_.size()) {
      Emit(Token::Type::kData, data, position_);
      Advance(at);
      return absl::OkStatus();
    }
    const char kind = rest_[at + 1];
    const char sign = at + 2 < rest_.size() ? rest_[at + 2] : '\0';
    const bool has_sign = sign == '-' || sign == '+';
    const std::string_view kept = StripData(data, sign, kind != '{', line_starting_);
    if (!kept.empty()) Emit(Token::Type::kData, kept, position_);
    Advance(at);
    const Position begin = position_;
    if (kind == '%') {
      if (const size_t raw = RawBeginBytes(); raw != 0) return Raw(raw, begin);
    }
    Advance(has_sign ? 3 : 2);
    if (kind == '#') return Comment(begin);
    const bool variable = kind == '{';
    Emit(variable ? Token::Type::kVariableBegin : Token::Type::kBlockBegin, "", begin);
    return Inside(variable, begin);
  }

  absl::Status Comment(Position begin) {
    const size_t end = rest_.find("#}");
    if (end == std::string_view::npos) return ErrorAt(begin, "the comment is not closed with #}");
    const char sign = end > 0 ? rest_[end - 1] : '\0';
    Advance(end + 2);
    AfterTag(sign);
    return absl::OkStatus();
  }

  // Does trim_blocks: one newline is removed; "-" removes all white space, "+" keeps everything.
  void AfterTag(char sign) {
    if (sign == '-') {
      SkipSpace();
    } else if (sign != '+' && Starts("\n")) {
      Advance(1);
    }
  }

  // The length of "{% raw %}" at the start of rest_, or 0.
  size_t RawBeginBytes() const {
    size_t i = 2;
    if (i < rest_.size() && (rest_[i] == '-' || rest_[i] == '+')) ++i;
    i += LeadingSpaceBytes(rest_.substr(i));
    if (rest_.substr(i, 3) != "raw") return 0;
    i += 3;
    i += LeadingSpaceBytes(rest_.substr(i));
    if (rest_.substr(i, 3) == "-%}") return i + 3 + LeadingSpaceBytes(rest_.substr(i + 3));
    return rest_.substr(i, 2) == "%}" ? i + 2 : 0;
  }

  absl::Status Raw(size_t begin_bytes, Position begin) {
    Advance(begin_bytes);
    for (size_t at = rest_.find("{%"); at != std::string_view::npos;
         at = rest_.find("{%", at + 1)) {
      size_t i = at + 2;
      char sign = i < rest_.size() ? rest_[i] : '\0';
      if (sign == '-' || sign == '+') ++i;
      i += LeadingSpaceBytes(rest_.substr(i));
      if (rest_.substr(i, 6) != "endraw") continue;
      i += 6;
      i += LeadingSpaceBytes(rest_.substr(i));
      char end_sign = '\0';
      if (i < rest_.size() && (rest_[i] == '-' || rest_[i] == '+')) end_sign = rest_[i++];
      if (rest_.substr(i, 2) != "%}") continue;
      const std::string_view kept = StripData(rest_.substr(0, at), sign, true, line_starting_);
      if (!kept.empty()) Emit(Token::Type::kData, kept, position_);
      Advance(i + 2);
      AfterTag(end_sign);
      return absl::OkStatus();
    }
    return ErrorAt(begin, "the raw block is not closed with {% endraw %}");
  }

  absl::Status Inside(bool variable, Position begin) {
    std::string open;  // closing brackets that are due
    const std::string_view close = variable ? "}}" : "%}";
    for (;;) {
      SkipSpace();
      if (rest_.empty()) {
        return ErrorAt(begin, absl::StrCat("the tag is not closed with ", AbslView(close)));
      }
      if (open.empty()) {
        const char sign = rest_[0] == '-' || (rest_[0] == '+' && !variable) ? rest_[0] : '\0';
        if (rest_.substr(sign == '\0' ? 0 : 1, 2) == close) {
          Emit(variable ? Token::Type::kVariableEnd : Token::Type::kBlockEnd, "", position_);
          Advance(sign == '\0' ? 2 : 3);
          // Only blocks are trimmed; after a variable a newline stays.
          if (variable && sign == '\0') return absl::OkStatus();
          AfterTag(sign);
          return absl::OkStatus();
        }
      }
      RETURN_IF_ERROR(OneToken(&open));
    }
  }

  absl::Status OneToken(std::string* open) {
    const char c = rest_[0];
    if (IsDigit(c)) return Number();
    if (IsNameStart(c)) {
      size_t n = 1;
      while (n < rest_.size() && (IsNameStart(rest_[n]) || IsDigit(rest_[n]))) ++n;
      Emit(Token::Type::kName, rest_.substr(0, n), position_);
      Advance(n);
      return absl::OkStatus();
    }
    if (c == '"' || c == '\'') return QuotedString(c);
    for (const std::string_view op : kOperators) {
      if (!Starts(op)) continue;
      if (op == "(") open->push_back(')');
      if (op == "[") open->push_back(']');
      if (op == "{") open->push_back('}');
      if (op == ")" || op == "]" || op == "}") {
        if (open->empty() || open->back() != op[0]) {
          return ErrorAt(position_, absl::StrCat("unexpected '", AbslView(op), "'"));
        }
        open->pop_back();
      }
      if (open->size() > 1000) return ErrorAt(position_, "brackets are nested too deeply");
      Emit(Token::Type::kOperator, op, position_);
      Advance(op.size());
      return absl::OkStatus();
    }
    const Utf8Step step = DecodeUtf8(rest_);
    return ErrorAt(position_, absl::StrCat("unexpected character '",
                                           AbslView(rest_.substr(0, step.bytes)), "'"));
  }

  // The number of bytes of digits (of the base), with single underscores between them.
  size_t DigitsAt(size_t i, int base) const {
    const size_t begin = i;
    const auto is = [&](char c) {
      if (base == 16) return IsDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
      return c >= '0' && c < '0' + base;
    };
    while (i < rest_.size()) {
      if (is(rest_[i])) {
        ++i;
      } else if (i > begin && rest_[i] == '_' && i + 1 < rest_.size() && is(rest_[i + 1])) {
        i += 2;
      } else {
        break;
      }
    }
    return i - begin;
  }

  absl::Status Number() {
    const char second = rest_.size() > 1 ? static_cast<char>(rest_[1] | 0x20) : '\0';
    const int base = rest_[0] != '0' ? 10
                     : second == 'x' ? 16
                     : second == 'o' ? 8
                     : second == 'b' ? 2
                                     : 10;
    size_t n;
    bool is_float = false;
    if (base != 10) {
      n = 2 + DigitsAt(2, base);
    } else {
      n = DigitsAt(0, 10);
      // A point belongs to the number only where a digit follows; "1.foo" is an attribute. There is
      // no float right after a point ("x.0.5").
      const bool after_point = !tokens_.empty() && tokens_.back().IsOperator(".");
      size_t fraction = 0;
      if (!after_point && n < rest_.size() && rest_[n] == '.') fraction = DigitsAt(n + 1, 10);
      size_t end = n + (fraction > 0 ? 1 + fraction : 0);
      if (!after_point && end < rest_.size() && (rest_[end] | 0x20) == 'e') {
        size_t e = end + 1;
        if (e < rest_.size() && (rest_[e] == '+' || rest_[e] == '-')) ++e;
        if (const size_t digits = DigitsAt(e, 10); digits > 0) {
          end = e + digits;
          is_float = true;
        }
      }
      is_float = is_float || fraction > 0;
      n = end;
    }
    std::string digits;
    for (const char c : rest_.substr(base == 10 ? 0 : 2, base == 10 ? n : n - 2)) {
      if (c != '_') digits.push_back(c);
    }
    Token token;
    token.position = position_;
    token.type = is_float ? Token::Type::kFloat : Token::Type::kInteger;
    token.text = digits;
    const char* end = digits.data() + digits.size();
    const auto result = is_float ? std::from_chars(digits.data(), end, token.number)
                                 : std::from_chars(digits.data(), end, token.integer, base);
    if (result.ec != std::errc() || result.ptr != end ||
        (base == 10 && !is_float && digits.size() > 1 && digits[0] == '0' && token.integer != 0)) {
      return ErrorAt(position_, "the number is malformed or beyond 64 bits");
    }
    tokens_.push_back(std::move(token));
    Advance(n);
    return absl::OkStatus();
  }

  absl::Status QuotedString(char quote) {
    const Position begin = position_;
    std::string out;
    size_t i = 1;
    while (i < rest_.size() && rest_[i] != quote) {
      if (rest_[i] != '\\') {
        out.push_back(rest_[i++]);
        continue;
      }
      ASSIGN_OR_RETURN(const size_t bytes, Escape(i, &out));
      i += bytes;
    }
    if (i >= rest_.size()) return ErrorAt(begin, "the string is not closed");
    Emit(Token::Type::kString, out, begin);
    Advance(i + 1);
    return absl::OkStatus();
  }

  // Reads the escape at rest_[i], a backslash, by Python's rules, and returns its length.
  absl::StatusOr<size_t> Escape(size_t i, std::string* out) const {
    if (i + 1 >= rest_.size()) return ErrorAt(position_, "the string is not closed");
    const char c = rest_[i + 1];
    constexpr std::string_view kNames = "\\'\"abfnrtv";
    constexpr std::string_view kValues = "\\'\"\a\b\f\n\r\t\v";
    if (const size_t at = kNames.find(c); at != std::string_view::npos) {
      out->push_back(kValues[at]);
      return 2;
    }
    if (c == '\n') return 2;
    if (c >= '0' && c <= '7') {
      size_t n = 1;
      char32_t value = c - '0';
      while (n < 3 && i + 1 + n < rest_.size() && rest_[i + 1 + n] >= '0' &&
             rest_[i + 1 + n] <= '7') {
        value = value * 8 + (rest_[i + 1 + n++] - '0');
      }
      AppendUtf8(value, out);
      return 1 + n;
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits > 0) {
      uint32_t value = 0;
      const std::string_view hex = rest_.substr(i + 2, digits);
      const auto r = std::from_chars(hex.data(), hex.data() + hex.size(), value, 16);
      const bool whole =
          hex.size() == digits && r.ec == std::errc() && r.ptr == hex.data() + digits;
      if (!whole || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
        return ErrorAt(position_, absl::StrCat("the escape \\", std::string(1, c),
                                               " in the string is not a character"));
      }
      AppendUtf8(value, out);
      return 2 + digits;
    }
    if (c == 'N') return ErrorAt(position_, "the escape \\N in a string is not supported");
    out->push_back('\\');  // unknown escapes stay as they are
    return 1;
  }

  const std::string source_;
  std::string_view rest_;
  Position position_;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::Status ErrorAt(Position position, std::string_view message) {
  return InvalidArgument("template line ", position.line, ", column ", position.column, ": ",
                         AbslView(message));
}

absl::Status Refusal(std::string_view message) {
  absl::Status status = absl::InvalidArgumentError(AbslView(message));
  status.SetPayload(kRefusalKey, absl::Cord());
  return status;
}

bool IsRefusal(const absl::Status& status) { return status.GetPayload(kRefusalKey).has_value(); }

bool IsPlaced(const absl::Status& status) {
  return IsRefusal(status) || absl::StartsWith(status.message(), "template line ");
}

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  if (!IsValidUtf8(source)) return InvalidArgument("the template is not valid UTF-8");
  return Lexer(NormalizeNewlines(source)).Run();
}

}  // namespace lanyard::model::jinja
