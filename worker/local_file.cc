#include "worker/local_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>

#include "base/sha256.h"
#include "model/gguf.h"

namespace lanyard::worker {
namespace {

class FileSource final : public model::TensorSource {
 public:
  FileSource(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  ~FileSource() override { close(fd_); }

  void Add(const model::TensorInfo& info, uint64_t offset) { tensors_[info.name] = {info, offset}; }

  const model::TensorInfo* Find(std::string_view name) const override {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? nullptr : &it->second.info;
  }

  absl::Status Read(std::string_view name, uint64_t offset, std::span<uint8_t> out) const override {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) return NotFound("tensor '", AbslView(name), "' is not in ", path_);
    const uint64_t bytes = it->second.info.bytes;
    if (offset > bytes || out.size() > bytes - offset) {
      return absl::OutOfRangeError(absl::StrCat("tensor '", AbslView(name), "': ", out.size(),
                                                " bytes at ", offset, " of ", bytes));
    }
    uint64_t at = it->second.offset + offset;
    for (size_t done = 0; done < out.size();) {
      const ssize_t n =
          pread(fd_, out.data() + done, out.size() - done, static_cast<off_t>(at + done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        return absl::DataLossError(absl::StrCat(path_, ": reading tensor '", AbslView(name),
                                                "' at ", at + done, ": ",
                                                n < 0 ? std::strerror(errno) : "the file ends"));
      }
      done += static_cast<size_t>(n);
    }
    return absl::OkStatus();
  }

 private:
  struct Entry {
    model::TensorInfo info;
    uint64_t offset = 0;
  };
  const std::string path_;
  const int fd_;
  std::map<std::string, Entry, std::less<>> tensors_;
};

absl::Status AddTensors(const model::GgufFile& file, const model::Part& part, FileSource* source) {
  for (const model::TensorInfo& want : part.tensors) {
    const model::TensorInfo* have = file.Find(want.name);
    const auto offset = file.OffsetOf(want.name);
    if (have == nullptr || !offset || have->type != want.type || have->dims != want.dims ||
        have->bytes != want.bytes) {
      return NotFound(file.path(), " is not the model being served: tensor '", want.name,
                      "' is absent or unlike");
    }
    source->Add(want, *offset);
  }
  return absl::OkStatus();
}

absl::Status VerifyPart(const model::TensorSource& source, const model::Part& part,
                        std::stop_token stop, const std::function<void(uint64_t)>& progress) {
  Sha256 hash;
  std::vector<uint8_t> piece(kPieceBytes);
  for (const model::TensorInfo& tensor : part.tensors) {
    for (uint64_t at = 0; at < tensor.bytes; at += piece.size()) {
      if (stop.stop_requested()) return absl::CancelledError("verifying weights was stopped");
      const std::span<uint8_t> out(piece.data(),
                                   std::min<uint64_t>(piece.size(), tensor.bytes - at));
      RETURN_IF_ERROR(source.Read(tensor.name, at, out));
      hash.Update(out);
      if (progress) progress(out.size());
    }
  }
  if (hash.FinishHex() == part.sha256) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("part '", part.name, "' does not match the model being served"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<model::TensorSource>> OpenLocalFile(
    const std::string& path, const model::Manifest& manifest, const std::vector<std::string>& parts,
    std::stop_token stop, const std::function<void(uint64_t)>& progress) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return NotFound("cannot open ", path, ": ", std::strerror(errno));
  auto source = std::make_unique<FileSource>(path, fd);
  {
    ASSIGN_OR_RETURN(const std::unique_ptr<model::GgufFile> file, model::GgufFile::Open(path));
    for (const std::string& name : parts) {
      const model::Part* part = manifest.Find(name);
      if (part == nullptr) return Internal("the manifest has no part '", name, "'");
      RETURN_IF_ERROR(AddTensors(*file, *part, source.get()));
    }
  }
  for (const std::string& name : parts) {
    RETURN_IF_ERROR(Annotate(VerifyPart(*source, *manifest.Find(name), stop, progress), path));
  }
  return source;
}

}  // namespace lanyard::worker
