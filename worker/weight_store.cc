#include "worker/weight_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/size.h"
#include "model/part_source.h"
#include "worker/local_file.h"
#include "worker/process.h"
#include "worker/weight_cache.h"

namespace lanyard::worker {
namespace {

constexpr size_t kPieceBytes = size_t{256} << 10;
constexpr int kFetchTries = 5;

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

absl::Status DiskError(const std::string& path, const model::Part& part, int error) {
  if (error != ENOSPC && error != EDQUOT) {
    return absl::UnknownError(absl::StrCat("cannot write ", path, ": ", std::strerror(error)));
  }
  struct statvfs fs {};
  const std::string dir = path.substr(0, path.rfind('/'));
  const uint64_t free_bytes =
      statvfs(dir.c_str(), &fs) == 0 ? uint64_t{fs.f_bavail} * fs.f_frsize : 0;
  return ResourceExhausted("cannot cache part '", part.name, "' at ", path, ": ",
                           std::strerror(error), "; it needs ", part.bytes, " bytes (",
                           FormatSize(part.bytes), "), ", FormatSize(free_bytes),
                           " are free; make room or choose another folder with --state");
}

// Feeds up to `limit` bytes of the file to the hash. Returns their number, or nullopt on a read
// error.
std::optional<uint64_t> HashFile(int fd, uint64_t limit, Sha256* hash, std::stop_token stop,
                                 const std::function<void(uint64_t)>& progress) {
  std::vector<uint8_t> piece(kPieceBytes);
  uint64_t done = 0;
  while (done < limit && !stop.stop_requested()) {
    const size_t want = static_cast<size_t>(std::min<uint64_t>(piece.size(), limit - done));
    const ssize_t n = pread(fd, piece.data(), want, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::nullopt;
    if (n == 0) break;
    hash->Update({piece.data(), static_cast<size_t>(n)});
    done += static_cast<uint64_t>(n);
    if (progress) progress(static_cast<uint64_t>(n));
  }
  return done;
}

absl::Status SyncDir(const std::string& dir) {
  const Fd fd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0 || fsync(fd.get()) != 0) {
    return absl::UnknownError(absl::StrCat("cannot sync ", dir, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace

struct WeightStore::Job {
  const FetchPart& fetch;
  std::stop_token stop;
  const std::function<void(uint64_t, uint64_t)>& progress;
  uint64_t total_bytes = 0;
  uint64_t done_bytes = 0;
  uint64_t fetched_bytes = 0;

  void Done(uint64_t bytes) {
    done_bytes = std::min(total_bytes, done_bytes + bytes);
    if (progress) progress(done_bytes, total_bytes);
  }
};

std::vector<std::string> WeightStore::LocalFiles() const {
  std::vector<std::string> out = options_.local_files;
  DIR* dir = options_.local_dir.empty() ? nullptr : opendir(options_.local_dir.c_str());
  if (dir == nullptr) return out;
  const size_t fixed = out.size();
  while (const dirent* entry = readdir(dir)) {
    const std::string_view name(entry->d_name);
    if (name.size() > 5 && name.substr(name.size() - 5) == ".gguf") {
      out.push_back(absl::StrCat(options_.local_dir, "/", entry->d_name));
    }
  }
  closedir(dir);
  std::sort(out.begin() + static_cast<std::ptrdiff_t>(fixed), out.end());
  return out;
}

absl::StatusOr<Weights> WeightStore::Prepare(
    const model::Manifest& manifest, const std::vector<std::string>& parts, const FetchPart& fetch,
    std::stop_token stop, const std::function<void(uint64_t, uint64_t)>& progress) {
  Job job{fetch, stop, progress};
  for (const std::string& name : parts) {
    const model::Part* part = manifest.Find(name);
    if (part == nullptr) return Internal("the manifest has no part '", name, "'");
    job.total_bytes += part->bytes;
  }
  for (const std::string& path : LocalFiles()) {
    auto source =
        OpenLocalFile(path, manifest, parts, stop, [&](uint64_t bytes) { job.Done(bytes); });
    if (source.ok()) return Weights{*std::move(source), 0, path};
    if (stop.stop_requested()) return source.status();
    LogWarning("not using the local file: ", source.status().message());
    job.done_bytes = 0;
  }
  RETURN_IF_ERROR(MakePrivateDir(WeightsDir()));
  MakeRoom(manifest, parts);
  for (const std::string& name : parts) {
    const model::Part& part = *manifest.Find(name);
    ASSIGN_OR_RETURN(const bool cached, UseCached(job, part));
    if (cached) {
      job.Done(part.bytes);
    } else {
      RETURN_IF_ERROR(FetchOne(&job, part));
    }
  }
  ASSIGN_OR_RETURN(std::unique_ptr<model::PartSource> source,
                   model::PartSource::Make(WeightsDir(), manifest, parts));
  return Weights{std::move(source), job.fetched_bytes,
                 job.fetched_bytes == 0 ? "cache" : "coordinator"};
}

void WeightStore::MakeRoom(const model::Manifest& manifest,
                           const std::vector<std::string>& parts) const {
  CacheRoom room;
  room.limit_bytes = options_.cache_limit_bytes;
  for (const std::string& name : parts) {
    const model::Part& part = *manifest.Find(name);
    if (!room.keep.insert(part.sha256).second) continue;
    room.keep_bytes += part.bytes;
    if (access(absl::StrCat(WeightsDir(), "/", part.sha256).c_str(), F_OK) != 0)
      room.fetch_bytes += part.bytes;
  }
  MakeRoomInCache(WeightsDir(), room);
}

// True when the cache has the part and its bytes match. A file that does not match is removed.
absl::StatusOr<bool> WeightStore::UseCached(const Job& job, const model::Part& part) {
  const std::string path = absl::StrCat(WeightsDir(), "/", part.sha256);
  {
    const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (fd.get() < 0 && errno == ENOENT) return false;
    struct stat info {};
    Sha256 hash;
    if (fd.get() >= 0 && fstat(fd.get(), &info) == 0 &&
        static_cast<uint64_t>(info.st_size) == part.bytes &&
        HashFile(fd.get(), part.bytes, &hash, job.stop, nullptr) == part.bytes &&
        hash.FinishHex() == part.sha256) {
      // Marks its last use; if this fails it only looks older than it is.
      futimens(fd.get(), nullptr);
      return true;
    }
    if (job.stop.stop_requested()) return absl::CancelledError("verifying weights was stopped");
  }
  LogWarning("the cached part '", part.name, "' at ", path, " is damaged; fetching it again");
  if (unlink(path.c_str()) != 0) {
    return absl::UnknownError(
        absl::StrCat("cannot remove the damaged ", path, ": ", std::strerror(errno)));
  }
  return false;
}

absl::Status WeightStore::FetchOne(Job* job, const model::Part& part) {
  const std::string path = absl::StrCat(WeightsDir(), "/", part.sha256);
  const std::string temp = path + ".part";
  absl::Status status = FetchOnce(job, part, temp);
  if (absl::IsDataLoss(status)) {
    // What an earlier run left may be damaged: it is fetched once more from the first byte.
    unlink(temp.c_str());
    status = FetchOnce(job, part, temp);
  }
  if (!status.ok()) {
    // A part that the network cut off is kept and resumed; other leftovers would only be in the
    // way.
    if (absl::IsDataLoss(status) || absl::IsResourceExhausted(status)) unlink(temp.c_str());
    return status;
  }
  if (rename(temp.c_str(), path.c_str()) != 0) {
    return absl::UnknownError(absl::StrCat("cannot rename ", temp, ": ", std::strerror(errno)));
  }
  return SyncDir(WeightsDir());
}

absl::Status WeightStore::FetchOnce(Job* job, const model::Part& part, const std::string& temp) {
  const Fd fd(open(temp.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (fd.get() < 0) return DiskError(temp, part, errno);
  Sha256 hash;
  const std::optional<uint64_t> have = HashFile(fd.get(), part.bytes, &hash, job->stop, nullptr);
  if (!have)
    return absl::DataLossError(absl::StrCat("cannot read ", temp, ": ", std::strerror(errno)));
  uint64_t at = *have;
  // Reserves the space where the file system can: a full disk is better known before an hour of
  // fetching than after it.
  if (fallocate(fd.get(), FALLOC_FL_KEEP_SIZE, 0,
                static_cast<off_t>(std::max<uint64_t>(1, part.bytes))) != 0 &&
      (errno == ENOSPC || errno == EDQUOT)) {
    return DiskError(temp, part, errno);
  }
  job->Done(at);
  const auto take = [&](std::span<const uint8_t> data) -> absl::Status {
    if (data.size() > part.bytes - at)
      return absl::DataLossError("the coordinator sent more than the part's bytes");
    for (size_t done = 0; done < data.size();) {
      const ssize_t n =
          pwrite(fd.get(), data.data() + done, data.size() - done, static_cast<off_t>(at + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return DiskError(temp, part, errno);
      done += static_cast<size_t>(n);
    }
    hash.Update(data);
    at += data.size();
    job->fetched_bytes += data.size();
    job->Done(data.size());
    return absl::OkStatus();
  };
  for (int tries = 1; at < part.bytes; ++tries) {
    const absl::Status status = job->fetch(part.sha256, at, job->stop, take);
    if (absl::IsUnavailable(status) && tries < kFetchTries) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100 * tries));
      continue;
    }
    RETURN_IF_ERROR(Annotate(status, absl::StrCat("fetching part '", part.name, "'")));
    if (at < part.bytes)
      return absl::DataLossError(absl::StrCat("part '", part.name, "' ended after ", at, " bytes"));
  }
  if (ftruncate(fd.get(), static_cast<off_t>(part.bytes)) != 0 || fsync(fd.get()) != 0) {
    return DiskError(temp, part, errno);
  }
  if (hash.FinishHex() == part.sha256) return absl::OkStatus();
  job->done_bytes -= std::min(job->done_bytes, part.bytes);
  return absl::DataLossError(absl::StrCat("part '", part.name, "' of ", part.bytes,
                                          " bytes does not match its SHA-256 ",
                                          part.sha256.substr(0, 12), "..."));
}

}  // namespace lanyard::worker
