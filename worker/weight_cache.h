// Makes room in a worker's folder of cached parts: parts that no present layer needs are removed,
// the longest unused first, so that the models of last year do not fill the disk of a borrowed
// machine.
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "base/status.h"

namespace lanyard::worker {

struct CacheRoom {
  // Limit of the folder; 0: only the disk's own size bounds it. Needed parts stay, whatever their
  // size.
  uint64_t limit_bytes = 0;
  // Names of the parts (SHA-256) that are needed now, cached or not.
  std::set<std::string> keep = {};
  uint64_t keep_bytes = 0;   // bytes of all those parts
  uint64_t fetch_bytes = 0;  // bytes of those that are still to come
};

// Returns how much was removed. Parts are removed while the folder would exceed its limit, or while
// the disk would keep less than a twentieth of itself free (at most 10 GiB). A part's last use is
// its modification time. Files with other names are left alone.
uint64_t MakeRoomInCache(const std::string& folder, const CacheRoom& room);

}  // namespace lanyard::worker
