// Strong ids: distinct integer types that do not convert into each other.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <utility>

namespace lanyard {

template <typename Tag>
struct StrongId {
  uint64_t value = 0;
  constexpr StrongId() = default;
  constexpr explicit StrongId(uint64_t v) : value(v) {}
  friend constexpr auto operator<=>(const StrongId&, const StrongId&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const StrongId& id) {
    return H::combine(std::move(h), id.value);
  }
};

// A sequence (one answer being made); unique within a coordinator's life.
using SeqId = StrongId<struct SeqTag>;
using StepId = StrongId<struct StepTag>;  // a step through the pipeline; ascending within an epoch
using Epoch = StrongId<struct EpochTag>;  // ascending; a worker refuses a lower one
using PlanId = StrongId<struct PlanTag>;  // a plan (cut of the model over workers)

}  // namespace lanyard

template <typename Tag>
struct std::hash<lanyard::StrongId<Tag>> {
  size_t operator()(const lanyard::StrongId<Tag>& id) const noexcept {
    return std::hash<uint64_t>{}(id.value);
  }
};
