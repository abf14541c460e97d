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

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/size.h"
#include "model/part_source.h"
#include "net/load_cause.h"
#include "worker/local_file.h"
#include "worker/process.h"
#include "worker/weight_cache.h"

namespace lanyard::worker {
namespace {

constexpr int kFirstWaitMs = 100;
constexpr int kLastWaitMs = 2000;

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
    return net::WithCause(
        absl::UnknownError(absl::StrCat("cannot write ", path, ": ", std::strerror(error))),
        net::LoadCause::kCacheUnwritable);
  }
  struct statvfs fs {};
  const std::string dir = path.substr(0, path.rfind('/'));
  const uint64_t free_bytes =
      statvfs(dir.c_str(), &fs) == 0 ? uint64_t{fs.f_bavail} * fs.f_frsize : 0;
  return net::WithCause(
      ResourceExhausted("cannot cache part '", part.name, "' at ", path, ": ", std::strerror(error),
                        "; it needs ", part.bytes, " bytes (", FormatSize(part.bytes), "), ",
                        FormatSize(free_bytes),
                        " are free; make room or choose another folder with --state"),
      net::LoadCause::kDiskFull);
}

absl::Status FolderError(const std::string& what, int error) {
  return net::WithCause(
      absl::UnknownError(absl::StrCat("cannot ", what, ": ", std::strerror(error))),
      net::LoadCause::kCacheUnwritable);
}

absl::Status BadWeights(std::string_view text) {
  return net::WithCause(absl::DataLossError(AbslView(text)), net::LoadCause::kBadWeights);
}

// What passes by itself, whatever the peer's reason: it is not a fault of this machine.
bool PassesByItself(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
         absl::IsDeadlineExceeded(status) || absl::IsAborted(status);
}

// Returns early when `stop` asks.
void WaitUnlessStopped(int ms, const std::stop_token& stop) {
  const TimeNs end = MonotonicNow() + ms * kMillisecond;
  while (!stop.stop_requested() && MonotonicNow() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(std::min(ms, 20)));
}

int64_t LastChange(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return 0;
  return int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
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
    return FolderError(absl::StrCat("sync ", dir), errno);
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
    const model::Manifest& manifest, const WantedParts& parts, const FetchPart& fetch,
    std::stop_token stop, const std::function<void(uint64_t, uint64_t)>& progress) {
  Job job{fetch, stop, progress};
  for (const std::string& name : parts.read) {
    const model::Part* part = manifest.Find(name);
    if (part == nullptr) return Internal("the manifest has no part '", name, "'");
    job.total_bytes += part->bytes;
  }
  std::string path;
  if (auto source = FromLocalFile(&job, manifest, parts.read, &path); source != nullptr)
    return Weights{std::move(source), 0, path};
  if (stop.stop_requested()) return absl::CancelledError("verifying weights was stopped");
  RETURN_IF_ERROR(net::WithCause(MakePrivateDir(WeightsDir()), net::LoadCause::kCacheUnwritable));
  MakeRoom(manifest, parts);
  for (const std::string& name : parts.read) {
    const model::Part& part = *manifest.Find(name);
    ASSIGN_OR_RETURN(const bool cached, UseCached(job, part));
    if (cached) {
      job.Done(part.bytes);
    } else {
      RETURN_IF_ERROR(FetchOne(&job, part));
    }
  }
  ASSIGN_OR_RETURN(std::unique_ptr<model::PartSource> source,
                   model::PartSource::Make(WeightsDir(), manifest, parts.read));
  return Weights{std::move(source), job.fetched_bytes,
                 job.fetched_bytes == 0 ? "cache" : "coordinator"};
}

// Null: no local file has the parts.
std::shared_ptr<const model::TensorSource> WeightStore::FromLocalFile(
    Job* job, const model::Manifest& manifest, const std::vector<std::string>& parts,
    std::string* path) {
  for (const std::string& file : LocalFiles()) {
    const std::pair seen(manifest.digest, LastChange(file));
    if (const auto it = avoided_.find(file); it != avoided_.end() && it->second == seen) continue;
    auto source =
        OpenLocalFile(file, manifest, parts, job->stop, [&](uint64_t bytes) { job->Done(bytes); });
    if (source.ok()) {
      *path = file;
      return *std::move(source);
    }
    job->done_bytes = 0;
    if (job->stop.stop_requested()) return nullptr;
    const bool wrong = absl::IsDataLoss(source.status());
    if (wrong) avoided_[file] = seen;
    LogWarning("not using the local file", wrong ? " until it changes: " : ": ",
               source.status().message());
  }
  return nullptr;
}

void WeightStore::MakeRoom(const model::Manifest& manifest, const WantedParts& parts) const {
  CacheRoom room;
  room.limit_bytes = options_.cache_limit_bytes;
  for (const std::string& name : parts.kept) {
    const model::Part& part = *manifest.Find(name);
    if (room.keep.insert(part.sha256).second) room.keep_bytes += part.bytes;
  }
  for (const std::string& name : parts.read) {
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
  if (unlink(path.c_str()) != 0)
    return FolderError(absl::StrCat("remove the damaged ", path), errno);
  if (damaged_.insert(part.sha256).second) return false;
  damaged_.erase(part.sha256);
  return BadWeights(absl::StrCat("the cached part '", part.name, "' at ", path,
                                 " was damaged again after it was fetched anew: the disk or the "
                                 "memory of this machine fails"));
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
    const net::LoadCause cause = net::CauseOf(status);
    if (cause == net::LoadCause::kBadWeights || cause == net::LoadCause::kDiskFull)
      unlink(temp.c_str());
    return status;
  }
  if (rename(temp.c_str(), path.c_str()) != 0) {
    return FolderError(absl::StrCat("rename ", temp), errno);
  }
  return SyncDir(WeightsDir());
}

// A part on its way into a file.
struct WeightStore::Fetching {
  const std::string& path;
  int fd = -1;
  uint64_t at = 0;  // bytes that are there
  Sha256 hash;
};

absl::Status WeightStore::FetchOnce(Job* job, const model::Part& part, const std::string& temp) {
  const Fd fd(open(temp.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (fd.get() < 0) return DiskError(temp, part, errno);
  Fetching to{temp, fd.get(), 0, {}};
  const std::optional<uint64_t> have = HashFile(fd.get(), part.bytes, &to.hash, job->stop, nullptr);
  if (!have) return BadWeights(absl::StrCat("cannot read ", temp, ": ", std::strerror(errno)));
  to.at = *have;
  // Reserves the space where the file system can: a full disk is better known before an hour of
  // fetching than after it.
  if (fallocate(fd.get(), FALLOC_FL_KEEP_SIZE, 0,
                static_cast<off_t>(std::max<uint64_t>(1, part.bytes))) != 0 &&
      (errno == ENOSPC || errno == EDQUOT)) {
    return DiskError(temp, part, errno);
  }
  job->Done(to.at);
  RETURN_IF_ERROR(FetchRest(job, part, &to));
  if (ftruncate(fd.get(), static_cast<off_t>(part.bytes)) != 0 || fsync(fd.get()) != 0) {
    return DiskError(temp, part, errno);
  }
  if (to.hash.FinishHex() == part.sha256) return absl::OkStatus();
  job->done_bytes -= std::min(job->done_bytes, part.bytes);
  return BadWeights(absl::StrCat("part '", part.name, "' of ", part.bytes,
                                 " bytes does not match its SHA-256 ", part.sha256.substr(0, 12),
                                 "..."));
}

absl::Status WeightStore::FetchRest(Job* job, const model::Part& part, Fetching* to) const {
  absl::Status own;  // an error of this side ends the fetch, whatever the other side says of that
  const auto take = [&](std::span<const uint8_t> data) -> absl::Status {
    if (data.size() > part.bytes - to->at)
      return own = BadWeights("the coordinator sent more than the part's bytes");
    for (size_t done = 0; done < data.size();) {
      const ssize_t n =
          pwrite(to->fd, data.data() + done, data.size() - done, static_cast<off_t>(to->at + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return own = DiskError(to->path, part, errno);
      done += static_cast<size_t>(n);
    }
    to->hash.Update(data);
    to->at += data.size();
    job->fetched_bytes += data.size();
    job->Done(data.size());
    return absl::OkStatus();
  };
  const std::string what = absl::StrCat("fetching part '", part.name, "'");
  TimeNs forward = MonotonicNow();  // when a byte last came
  int wait_ms = kFirstWaitMs;
  while (to->at < part.bytes) {
    const uint64_t before = to->at;
    const absl::Status status = job->fetch(part.sha256, to->at, job->stop, take);
    RETURN_IF_ERROR(Annotate(own, what));
    if (status.ok() && to->at < part.bytes)
      return BadWeights(absl::StrCat("part '", part.name, "' ended after ", to->at, " bytes"));
    if (status.ok()) break;
    if (job->stop.stop_requested()) return absl::CancelledError("fetching weights was stopped");
    if (!PassesByItself(status)) return Annotate(status, what);
    const TimeNs now = MonotonicNow();
    if (to->at > before) {
      forward = now;
      wait_ms = kFirstWaitMs;
    }
    if (now - forward >= options_.fetch_patience_ms * kMillisecond) {
      return net::WithCause(
          Unavailable(what, ": no byte came for ", options_.fetch_patience_ms / 1000,
                      " s, the last time because ", status.message()),
          net::LoadCause::kAgain);
    }
    // Not in step with the others, which were told the same at the same time.
    WaitUnlessStopped(wait_ms / 2 + static_cast<int>(now / 1000 % wait_ms), job->stop);
    wait_ms = std::min(2 * wait_ms, kLastWaitMs);
  }
  return absl::OkStatus();
}

}  // namespace lanyard::worker
