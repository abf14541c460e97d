#include "web/large_bodies.h"

#include <algorithm>
#include <set>
#include <utility>

namespace lanyard::web {

uint64_t LargeBodies::Ask(const std::string& caller, std::function<void()> enter) {
  if (waiting() >= max_waiting_) return 0;
  entries_.push_back({++last_, caller, std::move(enter)});
  LetIn();
  return last_;
}

void LargeBodies::Leave(uint64_t number) {
  const auto entry = std::find_if(entries_.begin(), entries_.end(),
                                  [number](const Entry& e) { return e.number == number; });
  if (entry == entries_.end()) return;
  if (entry->enter == nullptr) --inside_;
  entries_.erase(entry);
  LetIn();
}

void LargeBodies::LetIn() {
  std::set<std::string> inside;
  for (const Entry& entry : entries_) {
    if (entry.enter == nullptr) inside.insert(entry.caller);
  }
  for (Entry& entry : entries_) {
    if (inside_ >= places_) return;
    if (entry.enter == nullptr || !inside.insert(entry.caller).second) continue;
    ++inside_;
    std::exchange(entry.enter, nullptr)();
  }
}

}  // namespace lanyard::web
