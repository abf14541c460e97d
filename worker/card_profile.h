// The rates of a card, measured once and kept: a measurement takes the card for most of a second,
// and several workers that start together must not disturb each other's.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/cuda/cuda_device.h"
#include "engine/cuda/probe.h"
#include "net/control.h"

namespace lanyard::worker {

// By DeviceHello::name. A card whose figures cannot be had or believed has no entry.
using CardRates = std::map<std::string, net::DeviceRates>;
using ProbeFn = std::function<absl::StatusOr<cuda::CardProbe>(engine::CudaDevice&)>;

// Measures a card whose memory no stage uses yet. FailedPrecondition when it is too slow to be a
// card: an interpreter's times (tests/fake_cuda) say nothing.
absl::StatusOr<cuda::CardProbe> MeasureCard(engine::CudaDevice& device);

// Takes the rates from the file in `state_dir` where it has this very card under this driver and
// this version of Lanyard; otherwise calls `probe` and writes the result there. A file that cannot
// be read counts as absent; one that cannot be written costs a line in the log.
CardRates RatesOf(const std::vector<std::shared_ptr<engine::CudaDevice>>& devices,
                  const std::string& state_dir, const ProbeFn& probe = MeasureCard);

// Says whether a card with these facts can read at such a rate: its memory's clock and width tell
// the best case, where the driver knows them. A figure that comes from the card's cache, or from a
// card that another program used meanwhile, is not believed.
bool Believable(const cuda::DeviceInfo& card, double read_bytes_per_second);

}  // namespace lanyard::worker
