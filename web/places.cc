#include "web/places.h"

#include <iterator>

namespace lanyard::web {

Guests::Place Guests::Add(const std::string& client, Session* session) {
  std::list<Guest>& own = by_client_[client];
  own.push_back({session, ++last_});
  return {client, std::prev(own.end())};
}

void Guests::Remove(const Place& place) {
  const auto own = by_client_.find(place.client);
  own->second.erase(place.guest);
  if (own->second.empty()) by_client_.erase(own);
}

size_t Guests::CountOf(const std::string& client) const {
  const auto own = by_client_.find(client);
  return own == by_client_.end() ? 0 : own->second.size();
}

Session* Guests::OldestOf(const std::string& client) const {
  const auto own = by_client_.find(client);
  return own == by_client_.end() ? nullptr : own->second.front().session;
}

Session* Guests::OldestOfMost() const {
  const std::list<Guest>* most = nullptr;
  for (const auto& [client, own] : by_client_) {
    if (most == nullptr || own.size() > most->size() ||
        (own.size() == most->size() && own.front().number < most->front().number))
      most = &own;
  }
  return most == nullptr ? nullptr : most->front().session;
}

Shares::Verdict Shares::Enter(const std::string& caller) {
  if (taken_ >= places_) return Verdict::kAllIsFull;
  size_t& own = by_caller_[caller];
  if (own >= most_) return Verdict::kShareIsFull;
  ++own;
  ++taken_;
  return Verdict::kEntered;
}

void Shares::Leave(const std::string& caller) {
  const auto own = by_caller_.find(caller);
  if (--own->second == 0) by_caller_.erase(own);
  --taken_;
}

}  // namespace lanyard::web
