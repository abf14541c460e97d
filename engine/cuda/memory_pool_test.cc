#include "engine/cuda/memory_pool.h"

#include <chrono>
#include <cstring>
#include <functional>
#include <future>
#include <map>
#include <random>
#include <thread>

#include "base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lanyard::cuda {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr uint64_t kMiB = 1 << 20;

// A card without a card: addresses by counting, a limit, failures at will.
struct FakeCard {
  uint64_t total = 1024 * kMiB;
  uint64_t others = 0;  // what other programs use
  uint64_t used = 0;
  uint64_t next = 0x7f0000000000;
  int allocations = 0;
  int fail_at = -1;  // the n-th allocation, from 0
  bool lost = false;
  std::map<DeviceAddress, uint64_t> live;
  std::function<void()> called;  // within every call of the driver
  Mutex mu;  // as a driver has one of its own: the pool calls from several threads
};

class FakeBlocks : public BlockSource {
 public:
  explicit FakeBlocks(FakeCard* card) : card_(card) {}
  absl::StatusOr<DeviceAddress> Allocate(uint64_t bytes) override {
    if (card_->called) card_->called();
    MutexLock lock(&card_->mu);
    if (card_->lost) return Unavailable("lost");
    if (card_->allocations++ == card_->fail_at ||
        card_->used + card_->others + bytes > card_->total) {
      return ResourceExhausted("CUDA_ERROR_OUT_OF_MEMORY");
    }
    const DeviceAddress address = card_->next;
    card_->next += bytes + 4096;
    card_->used += bytes;
    card_->live[address] = bytes;
    return address;
  }
  void Free(DeviceAddress address) override {
    if (card_->called) card_->called();
    MutexLock lock(&card_->mu);
    ASSERT_EQ(card_->live.count(address), 1u);
    card_->used -= card_->live[address];
    card_->live.erase(address);
  }
  absl::StatusOr<CardMemory> Memory() override {
    if (card_->called) card_->called();
    MutexLock lock(&card_->mu);
    if (card_->lost) return Unavailable("lost");
    return CardMemory{card_->total - card_->used - card_->others, card_->total};
  }

 private:
  FakeCard* card_;
};

std::shared_ptr<MemoryPool> MakePool(FakeCard& card, const PoolOptions& options = {}) {
  auto pool = MemoryPool::Create(std::make_unique<FakeBlocks>(&card), options);
  EXPECT_TRUE(pool.ok()) << pool.status();
  return *pool;
}

TEST(MemoryPool, DefaultBudgetLeavesWhatOthersUseAndAReserve) {
  EXPECT_EQ(DefaultBudget({700 * kMiB, 1000 * kMiB}, 0, 100 * kMiB), 600 * kMiB);
  EXPECT_EQ(DefaultBudget({200 * kMiB, 1000 * kMiB}, 500 * kMiB, 100 * kMiB), 600 * kMiB);
  EXPECT_EQ(DefaultBudget({50 * kMiB, 1000 * kMiB}, 0, 100 * kMiB), 0u);
  EXPECT_EQ(DefaultBudget({1000 * kMiB, 1000 * kMiB}, 0, 0), 1000 * kMiB / 10 * 9);
  FakeCard card;
  card.others = 200 * kMiB;
  EXPECT_EQ(MakePool(card)->usage().budget_bytes, (1024 - 200 - 384) * kMiB);
}

// A heartbeat asks for the books: it must not wait for a driver that does not answer.
TEST(MemoryPool, BooksAreReadWhileTheDriverIsBusy) {
  FakeCard card;
  auto pool = MakePool(card);
  int calls = 0;
  card.called = [&] {
    ++calls;
    auto asked = std::make_shared<std::promise<PoolUsage>>();
    auto usage = asked->get_future();
    std::thread([asked, pool] { asked->set_value(pool->usage()); }).detach();
    ASSERT_EQ(usage.wait_for(std::chrono::seconds(5)), std::future_status::ready);
  };
  auto memory = pool->Allocate(10 * kMiB, MemoryUse::kKv);
  ASSERT_TRUE(memory.ok());
  EXPECT_FALSE(pool->usage().changing);
  const uint64_t changes = pool->usage().changes;
  EXPECT_FALSE(pool->Allocate(2000 * kMiB, MemoryUse::kKv).ok());
  memory->Reset();
  EXPECT_GE(calls, 3);
  EXPECT_GT(pool->usage().changes, changes);
  EXPECT_EQ(pool->usage().held_bytes, 0u);
  card.called = nullptr;
}

TEST(MemoryPool, SmallAllocationsShareABlockAndItGoesBack) {
  FakeCard card;
  auto pool = MakePool(card);
  std::vector<DeviceMemory> memories;
  for (int i = 0; i < 100; ++i) {
    auto memory = pool->Allocate(1000 + i, MemoryUse::kWeights);
    ASSERT_TRUE(memory.ok()) << memory.status();
    EXPECT_EQ(memory->address() % 256, 0u);
    EXPECT_EQ(memory->size(), 1000u + i);
    memories.push_back(*std::move(memory));
  }
  EXPECT_EQ(card.live.size(), 1u);
  EXPECT_EQ(pool->usage().held_bytes, 32 * kMiB);
  memories.clear();
  EXPECT_TRUE(card.live.empty());
  EXPECT_EQ(pool->usage().held_bytes, 0u);
  EXPECT_EQ(pool->usage().weights_bytes, 0u);
}

TEST(MemoryPool, UsesAndGroupsDoNotShareBlocks) {
  FakeCard card;
  auto pool = MakePool(card);
  auto a = *pool->Allocate(1, MemoryUse::kWeights, 0);
  auto b = *pool->Allocate(1, MemoryUse::kWeights, 1);
  auto c = *pool->Allocate(1, MemoryUse::kKv, 0);
  EXPECT_EQ(card.live.size(), 3u);
}

TEST(MemoryPool, ReservedBlockHoldsALayerWithoutWaste) {
  FakeCard card;
  auto pool = MakePool(card);
  ASSERT_TRUE(pool->Reserve(70 * kMiB, MemoryUse::kWeights, 3).ok());
  EXPECT_EQ(pool->usage().held_bytes, 70 * kMiB);
  std::vector<DeviceMemory> tensors;
  for (int i = 0; i < 7; ++i) tensors.push_back(*pool->Allocate(10 * kMiB, MemoryUse::kWeights, 3));
  EXPECT_EQ(card.live.size(), 1u);
  EXPECT_EQ(pool->usage().held_bytes, 70 * kMiB);
  tensors.clear();
  EXPECT_EQ(pool->usage().held_bytes, 0u);
  ASSERT_TRUE(pool->Reserve(70 * kMiB, MemoryUse::kWeights, 4).ok());
  pool->Trim();
  EXPECT_EQ(pool->usage().held_bytes, 0u);
}

TEST(MemoryPool, RefusalHasTheArithmetic) {
  FakeCard card;
  PoolOptions options;
  options.budget_bytes = 100 * kMiB;
  auto pool = MakePool(card, options);
  auto held = *pool->Allocate(90 * kMiB, MemoryUse::kKv);
  const absl::Status refused = pool->Allocate(20 * kMiB, MemoryUse::kWeights).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Str(refused.message()),
              HasSubstr("20.0 MiB of weights (over the budget): budget 100 MiB, held 90.0 MiB"));
  EXPECT_THAT(Str(refused.message()), HasSubstr("free on the card 934 MiB of 1.0 GiB"));
  EXPECT_TRUE(pool->Allocate(10 * kMiB, MemoryUse::kWeights).ok());
  // Refused without arithmetic that overflows.
  EXPECT_EQ(pool->Allocate(~uint64_t{0}, MemoryUse::kWeights).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pool->Allocate(uint64_t{1} << 47, MemoryUse::kKv).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(MemoryPool, SmallAllocationTakesWhatIsLeftWhereNoSharedBlockFits) {
  FakeCard card;
  PoolOptions options;
  options.budget_bytes = 5 * kMiB;
  auto pool = MakePool(card, options);
  auto memory = pool->Allocate(100, MemoryUse::kBuffers);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(pool->usage().held_bytes, 2 * kMiB);
}

TEST(MemoryPool, FullCardBelowTheBudgetIsATypedRefusal) {
  FakeCard card;
  PoolOptions options;
  options.budget_bytes = 1000 * kMiB;
  auto pool = MakePool(card, options);
  card.others = 1020 * kMiB;  // a CAD program starts
  const absl::Status refused = pool->Allocate(20 * kMiB, MemoryUse::kWeights).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Str(refused.message()), HasSubstr("the card is full"));
  card.lost = true;
  EXPECT_EQ(pool->Allocate(20 * kMiB, MemoryUse::kWeights).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(MemoryPool, ShrinkAsksKvFirstThenLayersAndNoMoreThanNeeded) {
  FakeCard card;
  PoolOptions options;
  options.budget_bytes = 200 * kMiB;
  auto pool = MakePool(card, options);
  auto kv = *pool->Allocate(40 * kMiB, MemoryUse::kKv);
  auto layer = *pool->Allocate(60 * kMiB, MemoryUse::kWeights, 1);
  auto rest = *pool->Allocate(20 * kMiB, MemoryUse::kBuffers);
  std::vector<std::string> order;
  pool->AddOwner("rest", ReleasePriority::kRest, [&](uint64_t) {
    order.push_back("rest");
    return 0;
  });
  pool->AddOwner("layers", ReleasePriority::kLayers, [&](uint64_t bytes) {
    order.push_back(absl::StrCat("layers ", bytes / kMiB));
    return 60 * kMiB;  // at the step's end
  });
  const int kv_key = pool->AddOwner("kv", ReleasePriority::kKv, [&](uint64_t bytes) {
    order.push_back(absl::StrCat("kv ", bytes / kMiB));
    kv.Reset();
    return 0;
  });
  ShrinkReport report = pool->Shrink(50 * kMiB);
  EXPECT_THAT(order, ElementsAre("kv 70", "layers 30"));
  EXPECT_EQ(report.held_before_bytes, 120 * kMiB);
  EXPECT_EQ(report.held_bytes, 80 * kMiB);
  EXPECT_EQ(report.promised_bytes, 60 * kMiB);
  EXPECT_EQ(report.must_release_bytes, 30 * kMiB);
  EXPECT_THAT(report.asked, ElementsAre("kv: asked 70.0 MiB, freed 40.0 MiB, promised 0 B",
                                        "layers: asked 30.0 MiB, freed 0 B, promised 60.0 MiB"));
  EXPECT_EQ(pool->Allocate(kMiB, MemoryUse::kKv).status().code(),
            absl::StatusCode::kResourceExhausted);
  layer.Reset();
  EXPECT_EQ(pool->usage().over_bytes(), 0u);
  EXPECT_TRUE(pool->Allocate(kMiB, MemoryUse::kKv).ok());
  // To grow again asks no owner.
  pool->RemoveOwner(kv_key);
  order.clear();
  report = pool->Shrink(500 * kMiB);
  EXPECT_TRUE(order.empty());
  EXPECT_EQ(report.must_release_bytes, 0u);
}

TEST(MemoryPool, ShrinkToNothingNeverCrashes) {
  FakeCard card;
  auto pool = MakePool(card);
  auto held = *pool->Allocate(40 * kMiB, MemoryUse::kKv);
  const ShrinkReport report = pool->Shrink(0);
  EXPECT_EQ(report.must_release_bytes, 40 * kMiB);
  EXPECT_TRUE(report.asked.empty());
}

TEST(MemoryPool, FailureAtEveryAllocationLeaksNothing) {
  for (int fail_at = 0; fail_at < 12; ++fail_at) {
    FakeCard card;
    card.fail_at = fail_at;
    {
      auto pool = MakePool(card);
      std::vector<DeviceMemory> memories;
      for (int i = 0; i < 10; ++i) {
        auto memory = pool->Allocate((i % 3 + 1) * 9 * kMiB, MemoryUse::kKv, i);
        if (memory.ok()) memories.push_back(*std::move(memory));
      }
      EXPECT_GE(memories.size(), 9u);
    }
    EXPECT_TRUE(card.live.empty());
    EXPECT_EQ(card.used, 0u);
  }
}

TEST(MemoryPool, AllocationsNeverOverlap) {
  FakeCard card;
  PoolOptions options;
  options.block_bytes = 4 * kMiB;
  auto pool = MakePool(card, options);
  std::mt19937 random(7);
  std::map<DeviceAddress, DeviceMemory> live;
  for (int step = 0; step < 4000; ++step) {
    if (live.empty() || random() % 5 < 3) {
      auto memory =
          pool->Allocate(random() % 60000, static_cast<MemoryUse>(random() % 3), random() % 2);
      if (!memory.ok()) continue;
      const DeviceAddress address = memory->address();
      const auto after = live.lower_bound(address);
      if (after != live.end()) {
        ASSERT_LE(address + memory->size(), after->first);
      }
      if (after != live.begin()) {
        const auto before = std::prev(after);
        ASSERT_LE(before->first + before->second.size(), address);
      }
      live.emplace(address, *std::move(memory));
    } else {
      auto victim = live.begin();
      std::advance(victim, random() % live.size());
      live.erase(victim);
    }
  }
  live.clear();
  EXPECT_EQ(pool->usage().held_bytes, 0u);
}

TEST(MemoryPool, AllocationOutlivesTheHandleOnThePool) {
  FakeCard card;
  DeviceMemory memory;
  {
    auto pool = MakePool(card);
    memory = *pool->Allocate(100, MemoryUse::kKv);
  }
  EXPECT_EQ(card.live.size(), 1u);
  memory.Reset();
  EXPECT_TRUE(card.live.empty());
}

TEST(MemoryPool, ExactBlocksAreOneAnAllocation) {
  FakeCard card;
  PoolOptions options;
  options.exact_blocks = true;
  auto pool = MakePool(card, options);
  auto a = *pool->Allocate(100, MemoryUse::kKv);
  auto b = *pool->Allocate(300, MemoryUse::kKv);
  EXPECT_EQ(card.live.size(), 2u);
  EXPECT_EQ(pool->usage().held_bytes, 256u + 512u);
}

TEST(MemoryPool, ShrinkBesideAllocateFromOtherThreads) {
  FakeCard card;
  auto pool = MakePool(card);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&pool, t] {
      for (int i = 0; i < 300; ++i) {
        auto memory = pool->Allocate(100000, MemoryUse::kKv, t);
        const int key = pool->AddOwner("o", ReleasePriority::kKv, [](uint64_t) { return 0; });
        pool->Shrink(static_cast<uint64_t>(i % 3) * 40 * kMiB);
        pool->RemoveOwner(key);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(pool->usage().held_bytes, 0u);
}

}  // namespace
}  // namespace lanyard::cuda
