#include "model/gguf_header.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <optional>

#include "model/file_kind.h"
#include "model/unicode.h"

namespace lanyard::model {
namespace {

static_assert(std::endian::native == std::endian::little, "the reader loads little-endian numbers");

// The sizes of the shortest possible entries: a list with more of them cannot fit in the bytes that
// remain.
constexpr uint64_t kMinKeyValueBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorInfoBytes = 8 + 1 + 4 + 8 + 4 + 8;

// Walks through the bytes and tests every read against what remains.
class Cursor {
 public:
  explicit Cursor(ByteSpan bytes) : bytes_(bytes) {}

  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }

  template <typename T>
  absl::Status Read(std::string_view field, T* out) {
    if (remaining() < sizeof(T)) {
      return InvalidArgument(AbslView(field), " at offset ", offset_, " needs ", sizeof(T),
                             " bytes, ", remaining(), " remain");
    }
    *out = LoadUnaligned<T>(bytes_.data() + offset_);
    offset_ += sizeof(T);
    return absl::OkStatus();
  }

  absl::Status Take(std::string_view field, uint64_t bytes, ByteSpan* out) {
    if (bytes > remaining()) {
      return InvalidArgument(AbslView(field), " at offset ", offset_, " needs ", bytes, " bytes, ",
                             remaining(), " remain");
    }
    *out = bytes_.subspan(offset_, bytes);
    offset_ += bytes;
    return absl::OkStatus();
  }

  // Reads a string that has its length before it; `limit` is the longest that is allowed.
  absl::Status ReadString(std::string_view field, uint64_t limit, ByteSpan* out) {
    const uint64_t start = offset_;
    uint64_t length = 0;
    RETURN_IF_ERROR(Read(field, &length));
    if (length > remaining()) {
      return InvalidArgument("length of ", AbslView(field), " at offset ", start, " is ", length,
                             ", ", remaining(), " bytes remain");
    }
    if (length > limit) {
      return InvalidArgument("length of ", AbslView(field), " at offset ", start, " is ", length,
                             ", the limit is ", limit);
    }
    return Take(field, length, out);
  }

 private:
  const ByteSpan bytes_;
  uint64_t offset_ = 0;
};

std::string_view View(ByteSpan bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Checks keys and tensor names: they are never empty and have no control characters (a NUL would
// hide what follows it from C code, and others command a terminal).
absl::Status CheckName(std::string_view field, uint64_t offset, std::string_view name) {
  if (name.empty()) return InvalidArgument(AbslView(field), " at offset ", offset, " is empty");
  for (std::string_view rest = name; !rest.empty();) {
    const Utf8Step step = DecodeUtf8(rest);
    rest.remove_prefix(step.bytes);
    if (step.kind == Utf8Step::kChar && IsControl(step.code_point)) {
      return InvalidArgument(AbslView(field), " ", QuoteName(name), " at offset ", offset,
                             " has a control character");
    }
  }
  return absl::OkStatus();
}

// The types that the format has and this reader does not, so that the refusal can name them.
std::string_view UnsupportedTypeName(uint32_t type) {
  switch (type) {
    case 4:
      return "Q4_2";
    case 5:
      return "Q4_3";
    case 9:
      return "Q8_1";
    case 15:
      return "Q8_K";
    case 16:
      return "IQ2_XXS";
    case 17:
      return "IQ2_XS";
    case 18:
      return "IQ3_XXS";
    case 19:
      return "IQ1_S";
    case 20:
      return "IQ4_NL";
    case 21:
      return "IQ3_S";
    case 22:
      return "IQ2_S";
    case 23:
      return "IQ4_XS";
    case 24:
      return "I8";
    case 25:
      return "I16";
    case 26:
      return "I32";
    case 27:
      return "I64";
    case 28:
      return "F64";
    case 29:
      return "IQ1_M";
    case 34:
      return "TQ1_0";
    case 35:
      return "TQ2_0";
    case 39:
      return "MXFP4";
    default:
      return "";
  }
}

absl::Status CheckVersion(uint32_t version) {
  if (version == 2 || version == 3) return absl::OkStatus();
  if (version == 1) {
    return Unimplemented(
        "version at offset 4 is 1 (32-bit lengths); supported: 2, 3; convert the model again");
  }
  if (version != 0 && (version & 0xffff) == 0) {
    return Unimplemented(
        "version at offset 4 is byte-swapped: a big-endian file; supported: little-endian");
  }
  return Unimplemented("version at offset 4 is ", version, "; supported: 2, 3");
}

absl::Status CheckCount(std::string_view field, uint64_t offset, uint64_t count, uint64_t fits,
                        uint64_t limit) {
  if (count > fits) {
    return InvalidArgument(AbslView(field), " at offset ", offset, " is ", count, ", at most ",
                           fits, " fit in the bytes that remain");
  }
  if (count > limit) {
    return InvalidArgument(AbslView(field), " at offset ", offset, " is ", count, ", the limit is ",
                           limit);
  }
  return absl::OkStatus();
}

class Parser {
 public:
  explicit Parser(ByteSpan bytes) : bytes_(bytes), in_(bytes) {}

  absl::StatusOr<GgufHeader> Run() {
    RETURN_IF_ERROR(CheckIsGguf(bytes_));
    uint32_t magic = 0;
    RETURN_IF_ERROR(in_.Read("magic", &magic));
    RETURN_IF_ERROR(in_.Read("version", &header_.version));
    RETURN_IF_ERROR(CheckVersion(header_.version));
    uint64_t n_tensors = 0, n_kv = 0;
    RETURN_IF_ERROR(in_.Read("tensor_count", &n_tensors));
    RETURN_IF_ERROR(in_.Read("metadata_kv_count", &n_kv));
    RETURN_IF_ERROR(CheckCount("tensor_count", 8, n_tensors, in_.remaining() / kMinTensorInfoBytes,
                               kGgufMaxTensors));
    RETURN_IF_ERROR(CheckCount("metadata_kv_count", 16, n_kv, in_.remaining() / kMinKeyValueBytes,
                               kGgufMaxKeys));
    header_.values.reserve(n_kv);
    header_.value_index.reserve(n_kv);
    for (uint64_t i = 0; i < n_kv; ++i) RETURN_IF_ERROR(ReadKeyValue(i));
    RETURN_IF_ERROR(ReadAlignment());
    header_.tensors.reserve(n_tensors);
    header_.offsets.reserve(n_tensors);
    header_.tensor_index.reserve(n_tensors);
    for (uint64_t i = 0; i < n_tensors; ++i) RETURN_IF_ERROR(ReadTensor(i));
    RETURN_IF_ERROR(PlaceTensors());
    return std::move(header_);
  }

 private:
  absl::Status ReadKeyValue(uint64_t i) {
    const uint64_t start = in_.offset();
    ByteSpan key;
    GgufValue value;
    absl::Status status = in_.ReadString("key", kGgufMaxKeyBytes, &key);
    value.key = View(key);
    if (status.ok()) status = CheckName("key", start, value.key);
    if (!status.ok()) return Annotate(status, absl::StrCat("metadata entry ", i));
    status = ReadValue(&value);
    if (!status.ok()) return Annotate(status, absl::StrCat("key ", QuoteName(value.key)));
    if (!header_.value_index.emplace(AbslView(value.key), i).second) {
      return InvalidArgument("key ", QuoteName(value.key), " at offset ", start, " is a duplicate");
    }
    header_.values.push_back(value);
    return absl::OkStatus();
  }

  absl::Status ReadType(std::string_view field, GgufValueType* out) {
    const uint64_t start = in_.offset();
    uint32_t type = 0;
    RETURN_IF_ERROR(in_.Read(field, &type));
    if (type > static_cast<uint32_t>(GgufValueType::kFloat64)) {
      return InvalidArgument(AbslView(field), " at offset ", start, " is ", type,
                             ", the limit is 12");
    }
    *out = static_cast<GgufValueType>(type);
    return absl::OkStatus();
  }

  absl::Status ReadValue(GgufValue* value) {
    RETURN_IF_ERROR(ReadType("value type", &value->type));
    if (value->type == GgufValueType::kString)
      return in_.ReadString("string value", UINT64_MAX, &value->bytes);
    if (value->type == GgufValueType::kArray) return ReadArray(value);
    const uint64_t start = in_.offset();
    RETURN_IF_ERROR(in_.Take("value", GgufScalarBytes(value->type), &value->bytes));
    if (value->type == GgufValueType::kBool) return CheckBools(start, value->bytes);
    return absl::OkStatus();
  }

  absl::Status ReadArray(GgufValue* value) {
    const uint64_t type_at = in_.offset();
    RETURN_IF_ERROR(ReadType("array element type", &value->element));
    if (value->element == GgufValueType::kArray) {
      return InvalidArgument("array element type at offset ", type_at,
                             " is an array; arrays of arrays are not "
                             "supported");
    }
    const uint64_t count_at = in_.offset();
    RETURN_IF_ERROR(in_.Read("array length", &value->count));
    const bool strings = value->element == GgufValueType::kString;
    const uint64_t element_bytes = strings ? sizeof(uint64_t) : GgufScalarBytes(value->element);
    RETURN_IF_ERROR(CheckCount("array length", count_at, value->count,
                               in_.remaining() / element_bytes, kGgufMaxArrayElements));
    const uint64_t start = in_.offset();
    if (!strings) {
      RETURN_IF_ERROR(in_.Take("array", value->count * element_bytes, &value->bytes));
      if (value->element == GgufValueType::kBool) return CheckBools(start, value->bytes);
      return absl::OkStatus();
    }
    for (uint64_t i = 0; i < value->count; ++i) {
      ByteSpan element;
      if (auto status = in_.ReadString("string", UINT64_MAX, &element); !status.ok()) {
        return Annotate(status, absl::StrCat("element ", i, " of ", value->count));
      }
    }
    value->bytes = bytes_.subspan(start, in_.offset() - start);
    return absl::OkStatus();
  }

  static absl::Status CheckBools(uint64_t start, ByteSpan values) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] > 1) {
        return InvalidArgument("bool at offset ", start + i, " is ", static_cast<int>(values[i]),
                               ", the limit is 1");
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadAlignment() {
    const auto it = header_.value_index.find("general.alignment");
    if (it == header_.value_index.end()) return absl::OkStatus();
    const GgufValue& value = header_.values[it->second];
    if (value.type != GgufValueType::kUint32) {
      return InvalidArgument("key \"general.alignment\" is ", GgufTypeName(value.type),
                             ", must be u32");
    }
    header_.alignment = LoadUnaligned<uint32_t>(value.bytes.data());
    if (!std::has_single_bit(header_.alignment)) {
      return InvalidArgument("key \"general.alignment\" at offset ",
                             value.bytes.data() - bytes_.data(), " is ", header_.alignment,
                             ", must be a power of two");
    }
    return absl::OkStatus();
  }

  absl::Status ReadTensor(uint64_t i) {
    const uint64_t start = in_.offset();
    ByteSpan name_bytes;
    absl::Status status = in_.ReadString("name", kGgufMaxTensorNameBytes, &name_bytes);
    const std::string_view name = View(name_bytes);
    if (status.ok()) status = CheckName("name", start, name);
    if (!status.ok()) return Annotate(status, absl::StrCat("tensor ", i));
    TensorInfo info;
    info.name.assign(name);
    uint64_t offset = 0;
    status = ReadTensorBody(&info, &offset);
    if (!status.ok()) return Annotate(status, absl::StrCat("tensor ", QuoteName(name)));
    header_.tensors.push_back(
        // It stays within the reserved room, since the index points into the elements.
        std::move(info));
    if (!header_.tensor_index.emplace(AbslView(header_.tensors.back().name), i).second) {
      return InvalidArgument("tensor ", QuoteName(name), " at offset ", start, " is a duplicate");
    }
    header_.offsets.push_back(offset);  // relative until PlaceTensors
    return absl::OkStatus();
  }

  absl::Status ReadTensorBody(TensorInfo* info, uint64_t* offset) {
    uint32_t n_dims = 0, type = 0;
    const uint64_t n_dims_at = in_.offset();
    RETURN_IF_ERROR(in_.Read("n_dims", &n_dims));
    if (n_dims == 0 || n_dims > kGgufMaxDims) {
      return InvalidArgument("n_dims at offset ", n_dims_at, " is ", n_dims, ", must be 1 to ",
                             kGgufMaxDims);
    }
    const uint64_t dims_at = in_.offset();
    info->dims.resize(n_dims);
    for (uint32_t d = 0; d < n_dims; ++d) {
      RETURN_IF_ERROR(in_.Read("dims", &info->dims[d]));
      if (info->dims[d] == 0 || info->dims[d] > INT64_MAX) {
        return InvalidArgument("dims[", d, "] at offset ", dims_at + 8 * d, " is ", info->dims[d],
                               ", must be 1 to ", INT64_MAX);
      }
    }
    const uint64_t type_at = in_.offset();
    RETURN_IF_ERROR(in_.Read("type", &type));
    const auto traits = TraitsOf(static_cast<TensorType>(type));
    if (!traits) {
      const std::string_view known = UnsupportedTypeName(type);
      if (known.empty())
        return InvalidArgument("type at offset ", type_at, " is ", type, ", not a tensor type");
      return Unimplemented("type at offset ", type_at, " is ", AbslView(known),
                           ", which is not supported");
    }
    info->type = static_cast<TensorType>(type);
    RETURN_IF_ERROR(SizeTensor(*traits, dims_at, info));
    const uint64_t offset_at = in_.offset();
    RETURN_IF_ERROR(in_.Read("offset", offset));
    if (*offset % header_.alignment != 0) {
      return InvalidArgument("offset at offset ", offset_at, " is ", *offset,
                             ", must be a multiple of the alignment ", header_.alignment);
    }
    return absl::OkStatus();
  }

  absl::Status SizeTensor(const TypeTraits& traits, uint64_t dims_at, TensorInfo* info) const {
    if (info->dims[0] % traits.elements != 0) {
      return InvalidArgument("dims[0] at offset ", dims_at, " is ", info->dims[0],
                             ", must be a multiple of ", traits.elements, " (",
                             AbslView(traits.name), " block)");
    }
    std::optional<uint64_t> total = CheckedMul(info->dims[0] / traits.elements, traits.bytes);
    for (size_t d = 1; d < info->dims.size() && total; ++d)
      total = CheckedMul(*total, info->dims[d]);
    if (!total || *total > bytes_.size()) {
      return InvalidArgument("dims at offset ", dims_at, " ask for ",
                             total ? absl::StrCat(*total) : "more than 2^64",
                             " bytes of data, the file has ", bytes_.size());
    }
    info->bytes = *total;
    return absl::OkStatus();
  }

  // Makes the offsets absolute and tests them against the file's end and against each other.
  absl::Status PlaceTensors() {
    const auto padded = CheckedAdd(in_.offset(), header_.alignment - 1);
    if (!padded)
      return InvalidArgument("general.alignment: the data's offset does not fit in 64 bits");
    header_.data_offset = *padded & ~(header_.alignment - 1);
    for (size_t i = 0; i < header_.tensors.size(); ++i) {
      const TensorInfo& info = header_.tensors[i];
      const auto begin = CheckedAdd(header_.data_offset, header_.offsets[i]);
      const auto end = begin ? CheckedAdd(*begin, info.bytes) : std::nullopt;
      if (!end || *end > bytes_.size()) {
        return InvalidArgument("tensor ", QuoteName(info.name), ": offset ", header_.offsets[i],
                               " and ", info.bytes, " bytes end after the file's end at ",
                               bytes_.size(), " (data starts at ", header_.data_offset,
                               "); the file may be truncated");
      }
      header_.offsets[i] = *begin;
    }
    std::vector<uint32_t> order(header_.tensors.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return header_.offsets[a] < header_.offsets[b]; });
    for (size_t i = 1; i < order.size(); ++i) {
      const TensorInfo& before = header_.tensors[order[i - 1]];
      if (header_.offsets[order[i - 1]] + before.bytes > header_.offsets[order[i]]) {
        return InvalidArgument("tensor ", QuoteName(header_.tensors[order[i]].name), ": offset ",
                               header_.offsets[order[i]] - header_.data_offset,
                               " lies inside the data of ", QuoteName(before.name));
      }
    }
    return absl::OkStatus();
  }

  const ByteSpan bytes_;
  Cursor in_;
  GgufHeader header_;
};

}  // namespace

absl::StatusOr<GgufHeader> ParseGgufHeader(ByteSpan bytes) { return Parser(bytes).Run(); }

uint32_t GgufScalarBytes(GgufValueType type) {
  switch (type) {
    case GgufValueType::kUint8:
    case GgufValueType::kInt8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kUint16:
    case GgufValueType::kInt16:
      return 2;
    case GgufValueType::kUint32:
    case GgufValueType::kInt32:
    case GgufValueType::kFloat32:
      return 4;
    case GgufValueType::kUint64:
    case GgufValueType::kInt64:
    case GgufValueType::kFloat64:
      return 8;
    case GgufValueType::kString:
    case GgufValueType::kArray:
      return 0;
  }
  return 0;
}

std::string GgufTypeName(GgufValueType type) {
  switch (type) {
    case GgufValueType::kUint8:
      return "u8";
    case GgufValueType::kInt8:
      return "i8";
    case GgufValueType::kUint16:
      return "u16";
    case GgufValueType::kInt16:
      return "i16";
    case GgufValueType::kUint32:
      return "u32";
    case GgufValueType::kInt32:
      return "i32";
    case GgufValueType::kFloat32:
      return "f32";
    case GgufValueType::kBool:
      return "bool";
    case GgufValueType::kString:
      return "str";
    case GgufValueType::kArray:
      return "arr";
    case GgufValueType::kUint64:
      return "u64";
    case GgufValueType::kInt64:
      return "i64";
    case GgufValueType::kFloat64:
      return "f64";
  }
  return "?";
}

absl::StatusOr<std::vector<std::string_view>> SplitGgufStrings(const GgufValue& value) {
  std::vector<std::string_view> out;
  out.reserve(value.count);
  Cursor in(value.bytes);
  for (uint64_t i = 0; i < value.count; ++i) {
    ByteSpan element;
    RETURN_IF_ERROR(in.ReadString("string", UINT64_MAX, &element));
    out.push_back(View(element));
  }
  return out;
}

std::string QuoteName(std::string_view name) {
  constexpr size_t kMaxBytes = 64;
  const std::string escaped = EscapeText(name.substr(0, kMaxBytes));
  return absl::StrCat("\"", escaped, name.size() > kMaxBytes ? "...\"" : "\"");
}

}  // namespace lanyard::model
