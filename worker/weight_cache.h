// Room in a worker's folder of cached parts: those that no present layer needs go, the longest
// unused first, so that the models of last year do not fill the disk of the machine that is lent.
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "base/status.h"

namespace lanyard::worker {

struct CacheRoom {
  uint64_t limit_bytes = 0;  // of the folder; 0: only the disk's own size bounds it. What is needed
                             // stays, whatever its size
  std::set<std::string> keep = {};  // names of parts (SHA-256) that are needed now, cached or not
  uint64_t keep_bytes = 0;          // of all those
  uint64_t fetch_bytes = 0;         // of those that are still to come
};

// How much was removed. Parts are removed while the folder would exceed its limit, or while the
// disk would keep less free than a twentieth of it (at most 10 GiB). A part's last use is its
// modification time. Files of other names are left alone.
uint64_t MakeRoomInCache(const std::string& folder, const CacheRoom& room);

}  // namespace lanyard::worker
