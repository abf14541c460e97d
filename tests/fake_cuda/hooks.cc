// What a test may ask of the library beside the driver's ABI; fake_cuda.h is the caller's side.
#include <cstdint>

#include "nlohmann/json.hpp"
#include "tests/fake_cuda/entry.h"

namespace lanyard::fake_cuda {

std::string StatsText(const World& world) {
  nlohmann::json json;
  json["calls"] = world.stats.calls;
  json["allocs"] = world.stats.allocs;
  json["host_allocs"] = world.stats.host_allocs;
  json["work"] = world.stats.work;
  json["kernels"] = world.stats.kernels;
  json["graphs"] = world.stats.graphs;
  json["peer_copies"] = world.stats.peer_copies;
  json["uninitialised_reads"] = world.stats.uninitialised_reads;
  json["reports"] = world.reports.size();
  json["live_streams"] = world.streams.size();
  json["live_events"] = world.events.size();
  json["live_graphs"] = world.graphs.size() + world.execs.size();
  json["live_modules"] = world.modules.size();
  json["live_pinned"] = world.pinned.size();
  json["cards"] = nlohmann::json::array();
  for (const auto& card : world.cards) {
    json["cards"].push_back({{"used_bytes", card->used_bytes.load()},
                             {"peak_bytes", card->peak_bytes},
                             {"live_allocations", card->allocations.size()},
                             {"retained", card->retained},
                             {"peers", card->peers.size()},
                             {"lost", card->lost}});
  }
  json["by_kernel"] = nlohmann::json::object();
  for (const auto& [name, c] : world.counters) {
    json["by_kernel"][name] = {{"launches", c.launches},
                               {"blocks", c.blocks},
                               {"warp_instructions", c.warp_instructions},
                               {"global_read_sectors", c.global_read_sectors},
                               {"global_write_sectors", c.global_write_sectors},
                               {"global_read_bytes", c.global_read_bytes},
                               {"global_write_bytes", c.global_write_bytes},
                               {"shared_conflicts", c.shared_conflicts},
                               {"barriers", c.barriers},
                               {"mma", c.mma},
                               {"dp4a", c.dp4a}};
  }
  return json.dump();
}

extern "C" {  // the names of namespace members too are plain C

int lanyard_fake_cuda_reset(const char* config) {
  const Entry entry;
  return World::Get().Reset(config) ? 0 : 1;
}

// Valid until the next call on this thread.
const char* lanyard_fake_cuda_stats() {
  static thread_local std::string text;
  const Entry entry;
  text = StatsText(World::Get());
  return text.c_str();
}

// One a line.
const char* lanyard_fake_cuda_reports() {
  static thread_local std::string text;
  const Entry entry;
  text.clear();
  for (const std::string& report : World::Get().reports) text += report + "\n";
  return text.c_str();
}

// Another program takes this much of a card from now on.
void lanyard_fake_cuda_set_others(int device, uint64_t bytes) {
  const Entry entry;
  if (device >= 0 && device < static_cast<int>(World::Get().cards.size())) {
    World::Get().card(device).config.others_bytes = bytes;
  }
}

// The driver answers no question for free memory until it is told so.
void lanyard_fake_cuda_hang(int on) { World::Get().hung.store(on != 0); }

// Bytes in use by this process. Never waits.
uint64_t lanyard_fake_cuda_used(int device) {
  World& world = World::Get();
  return device >= 0 && device < static_cast<int>(world.cards.size())
             ? world.card(device).used_bytes.load()
             : 0;
}

}  // extern "C"

}  // namespace lanyard::fake_cuda
