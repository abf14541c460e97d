// Which connections may stay: how many answers a caller may hold open, and who makes room. It has
// no sockets.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <string>

namespace lanyard::web {

class Session;

// Connections that may be closed to make room for others. A client that opens many pushes out its
// own. Not thread-safe: the connections' thread has it.
class Guests {
 public:
  struct Guest {
    Session* session;
    uint64_t number;  // rises with each Add
  };
  struct Place {
    std::string client;
    std::list<Guest>::iterator guest;
  };

  Place Add(const std::string& client, Session* session);
  void Remove(const Place& place);
  size_t CountOf(const std::string& client) const;
  // The oldest connection of this client; null when there is none.
  Session* OldestOf(const std::string& client) const;
  // The oldest of the client that has the most; of several such clients, of the one whose oldest is
  // the oldest. Null when there is none.
  Session* OldestOfMost() const;

 private:
  std::map<std::string, std::list<Guest>> by_client_;  // oldest first, no list empty
  uint64_t last_ = 0;
};

// Shares places for answers out among callers. Not thread-safe: the connections' thread has it.
class Shares {
 public:
  // No caller gets more than half of the places, unless there are few of them or all callers are
  // `one`.
  explicit Shares(size_t places, bool one = false)
      : places_(places), most_(one ? places : std::min(places, std::max(places / 2, kFloor))) {}

  enum class Verdict { kEntered, kShareIsFull, kAllIsFull };
  Verdict Enter(const std::string& caller);
  void Leave(const std::string& caller);  // once for each that entered
  size_t most_of_one() const { return most_; }
  size_t places() const { return places_; }

 private:
  static constexpr size_t kFloor = 16;
  const size_t places_;
  const size_t most_;
  size_t taken_ = 0;
  std::map<std::string, size_t> by_caller_;
};

}  // namespace lanyard::web
