#include "worker/weight_cache.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "base/log.h"
#include "base/sha256.h"
#include "base/size.h"

namespace lanyard::worker {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kReserveShare = 20;  // share of the disk
constexpr uint64_t kMostReserveBytes = uint64_t{10} << 30;

struct CachedFile {
  fs::path path;
  fs::file_time_type used;
  uint64_t bytes = 0;
};

// Lists the parts, and leftovers of an interrupted fetch ("<sha256>.part"), that no layer needs,
// the longest unused first.
std::vector<CachedFile> Unneeded(const std::string& folder, const std::set<std::string>& keep) {
  std::vector<CachedFile> out;
  std::error_code ec;
  for (fs::directory_iterator it(folder, ec), end; !ec && it != end; it.increment(ec)) {
    const fs::path& path = it->path();
    const std::string name = (path.extension() == ".part" ? path.stem() : path.filename()).string();
    if (!IsSha256Hex(name) || keep.count(name) > 0 || it->is_symlink(ec) ||
        !it->is_regular_file(ec))
      continue;
    std::error_code gone;
    CachedFile file{path, it->last_write_time(gone), it->file_size(gone)};
    if (!gone) out.push_back(std::move(file));
  }
  std::sort(out.begin(), out.end(),
            [](const CachedFile& a, const CachedFile& b) { return a.used < b.used; });
  return out;
}

}  // namespace

uint64_t MakeRoomInCache(const std::string& folder, const CacheRoom& room) {
  const std::vector<CachedFile> files = Unneeded(folder, room.keep);
  uint64_t held = room.keep_bytes;
  for (const CachedFile& file : files) held += file.bytes;
  uint64_t removed = 0;
  size_t count = 0;
  for (const CachedFile& file : files) {
    std::error_code ec;
    const fs::space_info disk = fs::space(folder, ec);
    const uint64_t reserve =
        ec ? 0 : std::min<uint64_t>(disk.capacity / kReserveShare, kMostReserveBytes);
    const bool tight = !ec && room.fetch_bytes > 0 && disk.available < room.fetch_bytes + reserve;
    if (!tight && (room.limit_bytes == 0 || held <= room.limit_bytes)) break;
    if (!fs::remove(file.path, ec) || ec) {
      LogWarning("cannot remove the cached part ", file.path.string(), ": ", ec.message());
      continue;
    }
    held -= file.bytes;
    removed += file.bytes;
    ++count;
  }
  if (count > 0) {
    LogInfo("removed ", count, " cached parts (", FormatSize(removed),
            ") that the present layers do not need; ", FormatSize(held), " of weights are kept in ",
            folder);
  }
  return removed;
}

}  // namespace lanyard::worker
