// Compares every kernel op on a card with the CPU's scalar reference, bit for bit. `lanyard
// gpu-check` runs this on a real card, and the tests on the fake one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/cuda/driver.h"

namespace lanyard::cuda {

struct OpCheck {
  std::string op;       // "matmul"
  std::string variant;  // "Q4_K, 3 rows, 33 x 256"
  uint64_t values = 0;  // for example "Q4_K, 3 rows, 33 x 256"
  uint64_t different = 0;
  std::string first;    // the first different one: "at 17: 0x1.8p+3, not 0x1.9p+3"
  std::string error;    // error of a launch or a copy
  std::string skipped;  // why this card does not run it; nothing was compared
  double seconds = 0;   // time on the card, by events
  bool ok() const { return different == 0 && error.empty(); }
};

struct OpCheckOptions {
  bool small = false;  // few and small shapes, for an interpreted card
  uint64_t seed = 1;
  std::function<void(const OpCheck&)> progress;  // called after each check; may be null
};

// A lost card ends the run with its Unavailable; everything else is in the checks. `module` comes
// from LoadShipped.
absl::StatusOr<std::vector<OpCheck>> RunOpChecks(std::shared_ptr<Module> module,
                                                 const OpCheckOptions& options = {});

}  // namespace lanyard::cuda
