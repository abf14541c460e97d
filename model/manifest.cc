#include "model/manifest.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/bytes.h"
#include "base/sha256.h"
#include "model/gguf.h"
#include "model/gguf_header.h"
#include "model/part_source.h"

namespace lanyard::model {
namespace {

constexpr uint64_t kPieceBytes = 1 << 20;
constexpr unsigned kHashThreads = 2;
// Below this, starting a thread costs more than it saves.
constexpr uint64_t kThreadedBytes = 4 << 20;

struct PartSpec {
  std::string name;
  std::vector<TensorSpec> tensors;
};

std::vector<PartSpec> ExpectedParts(const ModelShape& shape) {
  std::vector<PartSpec> out;
  out.push_back({"embed", EmbedTensors(shape)});
  if (auto common = CommonTensors(shape); !common.empty())
    out.push_back({"common", std::move(common)});
  for (uint32_t l = 0; l < shape.n_layers; ++l)
    out.push_back({absl::StrCat("layer.", l), LayerTensors(shape, l)});
  out.push_back({"norm", NormTensors(shape)});
  if (auto output = OutputTensors(shape); !output.empty())
    out.push_back({"output", std::move(output)});
  return out;
}

void AppendField(std::string* out, uint64_t value) { absl::StrAppend(out, value, ";"); }
// Writes the bits, since text would round.
void AppendField(std::string* out, float value) {
  absl::StrAppend(out, LoadUnaligned<uint32_t>(&value), ";");
}

// Makes one text for one content: the shape's numbers (they change the result as weights do; the
// name does not), then the parts.
std::string Canonical(const Manifest& m) {
  const ModelShape& s = m.shape;
  std::string out = absl::StrCat("lanyard-manifest-1;", FamilyName(s.family), ";");
  for (const uint64_t v : {s.n_layers, s.d_model, s.n_heads, s.n_kv_heads, s.head_dim, s.d_ff,
                           s.n_vocab, s.context_length, s.n_rot}) {
    AppendField(&out, v);
  }
  for (const float v :
       {s.norm_eps, s.attention_scale, s.rope_base, s.rope_base_local, s.rope_scale}) {
    AppendField(&out, v);
  }
  for (const bool v : {s.rope_factors, s.tied_output, s.float_weights})
    AppendField(&out, uint64_t{v});
  for (const StateGroup& group : s.groups) {
    absl::StrAppend(&out, "group;", static_cast<int>(group.kind), ";", group.window, ";");
    for (const uint32_t layer : group.layers) AppendField(&out, uint64_t{layer});
  }
  for (const Part& part : m.parts) {
    absl::StrAppend(&out, "\npart;", part.name, ";", part.sha256);
    for (const TensorInfo& t : part.tensors) {
      absl::StrAppend(&out, "\n", t.name, ";", static_cast<uint32_t>(t.type), ";");
      for (const uint64_t d : t.dims) AppendField(&out, d);
    }
  }
  return out;
}

std::string DigestOf(const Manifest& manifest) {
  const std::string text = Canonical(manifest);
  return Sha256Hex({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

absl::StatusOr<std::string> HashPart(const GgufFile& file, const Part& part) {
  Sha256 hash;
  std::vector<uint8_t> piece(std::min(kPieceBytes, part.bytes));
  for (uint64_t at = 0; at < part.bytes; at += piece.size()) {
    const std::span<uint8_t> out(piece.data(), std::min<uint64_t>(piece.size(), part.bytes - at));
    RETURN_IF_ERROR(ReadPart(file, part, at, out));
    hash.Update(out);
  }
  return hash.FinishHex();
}

absl::Status HashParts(const GgufFile& file, std::vector<Part>* parts) {
  std::atomic<size_t> next{0};
  absl::Status results[kHashThreads];
  const auto work = [&](unsigned thread) {
    for (size_t i = next++; i < parts->size(); i = next++) {
      auto digest = HashPart(file, (*parts)[i]);
      if (!digest.ok()) {
        results[thread] = digest.status();
        return;
      }
      (*parts)[i].sha256 = *std::move(digest);
    }
  };
  uint64_t bytes = 0;
  for (const Part& part : *parts) bytes += part.bytes;
  const unsigned n_threads = bytes < kThreadedBytes ? 1 : kHashThreads;
  std::vector<std::thread> threads;
  for (unsigned t = 1; t < n_threads; ++t) threads.emplace_back(work, t);
  work(0);
  for (std::thread& t : threads) t.join();
  for (const absl::Status& status : results) RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

// The bytes that a tensor of this type and these (checked) dims has; nullopt where the number does
// not fit.
std::optional<uint64_t> BytesOf(const TensorInfo& info) {
  const auto traits = TraitsOf(info.type);
  if (!traits) return std::nullopt;
  std::optional<uint64_t> total = CheckedMul(info.dims[0] / traits->elements, traits->bytes);
  for (size_t d = 1; d < info.dims.size() && total; ++d) total = CheckedMul(*total, info.dims[d]);
  return total;
}

absl::Status CheckPart(const PartSpec& spec, const Part& part, bool* float_weights) {
  if (part.name != spec.name) {
    return InvalidArgument("part ", QuoteName(part.name), " stands where ", QuoteName(spec.name),
                           " must");
  }
  if (!IsSha256Hex(part.sha256)) {
    return InvalidArgument("part ", QuoteName(part.name), ": sha256 ", QuoteName(part.sha256),
                           " is not 64 lower-case hex digits");
  }
  if (part.tensors.size() != spec.tensors.size()) {
    return InvalidArgument("part ", QuoteName(part.name), " has ", part.tensors.size(),
                           " tensors, must have ", spec.tensors.size());
  }
  uint64_t total = 0;
  for (size_t i = 0; i < spec.tensors.size(); ++i) {
    const TensorInfo& info = part.tensors[i];
    if (info.name != spec.tensors[i].name) {
      return InvalidArgument("part ", QuoteName(part.name), ": tensor ", QuoteName(info.name),
                             " stands where ", QuoteName(spec.tensors[i].name), " must");
    }
    RETURN_IF_ERROR(CheckTensor(spec.tensors[i], info));
    const auto bytes = BytesOf(info);
    if (!bytes || *bytes != info.bytes) {
      return InvalidArgument("tensor ", QuoteName(info.name), ": bytes is ", info.bytes,
                             ", must be ", bytes.value_or(0));
    }
    if (info.dims.size() > 1 && info.type != TensorType::kF32) *float_weights = false;
    total += info.bytes;
  }
  if (total != part.bytes) {
    return InvalidArgument("part ", QuoteName(part.name), ": bytes is ", part.bytes,
                           ", its tensors have ", total);
  }
  return absl::OkStatus();
}

}  // namespace

const Part* Manifest::Find(std::string_view name) const {
  for (const Part& part : parts) {
    if (part.name == name) return &part;
  }
  return nullptr;
}

absl::StatusOr<Manifest> BuildManifest(const GgufFile& file, bool hash) {
  Manifest out;
  ASSIGN_OR_RETURN(out.shape, ShapeFromGguf(file));
  for (PartSpec& spec : ExpectedParts(out.shape)) {
    Part part;
    part.name = std::move(spec.name);
    for (const TensorSpec& tensor : spec.tensors) {
      const TensorInfo* info = file.Find(tensor.name);
      if (info == nullptr)
        return Internal("tensor ", QuoteName(tensor.name), " passed the check and is missing");
      part.tensors.push_back(*info);
      part.bytes += info->bytes;
    }
    out.parts.push_back(std::move(part));
  }
  if (!hash) return out;
  RETURN_IF_ERROR(HashParts(file, &out.parts));
  out.digest = DigestOf(out);
  return out;
}

absl::Status ValidateManifest(const Manifest& manifest) {
  RETURN_IF_ERROR(ValidateShape(manifest.shape));
  const std::vector<PartSpec> specs = ExpectedParts(manifest.shape);
  if (manifest.parts.size() != specs.size()) {
    return InvalidArgument("parts: ", manifest.parts.size(), " of them, the shape has ",
                           specs.size());
  }
  bool float_weights = true;
  for (size_t i = 0; i < specs.size(); ++i) {
    RETURN_IF_ERROR(CheckPart(specs[i], manifest.parts[i], &float_weights));
  }
  if (float_weights != manifest.shape.float_weights) {
    return InvalidArgument("float_weights is ", manifest.shape.float_weights,
                           ", the tensors' types say otherwise");
  }
  const std::string digest = DigestOf(manifest);
  if (digest != manifest.digest) {
    return InvalidArgument("digest is ", QuoteName(manifest.digest), ", the manifest's is ",
                           digest);
  }
  return absl::OkStatus();
}

std::vector<std::string> PartsOfStage(const Manifest& manifest, uint32_t layer_begin,
                                      uint32_t layer_end, bool embeds, bool samples) {
  std::vector<std::string> out;
  if (embeds || (samples && manifest.shape.tied_output)) out.push_back("embed");
  if (layer_begin < layer_end && manifest.Find("common") != nullptr) out.push_back("common");
  for (uint32_t l = layer_begin; l < std::min(layer_end, manifest.shape.n_layers); ++l) {
    out.push_back(absl::StrCat("layer.", l));
  }
  if (samples) {
    out.push_back("norm");
    if (!manifest.shape.tied_output) out.push_back("output");
  }
  return out;
}

}  // namespace lanyard::model
