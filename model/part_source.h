// Weights as verified parts in a folder, where a file named by its SHA-256 holds each part (a
// worker's cache); and parts cut out of a GGUF file (which the coordinator serves, and a worker
// with a local copy of the file reads).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "base/status.h"
#include "model/manifest.h"
#include "model/tensor_source.h"

namespace lanyard::model {

class GgufFile;

// Fills `out` from byte `offset` of a part. OutOfRange past the part's end. Precondition: the part
// belongs to this file's manifest. Thread-safe.
absl::Status ReadPart(const GgufFile& file, const Part& part, uint64_t offset,
                      std::span<uint8_t> out);

// The tensors of some parts, read by pread from `<directory>/<sha256>`. A part's file is opened at
// its first read and stays open; it must have exactly the part's bytes. Contents are not hashed
// here; the code that writes the folder does that.
class PartSource : public TensorSource {
 public:
  // `parts` are the names of the parts that the folder has (PartsOfStage). The manifest must have
  // passed ValidateManifest.
  static absl::StatusOr<std::unique_ptr<PartSource>> Make(std::string directory,
                                                          const Manifest& manifest,
                                                          const std::vector<std::string>& parts);
  ~PartSource() override;
  PartSource(const PartSource&) = delete;
  PartSource& operator=(const PartSource&) = delete;

  const TensorInfo* Find(std::string_view name) const override;
  absl::Status Read(std::string_view name, uint64_t offset, std::span<uint8_t> out) const override;

 private:
  struct PartFile {
    std::string name;
    std::string path;
    uint64_t bytes = 0;
    int fd = -1;
  };
  struct Entry {
    TensorInfo info;
    size_t part = 0;      // index into files_
    uint64_t offset = 0;  // position of the tensor in its part
  };

  PartSource() = default;
  absl::StatusOr<int> OpenPart(size_t index) const;

  std::vector<Entry> entries_;
  absl::flat_hash_map<std::string, size_t> index_;
  mutable Mutex mu_;
  mutable std::vector<PartFile> files_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lanyard::model
