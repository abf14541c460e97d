// What devices have room for, taken once: a stage is planned and then loaded by the same figures,
// whatever becomes of them meanwhile. Where one has less by then, its Reserve refuses with
// ResourceExhausted, before the first byte is read.
#pragma once

#include <memory>
#include <vector>

#include "engine/device.h"

namespace lanyard::engine {

// The same devices; FreeBytes of each says for ever what it says now.
std::vector<std::shared_ptr<Device>> WithRoomOfNow(
    const std::vector<std::shared_ptr<Device>>& devices);

}  // namespace lanyard::engine
