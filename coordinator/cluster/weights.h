// Serves the model's parts to workers: reads them from the GGUF file, by the SHA-256 of the
// manifest.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "model/gguf.h"
#include "model/manifest.h"
#include "net/control.h"

namespace lanyard::coordinator {

// Thread-safe. Only parts of the manifest are ever read: a digest names a part, never a path.
class GgufPartProvider : public net::PartProvider {
 public:
  // The manifest must have its digests.
  GgufPartProvider(std::shared_ptr<const model::GgufFile> file,
                   std::shared_ptr<const model::Manifest> manifest);

  // NotFound for a digest that is not one of this model's.
  absl::StatusOr<uint64_t> PartBytes(std::string_view sha256) override;
  absl::Status ReadPart(std::string_view sha256, uint64_t offset, std::span<uint8_t> out) override;

 private:
  absl::StatusOr<const model::Part*> Find(std::string_view sha256) const;

  const std::shared_ptr<const model::GgufFile> file_;
  const std::shared_ptr<const model::Manifest> manifest_;
  std::unordered_map<std::string, const model::Part*> parts_;  // by digest
};

}  // namespace lanyard::coordinator
