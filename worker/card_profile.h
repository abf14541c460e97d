// What a card does in a second, measured once and kept: a measurement takes the card for most of a
// second, and several workers that start together must not disturb each other's.
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

// By DeviceHello::name; none of a card whose figures cannot be had or believed.
using CardRates = std::map<std::string, net::DeviceRates>;
using ProbeFn = std::function<absl::StatusOr<cuda::CardProbe>(engine::CudaDevice&)>;

// Measures a card whose memory no stage uses yet. FailedPrecondition when it is too slow to be one:
// an interpreter's times (tests/fake_cuda) say nothing.
absl::StatusOr<cuda::CardProbe> MeasureCard(engine::CudaDevice& device);

// From the file of `state_dir` where it has this very card under this driver and version of
// Lanyard, else by `probe`, and then kept there. A file that cannot be read is as good as none; one
// that cannot be written costs a line in the log.
CardRates RatesOf(const std::vector<std::shared_ptr<engine::CudaDevice>>& devices,
                  const std::string& state_dir, const ProbeFn& probe = MeasureCard);

// Whether a card of these facts can read so much: its memory's clock and width say what it could at
// best, where the driver tells them. A figure of the card's cache, or of one that something else
// used meanwhile, is not believed.
bool Believable(const cuda::DeviceInfo& card, double read_bytes_per_second);

}  // namespace lanyard::worker
