// Lets only few large requests be read and handled at a time, in the order in which they came. It
// has no sockets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <string>

namespace lanyard::web {

// Not thread-safe: the connections' thread has it.
class LargeBodies {
 public:
  // `places` at a time, of one caller one alone; `max_waiting` may wait beside them.
  LargeBodies(size_t places, size_t max_waiting) : places_(places), max_waiting_(max_waiting) {}

  // Returns a number for Leave, or 0 where too many wait. `enter` is called once it is this one's
  // turn: in this call, or in a Leave of another. It must only wake.
  uint64_t Ask(const std::string& caller, std::function<void()> enter);
  // The request was handled, or waits no more. A number that has left is ignored.
  void Leave(uint64_t number);
  size_t waiting() const { return entries_.size() - inside_; }

 private:
  struct Entry {
    uint64_t number;
    std::string caller;
    std::function<void()> enter;  // null once it was called
  };
  void LetIn();

  const size_t places_;
  const size_t max_waiting_;
  size_t inside_ = 0;
  uint64_t last_ = 0;
  std::list<Entry> entries_;  // in the order of Ask
};

}  // namespace lanyard::web
