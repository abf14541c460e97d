#include "model/file_kind.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "model/gguf_header.h"

namespace lanyard::model {
namespace {

using std::string_view_literals::operator""sv;

constexpr size_t kLookAt = 512;  // bytes from the start, enough for every kind below
constexpr size_t kTarMagicAt = 257;

struct Kind {
  std::string_view start;
  const char* what;
  const char* next;
};

constexpr char kConvert[] = "convert the model to GGUF (convert_hf_to_gguf.py of llama.cpp)";
constexpr char kUnpack[] = "unpack it, and name the .gguf file that was in it";
constexpr char kNameIt[] = "name the .gguf file of the model";

constexpr std::array kKinds = {
    Kind{"version https://git-lfs"sv, "a Git LFS pointer, which stands for the model",
         "fetch the file itself with: git lfs pull"},
    Kind{"PK\x03\x04"sv, "a ZIP archive, as PyTorch's checkpoints are (.pt, .bin)", kConvert},
    Kind{"\x80\x02"sv, "a pickle of Python, as old PyTorch checkpoints are", kConvert},
    Kind{"\x89HDF"sv, "an HDF5 file, as Keras writes them", kConvert},
    Kind{"\x1f\x8b"sv, "a gzip archive", kUnpack},
    Kind{"\x28\xb5\x2f\xfd"sv, "a Zstandard archive", kUnpack},
    Kind{"\xfd\x37zXZ"sv, "an XZ archive", kUnpack},
    Kind{"BZh"sv, "a bzip2 archive", kUnpack},
    Kind{"7z\xbc\xaf"sv, "a 7z archive", kUnpack},
    Kind{"\x7f\x45LF"sv, "a program", kNameIt},
    Kind{"%PDF"sv, "a PDF document", kNameIt},
};

absl::Status NotGguf(std::string_view what, std::string_view next) {
  return InvalidArgument("not a GGUF file: it looks like ", AbslView(what), "; ", AbslView(next));
}

bool IsSafetensors(std::string_view start) {
  // Eight bytes of length, little-endian, and a JSON object.
  return start.size() > 10 && start[8] == '{' && (start[9] == '"' || start[9] == '}') &&
         start.substr(5, 3) == "\0\0\0"sv;
}

bool IsText(std::string_view start) {
  return std::all_of(start.begin(), start.end(), [](char c) {
    const auto u = static_cast<unsigned char>(c);
    return u >= 0x80 || std::isprint(u) != 0 || std::isspace(u) != 0;
  });
}

bool IsWebPage(std::string_view start) {
  const absl::string_view text = absl::StripLeadingAsciiWhitespace(AbslView(start));
  return absl::StartsWithIgnoreCase(text, "<!doctype html") ||
         absl::StartsWithIgnoreCase(text, "<html");
}

}  // namespace

absl::Status CheckIsGguf(ByteSpan bytes) {
  const std::string_view start(reinterpret_cast<const char*>(bytes.data()),
                               std::min(bytes.size(), kLookAt));
  const std::string_view magic = start.substr(0, 4);
  if (magic == "GGUF") return absl::OkStatus();
  if (start.empty()) {
    return InvalidArgument(
        "not a GGUF file: it is empty; the download did not begin, or failed; fetch it again");
  }
  if (magic == "lmgg" || magic == "tjgg" || magic == "fmgg" || magic == "algg") {
    return Unimplemented("not a GGUF file: it is a GGML file from before GGUF; ", kConvert);
  }
  for (const Kind& kind : kKinds) {
    if (start.substr(0, kind.start.size()) == kind.start) return NotGguf(kind.what, kind.next);
  }
  if (IsSafetensors(start)) return NotGguf("a safetensors file", kConvert);
  if (IsWebPage(start)) {
    return NotGguf("a web page",
                   "the download gave a page and not the file; fetch it again with "
                   "the link of the file itself");
  }
  if (start.size() > kTarMagicAt && start.substr(kTarMagicAt, 5) == "ustar") {
    return NotGguf("a tar archive", kUnpack);
  }
  if (std::all_of(start.begin(), start.end(), [](char c) { return c == '\0'; })) {
    return NotGguf("zeros, as an unfinished download leaves them", "fetch it again");
  }
  if (start.front() == '{' || start.front() == '[') return NotGguf("JSON", kNameIt);
  if (IsText(start)) return NotGguf("text", kNameIt);
  return InvalidArgument("not a GGUF file: it begins with ", QuoteName(magic),
                         " where one begins with \"GGUF\"; ", kNameIt);
}

}  // namespace lanyard::model
