#include "model/jinja/text_ops.h"

#include <algorithm>

#include "model/jinja/strings.h"
#include "model/unicode.h"

namespace lanyard::model::jinja {
namespace {

// The number of bytes at the start of s that are characters of `chars`.
size_t LeadingOf(std::string_view s, std::string_view chars) {
  size_t i = 0;
  while (i < s.size()) {
    const size_t n = DecodeUtf8(s.substr(i)).bytes;
    if (chars.find(s.substr(i, n)) == std::string_view::npos) break;
    i += n;
  }
  return i;
}

size_t TrailingOf(std::string_view s, std::string_view chars) {
  size_t end = s.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && (static_cast<uint8_t>(s[begin]) & 0xC0) == 0x80) --begin;
    if (chars.find(s.substr(begin, end - begin)) == std::string_view::npos) break;
    end = begin;
  }
  return s.size() - end;
}

std::vector<Text> SplitAtSpace(const Text& s, int64_t max_splits) {
  std::vector<Text> out;
  const std::string_view all = s.bytes();
  size_t at = LeadingSpaceBytes(all);
  while (at < all.size()) {
    if (max_splits >= 0 && static_cast<int64_t>(out.size()) == max_splits) {
      out.push_back(s.Sub(at, all.size() - at));
      break;
    }
    size_t end = at;
    while (end < all.size() && LeadingSpaceBytes(all.substr(end, 4)) == 0)
      end += DecodeUtf8(all.substr(end)).bytes;
    out.push_back(s.Sub(at, end - at));
    at = end + LeadingSpaceBytes(all.substr(end));
  }
  return out;
}

}  // namespace

Text Strip(const Text& s, const std::optional<std::string>& chars, bool left, bool right) {
  std::string_view all = s.bytes();
  size_t begin = 0;
  if (left) begin = chars ? LeadingOf(all, *chars) : LeadingSpaceBytes(all);
  all.remove_prefix(begin);
  const size_t end = !right ? 0 : chars ? TrailingOf(all, *chars) : TrailingSpaceBytes(all);
  return s.Sub(begin, all.size() - end);
}

std::optional<Text> Replace(const Text& s, const Text& from, const Text& to, int64_t count,
                            uint64_t max_bytes) {
  Text out;
  const std::string& all = s.bytes();
  size_t at = 0;
  if (from.empty()) {  // before each character and at the end
    while (count != 0 && at < all.size()) {
      out.Append(to);
      const size_t n = DecodeUtf8(std::string_view(all).substr(at)).bytes;
      out.Append(s.Sub(at, n));
      at += n;
      if (count > 0) --count;
      if (out.size() > max_bytes) return std::nullopt;
    }
    out.Append(s.Sub(at, all.size() - at));
    if (count != 0) out.Append(to);
    return out;
  }
  for (size_t hit = all.find(from.bytes()); count != 0 && hit != std::string::npos;
       hit = all.find(from.bytes(), at)) {
    out.Append(s.Sub(at, hit - at));
    out.Append(to);
    at = hit + from.size();
    if (count > 0) --count;
    if (out.size() > max_bytes) return std::nullopt;
  }
  out.Append(s.Sub(at, all.size() - at));
  return out;
}

std::vector<Text> Split(const Text& s, const std::optional<std::string>& separator,
                        int64_t max_splits) {
  if (!separator) return SplitAtSpace(s, max_splits);
  std::vector<Text> out;
  size_t at = 0;
  for (;;) {
    const bool more = max_splits < 0 || static_cast<int64_t>(out.size()) < max_splits;
    const size_t hit = more ? s.bytes().find(*separator, at) : std::string::npos;
    if (hit == std::string::npos) break;
    out.push_back(s.Sub(at, hit - at));
    at = hit + separator->size();
  }
  out.push_back(s.Sub(at, s.size() - at));
  return out;
}

std::vector<Text> SplitFromRight(const Text& s, const std::optional<std::string>& separator,
                                 int64_t max_splits) {
  if (max_splits < 0) return Split(s, separator, -1);
  std::vector<Text> out;  // from the right
  const std::string_view all = s.bytes();
  size_t end = all.size();
  if (!separator) end -= TrailingSpaceBytes(all);
  while (separator || end > 0) {
    if (static_cast<int64_t>(out.size()) == max_splits) break;
    if (separator) {
      const size_t hit = end < separator->size() ? std::string_view::npos
                                                 : all.rfind(*separator, end - separator->size());
      if (hit == std::string_view::npos) break;
      out.push_back(s.Sub(hit + separator->size(), end - hit - separator->size()));
      end = hit;
    } else {
      size_t begin = end;
      while (begin > 0 && TrailingSpaceBytes(all.substr(0, begin)) == 0) {
        --begin;
        while (begin > 0 && (static_cast<uint8_t>(all[begin]) & 0xC0) == 0x80) --begin;
      }
      out.push_back(s.Sub(begin, end - begin));
      end = begin - TrailingSpaceBytes(all.substr(0, begin));
    }
  }
  if (separator || LeadingSpaceBytes(all.substr(0, end)) < end) out.push_back(s.Sub(0, end));
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<Text> SplitLines(const Text& s, bool keep_ends) {
  std::vector<Text> out;
  const std::string_view all = s.bytes();
  size_t begin = 0;
  for (size_t i = 0; i < all.size();) {
    const Utf8Step step = DecodeUtf8(all.substr(i));
    const char32_t c = step.kind == Utf8Step::kChar ? step.code_point : 0xFFFD;
    const bool line_end = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                          c == 0x2028 || c == 0x2029;
    size_t n = step.bytes;
    if (line_end) {
      if (c == '\r' && i + 1 < all.size() && all[i + 1] == '\n') n = 2;
      out.push_back(s.Sub(begin, i - begin + (keep_ends ? n : 0)));
      begin = i + n;
    }
    i += n;
  }
  if (begin < all.size()) out.push_back(s.Sub(begin, all.size() - begin));
  return out;
}

}  // namespace lanyard::model::jinja
