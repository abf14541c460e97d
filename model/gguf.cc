#include "model/gguf.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <type_traits>

#include "model/file_kind.h"
#include "model/gguf_header.h"
#include "model/unicode.h"

namespace lanyard::model {
namespace {

// Calls f with the scalar at p as its own C++ type. Precondition: it is neither a string nor an
// array.
template <typename F>
auto WithScalar(GgufValueType type, const uint8_t* p, F f) {
  switch (type) {
    case GgufValueType::kUint8:
      return f(LoadUnaligned<uint8_t>(p));
    case GgufValueType::kInt8:
      return f(LoadUnaligned<int8_t>(p));
    case GgufValueType::kUint16:
      return f(LoadUnaligned<uint16_t>(p));
    case GgufValueType::kInt16:
      return f(LoadUnaligned<int16_t>(p));
    case GgufValueType::kUint32:
      return f(LoadUnaligned<uint32_t>(p));
    case GgufValueType::kInt32:
      return f(LoadUnaligned<int32_t>(p));
    case GgufValueType::kUint64:
      return f(LoadUnaligned<uint64_t>(p));
    case GgufValueType::kInt64:
      return f(LoadUnaligned<int64_t>(p));
    case GgufValueType::kFloat32:
      return f(LoadUnaligned<float>(p));
    case GgufValueType::kFloat64:
      return f(LoadUnaligned<double>(p));
    default:
      // kBool is read as a byte, since the file may have changed under the mapping.
      return f(*p != 0);
  }
}

bool IsInteger(GgufValueType type) {
  switch (type) {
    case GgufValueType::kFloat32:
    case GgufValueType::kFloat64:
    case GgufValueType::kBool:
    case GgufValueType::kString:
    case GgufValueType::kArray:
      return false;
    default:
      return true;
  }
}

bool IsFloat(GgufValueType type) {
  return type == GgufValueType::kFloat32 || type == GgufValueType::kFloat64;
}

std::string FullTypeName(const GgufValue& value) {
  if (value.type != GgufValueType::kArray) return GgufTypeName(value.type);
  return absl::StrCat("arr[", GgufTypeName(value.element), "]");
}

absl::Status WrongType(const GgufValue& value, std::string_view wanted) {
  return InvalidArgument("key ", QuoteName(value.key), " is ", FullTypeName(value), ", must be ",
                         AbslView(wanted));
}

std::string ScalarText(GgufValueType type, const uint8_t* p) {
  return WithScalar(type, p, [](auto v) -> std::string {
    if constexpr (std::is_same_v<decltype(v), bool>)
      return v ? "true" : "false";
    else if constexpr (std::is_floating_point_v<decltype(v)>)
      return absl::StrFormat("%.9g", v);
    else
      return absl::StrCat(
          static_cast<std::conditional_t<std::is_signed_v<decltype(v)>, int64_t, uint64_t>>(v));
  });
}

// Returns at most `limit` bytes, cut between characters.
std::string Shorten(std::string text, size_t limit) {
  if (text.size() <= limit) return text;
  size_t end = limit - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  text.resize(end);
  return text + "...";
}

constexpr size_t kPreviewBytes = 120;

std::string EscapedPreview(std::string_view text) {
  const std::string_view head = text.substr(0, kPreviewBytes + 1);
  return Shorten(EscapeText(head), kPreviewBytes);
}

std::string ArrayPreview(const GgufValue& value) {
  std::string out = "[";
  const uint32_t step = GgufScalarBytes(value.element);
  uint64_t at = 0, shown = 0;
  for (; shown < value.count && out.size() < kPreviewBytes - 30; ++shown) {
    if (shown > 0) out += ", ";
    if (value.element != GgufValueType::kString) {
      out += ScalarText(value.element, value.bytes.data() + shown * step);
      continue;
    }
    if (value.bytes.size() - at < sizeof(uint64_t)) break;
    const uint64_t length = LoadUnaligned<uint64_t>(value.bytes.data() + at);
    at += sizeof(uint64_t);
    if (length > value.bytes.size() - at) break;
    const std::string_view text(reinterpret_cast<const char*>(value.bytes.data() + at), length);
    out += absl::StrCat("\"", Shorten(EscapeText(text.substr(0, 40)), 40), "\"");
    at += length;
  }
  return Shorten(absl::StrCat(out, shown < value.count ? ", ...] of " : "] of ", value.count),
                 kPreviewBytes);
}

absl::Status FileError(int error, std::string_view what) {
  const std::string text = absl::StrCat(AbslView(what), ": ", std::strerror(error));
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(text);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(text);
  return FailedPrecondition(text);
}

}  // namespace

struct GgufFile::Impl {
  ~Impl() {
    if (mapping != nullptr) munmap(mapping, mapped_bytes);
    if (fd >= 0) close(fd);
  }

  std::string path;
  int fd = -1;              // set by Open
  void* mapping = nullptr;  // set by Open; only the header's pages, once they are parsed
  size_t mapped_bytes = 0;
  ByteSpan bytes;  // the whole file; set by Parse
  uint64_t file_bytes = 0;
  GgufHeader header;

  absl::StatusOr<const GgufValue*> Value(std::string_view key) const {
    const auto it = header.value_index.find(AbslView(key));
    if (it == header.value_index.end()) return NotFound("key ", QuoteName(key), " is missing");
    return &header.values[it->second];
  }

  absl::StatusOr<const GgufValue*> Array(std::string_view key, std::string_view wanted) const {
    ASSIGN_OR_RETURN(const GgufValue* value, Value(key));
    if (value->type != GgufValueType::kArray) return WrongType(*value, wanted);
    return value;
  }
};

GgufFile::GgufFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GgufFile::~GgufFile() = default;

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO would block
  if (impl->fd < 0) return FileError(errno, absl::StrCat("cannot open model ", QuoteName(path)));
  struct stat info;
  if (fstat(impl->fd, &info) != 0)
    return FileError(errno, absl::StrCat("cannot stat model ", QuoteName(path)));
  if (S_ISDIR(info.st_mode)) {
    return InvalidArgument("model ", QuoteName(path),
                           ": not a GGUF file: it is a folder; name the .gguf file in it");
  }
  if (!S_ISREG(info.st_mode)) {
    return InvalidArgument("model ", QuoteName(path),
                           ": not a GGUF file: it is a device, a pipe or a socket");
  }
  impl->file_bytes = static_cast<uint64_t>(info.st_size);
  if (impl->file_bytes == 0)  // which cannot be mapped
    return Annotate(CheckIsGguf({}), absl::StrCat("model ", QuoteName(path)));
  impl->mapped_bytes = impl->file_bytes;
  void* mapping = mmap(nullptr, impl->mapped_bytes, PROT_READ, MAP_PRIVATE, impl->fd, 0);
  if (mapping == MAP_FAILED)
    return FileError(errno, absl::StrCat("cannot map model ", QuoteName(path)));
  impl->mapping = mapping;
  auto header = ParseGgufHeader({static_cast<const uint8_t*>(mapping), impl->file_bytes});
  if (!header.ok()) return Annotate(header.status(), absl::StrCat("model ", QuoteName(path)));
  impl->header = *std::move(header);
  // Only the header stays mapped, and its pages leave the RSS until a value is read.
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t keep = std::min(impl->header.data_offset, impl->file_bytes);
  const uint64_t keep_bytes = (keep + page - 1) / page * page;
  if (keep_bytes < impl->mapped_bytes) {
    munmap(static_cast<uint8_t*>(mapping) + keep_bytes, impl->mapped_bytes - keep_bytes);
    impl->mapped_bytes = keep_bytes;
  }
  madvise(impl->mapping, impl->mapped_bytes, MADV_DONTNEED);
  return std::unique_ptr<GgufFile>(new GgufFile(std::move(impl)));
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Parse(ByteSpan bytes) {
  auto impl = std::make_unique<Impl>();
  impl->bytes = bytes;
  impl->file_bytes = bytes.size();
  ASSIGN_OR_RETURN(impl->header, ParseGgufHeader(bytes));
  return std::unique_ptr<GgufFile>(new GgufFile(std::move(impl)));
}

uint32_t GgufFile::version() const { return impl_->header.version; }
uint64_t GgufFile::file_bytes() const { return impl_->file_bytes; }
uint64_t GgufFile::alignment() const { return impl_->header.alignment; }
uint64_t GgufFile::data_offset() const { return impl_->header.data_offset; }
const std::string& GgufFile::path() const { return impl_->path; }
bool GgufFile::Has(std::string_view key) const {
  return impl_->header.value_index.contains(AbslView(key));
}

absl::StatusOr<uint64_t> GgufFile::Uint(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, impl_->Value(key));
  if (!IsInteger(value->type)) return WrongType(*value, "an unsigned integer");
  return WithScalar(value->type, value->bytes.data(), [&](auto v) -> absl::StatusOr<uint64_t> {
    if constexpr (std::is_signed_v<decltype(v)>) {
      if (v < 0)
        return InvalidArgument("key ", QuoteName(key), " is ", v, ", must not be negative");
    }
    return static_cast<uint64_t>(v);
  });
}

absl::StatusOr<int64_t> GgufFile::Int(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, impl_->Value(key));
  if (!IsInteger(value->type)) return WrongType(*value, "an integer");
  return WithScalar(value->type, value->bytes.data(), [&](auto v) -> absl::StatusOr<int64_t> {
    if constexpr (std::is_same_v<decltype(v), uint64_t>) {
      if (v > INT64_MAX)
        return InvalidArgument("key ", QuoteName(key), " is ", v, ", the limit is ", INT64_MAX);
    }
    return static_cast<int64_t>(v);
  });
}

absl::StatusOr<double> GgufFile::Float(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, impl_->Value(key));
  if (!IsFloat(value->type)) return WrongType(*value, "f32 or f64");
  return WithScalar(value->type, value->bytes.data(),
                    [](auto v) { return static_cast<double>(v); });
}

absl::StatusOr<bool> GgufFile::Bool(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, impl_->Value(key));
  if (value->type != GgufValueType::kBool) return WrongType(*value, "bool");
  return value->bytes[0] != 0;
}

absl::StatusOr<std::string_view> GgufFile::String(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, impl_->Value(key));
  if (value->type != GgufValueType::kString) return WrongType(*value, "str");
  return std::string_view(reinterpret_cast<const char*>(value->bytes.data()), value->bytes.size());
}

absl::StatusOr<std::vector<std::string_view>> GgufFile::Strings(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, impl_->Array(key, "arr[str]"));
  if (value->element != GgufValueType::kString) return WrongType(*value, "arr[str]");
  return SplitGgufStrings(*value);
}

absl::StatusOr<std::vector<float>> GgufFile::Floats(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, impl_->Array(key, "arr[f32]"));
  if (!IsFloat(value->element)) return WrongType(*value, "arr[f32]");
  const uint32_t step = GgufScalarBytes(value->element);
  std::vector<float> out(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    out[i] = WithScalar(value->element, value->bytes.data() + i * step, [](auto v) -> float {
      // Beyond float's range the cast would be undefined, so such values are infinite.
      if constexpr (std::is_same_v<decltype(v), double>) {
        if (v > std::numeric_limits<float>::max()) return std::numeric_limits<float>::infinity();
        if (v < std::numeric_limits<float>::lowest())
          return -std::numeric_limits<float>::infinity();
      }
      return static_cast<float>(v);
    });
  }
  return out;
}

absl::StatusOr<std::vector<int64_t>> GgufFile::Ints(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, impl_->Array(key, "an array of integers"));
  if (!IsInteger(value->element) && value->element != GgufValueType::kBool) {
    return WrongType(*value, "an array of integers");
  }
  const uint32_t step = GgufScalarBytes(value->element);
  std::vector<int64_t> out(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    const uint8_t* p = value->bytes.data() + i * step;
    if (value->element == GgufValueType::kUint64 && LoadUnaligned<uint64_t>(p) > INT64_MAX) {
      return InvalidArgument("key ", QuoteName(key), ": element ", i, " is ",
                             LoadUnaligned<uint64_t>(p), ", the limit is ", INT64_MAX);
    }
    out[i] = WithScalar(value->element, p, [](auto v) { return static_cast<int64_t>(v); });
  }
  return out;
}

absl::StatusOr<uint64_t> GgufFile::ArrayLength(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, impl_->Array(key, "an array"));
  return value->count;
}

std::vector<GgufFile::Entry> GgufFile::Entries() const {
  std::vector<Entry> out;
  out.reserve(impl_->header.values.size());
  for (const GgufValue& value : impl_->header.values) {
    Entry entry{value.key, FullTypeName(value), ""};
    if (value.type == GgufValueType::kArray) {
      entry.preview = ArrayPreview(value);
    } else if (value.type == GgufValueType::kString) {
      entry.preview =
          EscapedPreview({reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size()});
    } else {
      entry.preview = ScalarText(value.type, value.bytes.data());
    }
    out.push_back(std::move(entry));
  }
  return out;
}

const std::vector<TensorInfo>& GgufFile::tensors() const { return impl_->header.tensors; }

std::optional<uint64_t> GgufFile::OffsetOf(std::string_view tensor) const {
  const auto it = impl_->header.tensor_index.find(AbslView(tensor));
  if (it == impl_->header.tensor_index.end()) return std::nullopt;
  return impl_->header.offsets[it->second];
}

const TensorInfo* GgufFile::Find(std::string_view name) const {
  const auto it = impl_->header.tensor_index.find(AbslView(name));
  return it == impl_->header.tensor_index.end() ? nullptr : &impl_->header.tensors[it->second];
}

absl::Status GgufFile::Read(std::string_view name, uint64_t offset, std::span<uint8_t> out) const {
  const auto it = impl_->header.tensor_index.find(AbslView(name));
  if (it == impl_->header.tensor_index.end())
    return NotFound("tensor ", QuoteName(name), " is missing");
  const TensorInfo& info = impl_->header.tensors[it->second];
  if (offset > info.bytes || out.size() > info.bytes - offset) {
    return absl::OutOfRangeError(absl::StrCat("tensor ", QuoteName(name), " has ", info.bytes,
                                              " bytes; asked for ", out.size(), " at ", offset));
  }
  const uint64_t start = impl_->header.offsets[it->second] + offset;
  if (impl_->fd < 0) {
    if (!out.empty()) std::memcpy(out.data(), impl_->bytes.data() + start, out.size());
    return absl::OkStatus();
  }
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n =
        pread(impl_->fd, out.data() + done, out.size() - done, static_cast<off_t>(start + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(errno, absl::StrCat("cannot read model ", QuoteName(impl_->path)));
    if (n == 0) {
      return absl::DataLossError(absl::StrCat("model ", QuoteName(impl_->path), " ends at byte ",
                                              start + done, ", inside tensor ", QuoteName(name),
                                              "; it was cut after it was opened"));
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

}  // namespace lanyard::model
