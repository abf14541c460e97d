// A card's memory for one worker. It has a budget in bytes that may shrink while stages run, and
// cuts large blocks into allocations.
//
// A request that does not fit is ResourceExhausted with the arithmetic (asked, used, budget, free
// on the card) and never a crash; the planner is told. Memory that other programs use is left
// alone: the default budget is what is free, less a reserve. The budget counts what was taken from
// the card (whole blocks), not what was asked for. Allocations may be freed only when no work on
// the card uses them any more: the bytes are handed out again at once. An unused block goes back to
// the card at once. Thread-safe; no lock is held while the driver is called, so that usage()
// answers at once also when the driver does not. Owners' callbacks run without the pool's lock, on
// the thread that calls Shrink, and may free.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/cuda/driver.h"

namespace lanyard::cuda {

// Where blocks come from: a Context, or a test's map.
class BlockSource {
 public:
  virtual ~BlockSource() = default;
  virtual absl::StatusOr<DeviceAddress> Allocate(
      uint64_t bytes) = 0;  // ResourceExhausted when the card is full
  virtual void Free(DeviceAddress address) = 0;
  virtual absl::StatusOr<CardMemory> Memory() = 0;
};
std::unique_ptr<BlockSource> BlocksOf(std::shared_ptr<Context> context);

enum class MemoryUse : uint8_t { kWeights, kKv, kBuffers };
std::string_view MemoryUseName(MemoryUse use);

struct PoolOptions {
  uint64_t budget_bytes = 0;           // 0: DefaultBudget of the card's figures
  uint64_t reserve_bytes = 384 << 20;  // left to the desktop beyond what it uses now
  uint64_t block_bytes = 32 << 20;     // small allocations share blocks of this size
  uint64_t granule_bytes = 2 << 20;    // blocks are multiples of it, like the driver's own
  // Makes every allocation a block of exactly its size, which is given back when it is freed, so
  // that a checker of device memory (compute-sanitizer, tests/fake_cuda) sees each one's bounds.
  // LANYARD_CUDA_EXACT_BLOCKS=1 in the environment does the same.
  bool exact_blocks = false;
};

// free + what we hold already - reserve, at least 0 and at most nine tenths of the card.
uint64_t DefaultBudget(const CardMemory& card, uint64_t held_bytes, uint64_t reserve_bytes);

class MemoryPool;

// An allocation. It is freed to its pool when it is destroyed; the pool lives as long as its
// allocations.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  ~DeviceMemory() { Reset(); }
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  void Reset();

  DeviceAddress address() const { return address_; }  // 256-byte aligned
  uint64_t size() const { return size_; }             // the size that was asked for
  bool empty() const { return address_ == 0; }
  template <typename T>
  T* as(uint64_t offset_bytes = 0) const {  // for kernel arguments; never read on the host
    return reinterpret_cast<T*>(address_ + offset_bytes);
  }

 private:
  friend class MemoryPool;
  std::shared_ptr<MemoryPool> pool_;
  DeviceAddress address_ = 0;
  uint64_t size_ = 0;
};

struct PoolUsage {
  uint64_t budget_bytes = 0;
  // Bytes of blocks taken from the card, also of those on their way to or from it.
  uint64_t held_bytes = 0;
  uint64_t weights_bytes = 0;  // as asked for, by use
  uint64_t kv_bytes = 0;
  uint64_t buffers_bytes = 0;
  // Blocks taken and given back so far. When it is equal in two readings, the card was asked in
  // between and `changing` is false, then the card's figure and this one are of the same moment.
  uint64_t changes = 0;
  bool changing = false;  // a block is on its way to or from the card
  uint64_t over_bytes() const { return held_bytes > budget_bytes ? held_bytes - budget_bytes : 0; }
};

struct ShrinkReport {
  uint64_t budget_bytes = 0;
  uint64_t held_before_bytes = 0;
  uint64_t held_bytes = 0;          // after what the owners freed at once
  uint64_t promised_bytes = 0;      // owners will free it later (at a step's end)
  uint64_t must_release_bytes = 0;  // what is still over the budget, promised or not
  std::vector<std::string>
      asked;  // the owners, in order: "kv 0: asked 64 MiB, freed 32 MiB, promised 32 MiB"
};

// Owners are asked in this order, and by the order of registration within it.
enum class ReleasePriority : uint8_t { kKv = 0, kLayers = 1, kRest = 2 };

class MemoryPool : public std::enable_shared_from_this<MemoryPool> {
 public:
  static absl::StatusOr<std::shared_ptr<MemoryPool>> Create(std::unique_ptr<BlockSource> source,
                                                            const PoolOptions& options);
  ~MemoryPool();

  // Allocations of other uses and groups (a layer's number, say) never share a block, so that a
  // freed layer or the KV can go back to the card whole. The contents are undefined.
  absl::StatusOr<DeviceMemory> Allocate(uint64_t bytes, MemoryUse use, int group = 0);
  // Takes one block of exactly `bytes` from the card for the later Allocates of this use and group
  // (the sum of a layer, each tensor rounded up to 256 bytes). Nothing is wasted, and a refusal
  // comes before the first copy.
  absl::Status Reserve(uint64_t bytes, MemoryUse use, int group = 0);

  // Gives reserved blocks that are not used yet back to the card. Allocations never move.
  void Trim();

  // Asks an owner to give back `bytes`. It frees what it can at once and returns how many more it
  // will free soon. It must not call Shrink.
  using ReleaseFn = std::function<uint64_t(uint64_t bytes)>;
  // Returns a key for RemoveOwner. RemoveOwner waits for a call that is under way, so it must not
  // be called from within one.
  int AddOwner(std::string name, ReleasePriority priority, ReleaseFn release);
  void RemoveOwner(int key);

  // Sets the budget. When more is held than it allows, owners are asked until enough is freed or
  // promised. The budget may also grow. While more is held than allowed, Allocate refuses what
  // needs a new block.
  ShrinkReport Shrink(uint64_t new_budget_bytes);

  PoolUsage usage() const;
  // Asks the card for its figures.
  absl::StatusOr<CardMemory> Card() const;

 private:
  friend class DeviceMemory;
  MemoryPool(std::unique_ptr<BlockSource> source, const PoolOptions& options);
  void Free(DeviceAddress address);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lanyard::cuda
