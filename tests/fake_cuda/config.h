// How the fake cards are set up: "devices=2,memory=256MiB/64MiB,cc=8.6/7.5,seed=7", from
// LANYARD_FAKE_CUDA or a test. A list by "/" is one value a card; the last one counts for the rest.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace lanyard::fake_cuda {

enum class Order {
  // Queued work runs late, in any order that streams and events allow, drawn from the seed.
  kRandom,
  kEager,  // work runs at once, in the order of the calls
};

struct CardConfig {
  uint64_t memory_bytes = 256 << 20;
  uint64_t others_bytes = 0;  // used by other programs from the start
  int cc = 86;
  int sm_count = 4;
  bool integrated = false;   // shares the machine's memory
  uint64_t graph_bytes = 0;  // of the card's memory that each graph takes, like a driver's
};

struct Config {
  int devices = 1;
  std::vector<CardConfig> cards;  // one for each device
  uint64_t seed = 1;
  Order order = Order::kRandom;
  int driver = 13000;  // the answer of cuDriverGetVersion; PTX of a newer ISA is refused
  bool peer = false;   // cards reach each other's memory
  // The machine's checks of initialisation and races (bounds are always checked)
  bool checks = true;
  bool strict_reads = false;  // copying unwritten memory to the host is an error
  // Failures are counted from 1; 0 means never.
  uint64_t fail_alloc = 0;       // this cuMemAlloc says OUT_OF_MEMORY
  uint64_t fail_alloc_from = 0;  // this one and all after it
  uint64_t fail_host_alloc = 0;  // this cuMemHostAlloc
  uint64_t lose_at = 0;          // this call (of those that reach a card) loses its card
  uint64_t lose_at_work = 0;     // this kernel, copy or fill loses its card when it runs
  int lose_code = 719;
  int lose_device = -1;  // count and lose only this card; -1 = any
};

// Unknown keys and values out of range are InvalidArgument.
absl::StatusOr<Config> ParseConfig(std::string_view text);

}  // namespace lanyard::fake_cuda
