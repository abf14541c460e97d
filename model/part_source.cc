#include "model/part_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/sha256.h"
#include "model/gguf.h"
#include "model/gguf_header.h"

namespace lanyard::model {

absl::Status ReadPart(const GgufFile& file, const Part& part, uint64_t offset,
                      std::span<uint8_t> out) {
  if (offset > part.bytes || out.size() > part.bytes - offset) {
    return absl::OutOfRangeError(absl::StrCat("part ", QuoteName(part.name), " has ", part.bytes,
                                              " bytes; asked for ", out.size(), " at ", offset));
  }
  uint64_t begin = 0;  // position of the tensor in the part
  for (const TensorInfo& tensor : part.tensors) {
    if (out.empty()) break;
    const uint64_t end = begin + tensor.bytes;
    if (offset < end) {
      const size_t n = static_cast<size_t>(std::min<uint64_t>(out.size(), end - offset));
      RETURN_IF_ERROR(file.Read(tensor.name, offset - begin, out.first(n)));
      out = out.subspan(n);
      offset += n;
    }
    begin = end;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PartSource>> PartSource::Make(
    std::string directory, const Manifest& manifest, const std::vector<std::string>& parts) {
  auto out = std::unique_ptr<PartSource>(new PartSource());
  MutexLock lock(&out->mu_);
  for (const std::string& name : parts) {
    const Part* part = manifest.Find(name);
    if (part == nullptr) return NotFound("part ", QuoteName(name), " is not in the manifest");
    if (!IsSha256Hex(part->sha256)) {  // since it becomes a path
      return InvalidArgument("part ", QuoteName(name), ": sha256 ", QuoteName(part->sha256),
                             " is not a digest");
    }
    uint64_t offset = 0;
    for (const TensorInfo& tensor : part->tensors) {
      out->index_[tensor.name] = out->entries_.size();
      out->entries_.push_back({tensor, out->files_.size(), offset});
      offset += tensor.bytes;
    }
    out->files_.push_back({name, absl::StrCat(directory, "/", part->sha256), part->bytes, -1});
  }
  return out;
}

PartSource::~PartSource() {
  MutexLock lock(&mu_);
  for (const PartFile& file : files_) {
    if (file.fd >= 0) close(file.fd);
  }
}

const TensorInfo* PartSource::Find(std::string_view name) const {
  const auto it = index_.find(AbslView(name));
  return it == index_.end() ? nullptr : &entries_[it->second].info;
}

absl::StatusOr<int> PartSource::OpenPart(size_t index) const {
  MutexLock lock(&mu_);
  PartFile& file = files_[index];
  if (file.fd >= 0) return file.fd;
  const int fd = open(file.path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const std::string text = absl::StrCat("cannot open part ", QuoteName(file.name), " at ",
                                          QuoteName(file.path), ": ", strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(text) : absl::FailedPreconditionError(text);
  }
  struct stat info;
  if (fstat(fd, &info) != 0 || static_cast<uint64_t>(info.st_size) != file.bytes) {
    close(fd);
    return absl::DataLossError(absl::StrCat("part ", QuoteName(file.name), " at ",
                                            QuoteName(file.path), " does not have its ", file.bytes,
                                            " bytes; fetch it again"));
  }
  file.fd = fd;
  return fd;
}

absl::Status PartSource::Read(std::string_view name, uint64_t offset,
                              std::span<uint8_t> out) const {
  const auto it = index_.find(AbslView(name));
  if (it == index_.end())
    return NotFound("tensor ", QuoteName(name), " is in none of the parts here");
  const Entry& entry = entries_[it->second];
  if (offset > entry.info.bytes || out.size() > entry.info.bytes - offset) {
    return absl::OutOfRangeError(absl::StrCat("tensor ", QuoteName(name), " has ", entry.info.bytes,
                                              " bytes; asked for ", out.size(), " at ", offset));
  }
  ASSIGN_OR_RETURN(const int fd, OpenPart(entry.part));
  for (size_t done = 0; done < out.size();) {
    const ssize_t n = pread(fd, out.data() + done, out.size() - done,
                            static_cast<off_t>(entry.offset + offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      return FailedPrecondition("cannot read tensor ", QuoteName(name), ": ", strerror(errno));
    if (n == 0)
      return absl::DataLossError(
          absl::StrCat("tensor ", QuoteName(name), ": its part was cut short"));
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

}  // namespace lanyard::model
