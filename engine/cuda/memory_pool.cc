#include "engine/cuda/memory_pool.h"

#include <algorithm>
#include <list>
#include <map>
#include <optional>
#include <utility>

#include "base/mutex.h"
#include "base/size.h"
#include "engine/cuda/environment.h"

namespace lanyard::cuda {
namespace {

constexpr uint64_t kAlignment = 256;

uint64_t RoundUp(uint64_t bytes, uint64_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

class ContextBlocks : public BlockSource {
 public:
  explicit ContextBlocks(std::shared_ptr<Context> context) : context_(std::move(context)) {}
  absl::StatusOr<DeviceAddress> Allocate(uint64_t bytes) override {
    return context_->Allocate(bytes);
  }
  void Free(DeviceAddress address) override { context_->Free(address); }
  absl::StatusOr<CardMemory> Memory() override { return context_->Memory(); }

 private:
  std::shared_ptr<Context> context_;
};

struct Block {
  DeviceAddress address = 0;
  uint64_t bytes = 0;
  MemoryUse use = MemoryUse::kBuffers;
  int group = 0;
  bool reserved = false;              // no allocation was ever cut from it
  int live = 0;                       // allocations
  std::map<uint64_t, uint64_t> free;  // offset -> bytes; free neighbours are joined
};

struct Allocation {
  std::list<Block>::iterator block;
  uint64_t bytes = 0;  // size as it was cut
  uint64_t asked_bytes = 0;
};

struct Owner {
  int key = 0;
  std::string name;
  ReleasePriority priority = ReleasePriority::kRest;
  MemoryPool::ReleaseFn release;
  Mutex running;  // held during a call
};

}  // namespace

std::unique_ptr<BlockSource> BlocksOf(std::shared_ptr<Context> context) {
  return std::make_unique<ContextBlocks>(std::move(context));
}

std::string_view MemoryUseName(MemoryUse use) {
  switch (use) {
    case MemoryUse::kWeights:
      return "weights";
    case MemoryUse::kKv:
      return "kv";
    case MemoryUse::kBuffers:
      return "buffers";
  }
  return "?";
}

uint64_t DefaultBudget(const CardMemory& card, uint64_t held_bytes, uint64_t reserve_bytes) {
  const uint64_t reachable = card.free_bytes + held_bytes;
  const uint64_t budget = reachable > reserve_bytes ? reachable - reserve_bytes : 0;
  return std::min(budget, card.total_bytes / 10 * 9);
}

// The pool's books. Everything but the options is guarded by `mutex`.
struct MemoryPool::State {
  std::unique_ptr<BlockSource> source;
  PoolOptions options;

  mutable Mutex mutex;
  uint64_t budget ABSL_GUARDED_BY(mutex) = 0;
  uint64_t held ABSL_GUARDED_BY(mutex) = 0;
  uint64_t used[3] ABSL_GUARDED_BY(mutex) = {0, 0, 0};
  std::list<Block> blocks ABSL_GUARDED_BY(mutex);
  std::map<DeviceAddress, Allocation> allocations ABSL_GUARDED_BY(mutex);
  std::vector<std::shared_ptr<Owner>> owners ABSL_GUARDED_BY(mutex);
  int next_key ABSL_GUARDED_BY(mutex) = 1;
  uint64_t changes ABSL_GUARDED_BY(mutex) = 0;
  int changing ABSL_GUARDED_BY(mutex) = 0;

  // Cuts the smallest free range that holds `bytes`; returns 0 when there is none.
  DeviceAddress Cut(uint64_t bytes, uint64_t asked_bytes, MemoryUse use, int group)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // The functions below release the mutex while they call the driver, which may take very long, so
  // that a thread that only asks for the books never waits for it. They return with the mutex held.
  absl::StatusOr<std::list<Block>::iterator> Take(uint64_t bytes, MemoryUse use, int group)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  absl::StatusOr<DeviceAddress> AllocateUnlocked(uint64_t bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void GiveBack(std::list<Block> leaving) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void DropReserved() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  absl::Status Refusal(uint64_t bytes, MemoryUse use, std::string_view why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
};

DeviceAddress MemoryPool::State::Cut(uint64_t bytes, uint64_t asked_bytes, MemoryUse use,
                                     int group) {
  auto best = blocks.end();
  std::map<uint64_t, uint64_t>::iterator range;
  for (auto block = blocks.begin(); block != blocks.end(); ++block) {
    if (block->use != use || block->group != group) continue;
    for (auto it = block->free.begin(); it != block->free.end(); ++it) {
      if (it->second < bytes || (best != blocks.end() && it->second >= range->second)) continue;
      best = block;
      range = it;
    }
  }
  if (best == blocks.end()) return 0;
  const auto [offset, room] = *range;
  best->free.erase(range);
  if (room > bytes) best->free.emplace(offset + bytes, room - bytes);
  best->live += 1;
  best->reserved = false;
  used[static_cast<int>(use)] += asked_bytes;
  allocations.emplace(best->address + offset, Allocation{best, bytes, asked_bytes});
  return best->address + offset;
}

absl::Status MemoryPool::State::Refusal(uint64_t bytes, MemoryUse use, std::string_view why) {
  mutex.Unlock();
  const absl::StatusOr<CardMemory> card = source->Memory();
  mutex.Lock();
  if (!card.ok() && absl::IsUnavailable(card.status())) return card.status();
  const std::string free =
      card.ok() ? absl::StrCat(FormatSize(card->free_bytes), " of ", FormatSize(card->total_bytes))
                : "unknown";
  return ResourceExhausted("no room on the card for ", FormatSize(bytes), " of ",
                           AbslView(MemoryUseName(use)), " (", AbslView(why), "): budget ",
                           FormatSize(budget), ", held ", FormatSize(held), " (weights ",
                           FormatSize(used[0]), ", kv ", FormatSize(used[1]), ", buffers ",
                           FormatSize(used[2]), "), free on the card ", free,
                           "; give the stage fewer layers or less KV, or raise the card's budget");
}

// The bytes count as held from before the driver is asked until after it has taken the block back,
// so that other requests meanwhile are refused by the budget and not by the card.
absl::StatusOr<DeviceAddress> MemoryPool::State::AllocateUnlocked(uint64_t bytes) {
  held += bytes;
  ++changing;
  mutex.Unlock();
  absl::StatusOr<DeviceAddress> address = source->Allocate(bytes);
  mutex.Lock();
  --changing;
  ++changes;
  if (!address.ok()) held -= bytes;
  return address;
}

absl::StatusOr<std::list<Block>::iterator> MemoryPool::State::Take(uint64_t bytes, MemoryUse use,
                                                                   int group) {
  if (bytes > budget || held > budget - bytes) DropReserved();
  if (bytes > budget || held > budget - bytes) return Refusal(bytes, use, "over the budget");
  absl::StatusOr<DeviceAddress> address = AllocateUnlocked(bytes);
  if (!address.ok() && absl::IsResourceExhausted(address.status())) {
    DropReserved();
    address = AllocateUnlocked(bytes);
  }
  if (!address.ok()) {
    if (absl::IsResourceExhausted(address.status())) return Refusal(bytes, use, "the card is full");
    return address.status();
  }
  Block block;
  block.address = *address;
  block.bytes = bytes;
  block.use = use;
  block.group = group;
  block.free.emplace(0, bytes);
  blocks.push_back(std::move(block));
  return std::prev(blocks.end());
}

void MemoryPool::State::GiveBack(std::list<Block> leaving) {
  if (leaving.empty()) return;
  ++changing;
  mutex.Unlock();
  uint64_t bytes = 0;
  for (const Block& block : leaving) {
    source->Free(block.address);
    bytes += block.bytes;
  }
  mutex.Lock();
  held -= bytes;
  --changing;
  ++changes;
}

void MemoryPool::State::DropReserved() {
  std::list<Block> leaving;
  for (auto it = blocks.begin(); it != blocks.end();) {
    const auto block = it++;
    if (block->live == 0) leaving.splice(leaving.end(), blocks, block);
  }
  GiveBack(std::move(leaving));
}

MemoryPool::MemoryPool(std::unique_ptr<BlockSource> source, const PoolOptions& options)
    : state_(std::make_unique<State>()) {
  state_->source = std::move(source);
  state_->options = options;
  if (ExactBlocksWanted()) state_->options.exact_blocks = true;
}

MemoryPool::~MemoryPool() {
  MutexLock lock(&state_->mutex);
  state_->GiveBack(std::move(state_->blocks));
}

absl::StatusOr<std::shared_ptr<MemoryPool>> MemoryPool::Create(std::unique_ptr<BlockSource> source,
                                                               const PoolOptions& options) {
  if (options.granule_bytes == 0 || options.granule_bytes % kAlignment != 0 ||
      options.block_bytes % options.granule_bytes != 0) {
    return InvalidArgument("a pool's block of ", options.block_bytes,
                           " bytes is no multiple of its granule of ", options.granule_bytes,
                           ", or that none of ", kAlignment);
  }
  std::shared_ptr<MemoryPool> pool(new MemoryPool(std::move(source), options));
  State& state = *pool->state_;
  uint64_t budget = options.budget_bytes;
  if (budget == 0) {
    ASSIGN_OR_RETURN(const CardMemory card, state.source->Memory());
    budget = DefaultBudget(card, 0, options.reserve_bytes);
  }
  MutexLock lock(&state.mutex);
  state.budget = budget;
  return pool;
}

absl::StatusOr<DeviceMemory> MemoryPool::Allocate(uint64_t bytes, MemoryUse use, int group) {
  State& state = *state_;
  const PoolOptions& options = state.options;
  if (bytes > (uint64_t{1} << 48))
    return InvalidArgument("an allocation of ", bytes, " bytes on a card");
  const uint64_t cut = RoundUp(std::max<uint64_t>(bytes, 1), kAlignment);
  MutexLock lock(&state.mutex);
  DeviceAddress address = options.exact_blocks ? 0 : state.Cut(cut, bytes, use, group);
  if (address == 0) {
    const uint64_t exact = options.exact_blocks ? cut : RoundUp(cut, options.granule_bytes);
    const bool share = !options.exact_blocks && cut < options.block_bytes / 4;
    // A shared block is only a wish; where it does not fit, exactly the needed bytes are taken.
    if (!share || !state.Take(std::max(options.block_bytes, exact), use, group).ok()) {
      RETURN_IF_ERROR(state.Take(exact, use, group));
    }
    address = state.Cut(cut, bytes, use, group);
    if (address == 0) return Internal("a new block does not hold what it was taken for");
  }
  DeviceMemory memory;
  memory.pool_ = shared_from_this();
  memory.address_ = address;
  memory.size_ = bytes;
  return memory;
}

absl::Status MemoryPool::Reserve(uint64_t bytes, MemoryUse use, int group) {
  if (bytes == 0 || state_->options.exact_blocks) return absl::OkStatus();
  if (bytes > (uint64_t{1} << 48))
    return InvalidArgument("a reservation of ", bytes, " bytes on a card");
  MutexLock lock(&state_->mutex);
  ASSIGN_OR_RETURN(auto block,
                   state_->Take(RoundUp(bytes, state_->options.granule_bytes), use, group));
  block->reserved = true;
  return absl::OkStatus();
}

void MemoryPool::Free(DeviceAddress address) {
  State& state = *state_;
  MutexLock lock(&state.mutex);
  const auto found = state.allocations.find(address);
  if (found == state.allocations.end()) return;
  const Allocation allocation = found->second;
  state.allocations.erase(found);
  Block& block = *allocation.block;
  state.used[static_cast<int>(block.use)] -= allocation.asked_bytes;
  block.live -= 1;
  if (block.live == 0) {
    std::list<Block> leaving;
    leaving.splice(leaving.end(), state.blocks, allocation.block);
    state.GiveBack(std::move(leaving));
    return;
  }
  auto range = block.free.emplace(address - block.address, allocation.bytes).first;
  if (const auto next = std::next(range);
      next != block.free.end() && range->first + range->second == next->first) {
    range->second += next->second;
    block.free.erase(next);
  }
  if (range != block.free.begin()) {
    const auto before = std::prev(range);
    if (before->first + before->second == range->first) {
      before->second += range->second;
      block.free.erase(range);
    }
  }
}

void MemoryPool::Trim() {
  MutexLock lock(&state_->mutex);
  state_->DropReserved();
}

int MemoryPool::AddOwner(std::string name, ReleasePriority priority, ReleaseFn release) {
  auto owner = std::make_shared<Owner>();
  owner->name = std::move(name);
  owner->priority = priority;
  owner->release = std::move(release);
  MutexLock lock(&state_->mutex);
  owner->key = state_->next_key++;
  const auto after = [](const std::shared_ptr<Owner>& a, const std::shared_ptr<Owner>& b) {
    return a->priority < b->priority;
  };
  state_->owners.insert(
      std::upper_bound(state_->owners.begin(), state_->owners.end(), owner, after), owner);
  return owner->key;
}

void MemoryPool::RemoveOwner(int key) {
  std::shared_ptr<Owner> owner;
  {
    MutexLock lock(&state_->mutex);
    auto& owners = state_->owners;
    const auto found =
        std::find_if(owners.begin(), owners.end(), [&](const auto& o) { return o->key == key; });
    if (found == owners.end()) return;
    owner = *found;
    owners.erase(found);
  }
  MutexLock lock(&owner->running);
  owner->release = nullptr;
}

ShrinkReport MemoryPool::Shrink(uint64_t new_budget_bytes) {
  ShrinkReport report;
  std::vector<std::shared_ptr<Owner>> owners;
  {
    MutexLock lock(&state_->mutex);
    state_->budget = new_budget_bytes;
    report.budget_bytes = new_budget_bytes;
    report.held_before_bytes = state_->held;
    if (state_->held > new_budget_bytes) state_->DropReserved();
    owners = state_->owners;
  }
  for (const auto& owner : owners) {
    const uint64_t over = usage().over_bytes();
    if (over <= report.promised_bytes) break;
    const uint64_t ask = over - report.promised_bytes;
    uint64_t promised = 0;
    {
      MutexLock lock(&owner->running);
      if (owner->release) promised = owner->release(ask);
    }
    report.promised_bytes += promised;
    const uint64_t over_after = usage().over_bytes();
    report.asked.push_back(absl::StrCat(owner->name, ": asked ", FormatSize(ask), ", freed ",
                                        FormatSize(over > over_after ? over - over_after : 0),
                                        ", promised ", FormatSize(promised)));
  }
  const PoolUsage now = usage();
  report.held_bytes = now.held_bytes;
  report.must_release_bytes = now.over_bytes();
  return report;
}

PoolUsage MemoryPool::usage() const {
  MutexLock lock(&state_->mutex);
  PoolUsage usage;
  usage.budget_bytes = state_->budget;
  usage.held_bytes = state_->held;
  usage.changes = state_->changes;
  usage.changing = state_->changing > 0;
  usage.weights_bytes = state_->used[0];
  usage.kv_bytes = state_->used[1];
  usage.buffers_bytes = state_->used[2];
  return usage;
}

absl::StatusOr<CardMemory> MemoryPool::Card() const { return state_->source->Memory(); }

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  if (this == &other) return *this;
  Reset();
  pool_ = std::move(other.pool_);
  address_ = std::exchange(other.address_, 0);
  size_ = std::exchange(other.size_, 0);
  return *this;
}

void DeviceMemory::Reset() {
  if (address_ != 0) pool_->Free(address_);
  address_ = 0;
  size_ = 0;
  pool_.reset();
}

}  // namespace lanyard::cuda
