// What devices have room for, asked once: a stage is planned and then loaded by the same figures,
// even if they change meanwhile. Where a device has less by then, its Reserve refuses with
// ResourceExhausted, before the first byte is read.
#pragma once

#include <memory>
#include <vector>

#include "engine/device.h"

namespace lanyard::engine {

// Returns the same devices, but FreeBytes of each keeps the figure of this moment.
std::vector<std::shared_ptr<Device>> WithRoomOfNow(
    const std::vector<std::shared_ptr<Device>>& devices);

}  // namespace lanyard::engine
