#include "coordinator/cluster/weights.h"

#include "base/sha256.h"
#include "model/part_source.h"

namespace lanyard::coordinator {

GgufPartProvider::GgufPartProvider(std::shared_ptr<const model::GgufFile> file,
                                   std::shared_ptr<const model::Manifest> manifest)
    : file_(std::move(file)), manifest_(std::move(manifest)) {
  for (const model::Part& part : manifest_->parts) parts_[part.sha256] = &part;
}

absl::StatusOr<const model::Part*> GgufPartProvider::Find(std::string_view sha256) const {
  if (!IsSha256Hex(sha256)) return InvalidArgument("a part is asked for by no SHA-256");
  const auto it = parts_.find(std::string(sha256));
  if (it == parts_.end()) {
    return NotFound("no part of the model has the SHA-256 ", AbslView(sha256));
  }
  return it->second;
}

absl::StatusOr<uint64_t> GgufPartProvider::PartBytes(std::string_view sha256) {
  ASSIGN_OR_RETURN(const model::Part* part, Find(sha256));
  return part->bytes;
}

absl::Status GgufPartProvider::ReadPart(std::string_view sha256, uint64_t offset,
                                        std::span<uint8_t> out) {
  ASSIGN_OR_RETURN(const model::Part* part, Find(sha256));
  return model::ReadPart(*file_, *part, offset, out);
}

}  // namespace lanyard::coordinator
