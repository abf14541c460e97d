// What every exported function does first: it takes the lock, finds the card and counts the call.
#pragma once

#include <mutex>
#include <string>

#include "tests/fake_cuda/world.h"

namespace lanyard::fake_cuda {

namespace abi = cuda::abi;

extern thread_local Handle g_current_context;

class Entry {
 public:
  Entry() : lock_(World::Get().mutex, std::defer_lock) {
    ++World::Get().waiting;
    lock_.lock();
    --World::Get().waiting;
  }

  World& world() { return World::Get(); }
  // The call is about this card, or about the card of the thread's context. Returns a CUresult to
  // return at once, or 0.
  int On(int device) {
    device_ = device;
    return world().Enter(device);
  }
  int OnCurrent() {
    const Card* card = world().CardOfContext(g_current_context);
    if (card == nullptr || card->retained == 0) return cuda::abi::kInvalidContext;
    return On(card->ordinal);
  }
  int device() const { return device_; }
  Card& card() { return world().card(device_); }

 private:
  std::unique_lock<std::mutex> lock_;
  int device_ = 0;
};

// Returns one line of JSON: what was done since Reset.
std::string StatsText(const World& world);

}  // namespace lanyard::fake_cuda
