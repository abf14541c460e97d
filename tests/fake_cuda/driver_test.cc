// engine/cuda's driver, over the fake library: what it says when all is well, and when not.
#include "engine/cuda/driver.h"

#include <numeric>

#include "engine/cuda/abi.h"
#include "engine/cuda/memory_pool.h"
#include "nlohmann/json.hpp"
#include "tests/fake_cuda/fixture.h"

namespace lanyard::fake_cuda {
namespace {

using cuda::Context;
using cuda::Driver;
using cuda::Event;
using cuda::Module;
using cuda::PinnedMemory;
using cuda::Stream;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint32_t kN = 1000;

TEST(Driver, NoLibraryIsNotFound) {
  const absl::Status status = Driver::Open("/nowhere/libcuda.so.1").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Str(status.message()), HasSubstr("no NVIDIA driver"));
}

TEST(Driver, LibraryThatIsNoDriverIsNotFoundAndNamesWhatIsMissing) {
  const absl::Status status = Driver::Open(NvmlLibraryPath()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Str(status.message()), HasSubstr("has no cu"));
}

TEST(Driver, NoCardIsNotFound) {
  FakeCuda::Get().Reset("devices=0");
  EXPECT_EQ(Driver::Open().status().code(), absl::StatusCode::kNotFound);
}

TEST(Driver, CardsAndTheirFacts) {
  FakeCuda::Get().Reset("devices=2,memory=300MiB/100MiB,cc=8.6/7.5,sms=28/10,driver=12040");
  auto driver = Driver::Open();
  ASSERT_OK(driver);
  ASSERT_EQ((*driver)->devices().size(), 2u);
  const cuda::DeviceInfo& card = (*driver)->devices()[1];
  EXPECT_EQ(card.cc(), 75);
  EXPECT_EQ(card.total_bytes, 100u << 20);
  EXPECT_EQ(card.sm_count, 10);
  EXPECT_EQ(card.pci_id, "0000:0b:00.0");
  EXPECT_EQ((*driver)->version(), 12040);
  EXPECT_EQ((*driver)->ptx_isa(), 84);
  EXPECT_EQ(Context::Create(*driver, 2).status().code(), absl::StatusCode::kNotFound);
}

TEST(Driver, PtxLevel) {
  constexpr int kLevels[] = {61, 75, 80};
  EXPECT_EQ(cuda::ChoosePtxLevel(60, kLevels), 0);
  EXPECT_EQ(cuda::ChoosePtxLevel(61, kLevels), 61);
  EXPECT_EQ(cuda::ChoosePtxLevel(70, kLevels), 61);
  EXPECT_EQ(cuda::ChoosePtxLevel(89, kLevels), 80);
  EXPECT_EQ(cuda::ChoosePtxLevel(120, kLevels), 80);
}

TEST(Driver, JitErrorsCarryTheLog) {
  FakeCuda::Get().Reset("driver=11040,cc=7.5");
  auto driver = Driver::Open();
  ASSERT_OK(driver);
  auto context = Context::Create(*driver, 0);
  ASSERT_OK(context);
  const auto load = [&](std::string ptx) {
    const std::string_view images[] = {ptx};
    return Module::Load(*context, images).status();
  };
  EXPECT_OK(load(kMixPtx));
  const absl::Status nonsense = load("this is no PTX");
  EXPECT_EQ(nonsense.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Str(nonsense.message()), HasSubstr("ptxas fatal"));
  std::string newer = kMixPtx;
  newer.replace(newer.find("7.0"), 3, "7.8");
  const absl::Status unsupported = load(newer);
  EXPECT_EQ(unsupported.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Str(unsupported.message()), HasSubstr("newer NVIDIA driver"));
  EXPECT_THAT(Str(unsupported.message()), HasSubstr("Unsupported .version"));
  std::string larger = kMixPtx;
  larger.replace(larger.find("sm_61"), 5, "sm_80");
  EXPECT_EQ(load(larger).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Driver, KernelsByNameAndTheirNumbers) {
  FakeCuda::Get().Reset("");
  auto rig = OpenRig();
  ASSERT_OK(rig);
  auto info = rig->modules[0]->Info("mix");
  ASSERT_OK(info);
  EXPECT_GT(info->registers, 0);
  EXPECT_EQ(info->local_bytes, 0);
  EXPECT_EQ(rig->modules[0]->Info("nothing").status().code(), absl::StatusCode::kNotFound);
}

TEST(Driver, CopiesAndKernelsByOneStream) {
  for (const char* config : {"seed=1", "seed=2", "order=eager"}) {
    FakeCuda::Get().Reset(config);
    auto rig = OpenRig();
    ASSERT_OK(rig);
    auto stream = Stream::Create(rig->modules[0]);
    ASSERT_OK(stream);
    auto address = rig->contexts[0]->Allocate(kN * 4);
    ASSERT_OK(address);
    std::vector<uint32_t> values(kN);
    std::iota(values.begin(), values.end(), 0);
    ASSERT_OK((*stream)->CopyToDevice(*address, values.data(), kN * 4));
    values.assign(kN, 0);  // pageable: the driver has a copy already
    for (uint32_t step = 0; step < 3; ++step)
      ASSERT_OK(Mix(**stream, {*address, kN, step, *address}));
    std::vector<uint32_t> result(kN, 7);
    ASSERT_OK((*stream)->CopyToHost(result.data(), *address, kN * 4));
    for (uint32_t i = 0; i < kN; ++i) ASSERT_EQ(result[i], i * 27 + 3 + 2);
    ASSERT_OK((*stream)->Fill(*address, 0xff, kN * 4));
    ASSERT_OK((*stream)->CopyToHost(result.data(), *address, 4));
    EXPECT_EQ(result[0], 0xffffffffu);
    rig->contexts[0]->Free(*address);
    EXPECT_EQ(FakeCuda::Get().Reports(), "");
  }
}

TEST(Driver, EverythingIsGivenBack) {
  FakeCuda::Get().Reset("seed=3");
  {
    auto rig = OpenRig();
    ASSERT_OK(rig);
    auto stream = Stream::Create(rig->modules[0]);
    ASSERT_OK(stream);
    auto pinned = PinnedMemory::Allocate(rig->contexts[0], 100);
    ASSERT_OK(pinned);
    auto event = Event::Create(rig->contexts[0]);
    ASSERT_OK(event);
    auto pool =
        cuda::MemoryPool::Create(cuda::BlocksOf(rig->contexts[0]), {.budget_bytes = 10 << 20});
    ASSERT_OK(pool);
    auto memory = (*pool)->Allocate(kN * 4, cuda::MemoryUse::kKv);
    ASSERT_OK(memory);
    ASSERT_OK((*stream)->BeginCapture());
    ASSERT_OK((*stream)->Fill(memory->address(), 1, kN * 4));
    auto graph = (*stream)->EndCapture();
    ASSERT_OK(graph);
    ASSERT_OK((*stream)->Launch(*graph));
  }
  const auto stats = nlohmann::json::parse(FakeCuda::Get().Stats());
  for (const char* key :
       {"live_streams", "live_events", "live_graphs", "live_modules", "live_pinned"}) {
    EXPECT_EQ(stats[key], 0) << key;
  }
  EXPECT_EQ(stats["cards"][0]["live_allocations"], 0);
  EXPECT_EQ(stats["cards"][0]["retained"], 0);
  EXPECT_EQ(stats["reports"], 0);
}

TEST(Driver, BadLaunchIsToldWithItsKernel) {
  FakeCuda::Get().Reset("");
  auto rig = OpenRig();
  ASSERT_OK(rig);
  auto stream = Stream::Create(rig->modules[0]);
  ASSERT_OK(stream);
  const uint32_t too_few = 0;
  const absl::Status status = (*stream)->Launch("mix", {1}, {64}, 0, &too_few, sizeof(too_few));
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(Str(status.message()), HasSubstr("kernel mix, grid 1x1x1, block 64x1x1"));
  EXPECT_THAT(Str(status.message()), HasSubstr("CUDA_ERROR_INVALID_VALUE"));
  EXPECT_FALSE(rig->contexts[0]->lost());
  EXPECT_EQ((*stream)->Launch("none", {1}, {64}, 0, &too_few, 4).code(),
            absl::StatusCode::kNotFound);
  const MixArgs args;
  EXPECT_FALSE((*stream)->Launch("mix", {1}, {2048}, 0, &args, sizeof(args)).ok());
  EXPECT_FALSE((*stream)->Launch("mix", {1}, {64}, 512 << 10, &args, sizeof(args)).ok());
  EXPECT_OK((*stream)->Launch("mix", {1}, {64}, 60 << 10, &args, sizeof(args)));  // n = 0
  EXPECT_OK((*stream)->Synchronize());
}

TEST(Driver, KernelThatFaultsLosesTheCardForGood) {
  FakeCuda::Get().Reset("devices=2,seed=5");
  auto rig = OpenRig();
  ASSERT_OK(rig);
  auto stream = Stream::Create(rig->modules[0]);
  ASSERT_OK(stream);
  auto address = rig->contexts[0]->Allocate(kN * 4);
  ASSERT_OK(address);
  ASSERT_OK((*stream)->Fill(*address, 0, kN * 4));
  EXPECT_TRUE(Mix(**stream, {*address, kN, 0, *address}, "mix_unbounded").ok() ||
              rig->contexts[0]->lost());
  const absl::Status status = (*stream)->Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Str(status.message()), HasSubstr("lost cuda:0"));
  EXPECT_THAT(Str(status.message()), HasSubstr("CUDA_ERROR_ILLEGAL_ADDRESS"));
  EXPECT_TRUE(rig->contexts[0]->lost());
  EXPECT_THAT(FakeCuda::Get().Reports(), HasSubstr("mix_unbounded"));
  // Sticky, the same words; the other card goes on.
  EXPECT_EQ(rig->contexts[0]->Allocate(1).status(), status);
  EXPECT_EQ(Mix(**stream, {*address, kN, 0, *address}), status);
  EXPECT_EQ(Stream::Create(rig->modules[0]).status(), status);
  EXPECT_FALSE(rig->contexts[1]->lost());
  EXPECT_OK(rig->contexts[1]->Allocate(1).status());
}

TEST(Driver, ReadOfWhatNobodyWroteIsFound) {
  FakeCuda::Get().Reset("seed=5");
  auto rig = OpenRig();
  ASSERT_OK(rig);
  auto stream = Stream::Create(rig->modules[0]);
  ASSERT_OK(stream);
  auto address = rig->contexts[0]->Allocate(kN * 4);
  ASSERT_OK(address);
  Mix(**stream, {*address, kN, 0, *address}).IgnoreError();
  EXPECT_EQ((*stream)->Synchronize().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(FakeCuda::Get().Reports(), Not(testing::IsEmpty()));
}

TEST(Driver, FullCardIsResourceExhaustedAndNotLost) {
  FakeCuda::Get().Reset("memory=10MiB,others=4MiB");
  auto rig = OpenRig();
  ASSERT_OK(rig);
  auto memory = rig->contexts[0]->Memory();
  ASSERT_OK(memory);
  EXPECT_EQ(memory->free_bytes, 6u << 20);
  EXPECT_OK(rig->contexts[0]->Allocate(5 << 20).status());
  EXPECT_EQ(rig->contexts[0]->Allocate(2 << 20).status().code(),
            absl::StatusCode::kResourceExhausted);
  FakeCuda::Get().SetOthers(0, 9 << 20);
  EXPECT_EQ(rig->contexts[0]->Allocate(1 << 10).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(rig->contexts[0]->lost());
}

TEST(Driver, PoolOverACard) {
  FakeCuda::Get().Reset("memory=1GiB,others=100MiB");
  auto rig = OpenRig();
  ASSERT_OK(rig);
  auto pool = cuda::MemoryPool::Create(cuda::BlocksOf(rig->contexts[0]), {});
  ASSERT_OK(pool);
  EXPECT_EQ((*pool)->usage().budget_bytes, uint64_t{1024 - 100 - 384} << 20);
  auto memory = (*pool)->Allocate(10 << 20, cuda::MemoryUse::kKv);
  ASSERT_OK(memory);
  EXPECT_EQ(FakeCuda::Get().UsedBytes(0), 10u << 20);
  // A CAD program starts: what is left is less than what the card had, and the budget follows.
  FakeCuda::Get().SetOthers(0, 900 << 20);
  const auto card = (*pool)->Card();
  ASSERT_OK(card);
  const uint64_t budget = cuda::DefaultBudget(*card, (*pool)->usage().held_bytes, 384 << 20);
  EXPECT_EQ(budget, 0u);
  EXPECT_EQ((*pool)->Shrink(budget).must_release_bytes, 10u << 20);
  memory->Reset();
  EXPECT_EQ(FakeCuda::Get().UsedBytes(0), 0u);
}

TEST(Driver, ResultNamesAndLosses) {
  EXPECT_EQ(cuda::ResultName(0), "CUDA_SUCCESS");
  EXPECT_EQ(cuda::ResultName(700), "CUDA_ERROR_ILLEGAL_ADDRESS");
  EXPECT_EQ(cuda::ResultName(4711), "CUDA_ERROR 4711");
  for (const int lost :
       {4, 46, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 911, 999}) {
    EXPECT_TRUE(cuda::IsDeviceLost(lost)) << lost;
  }
  for (const int not_lost :
       {0, 1, 2, 3, 100, 201, 400, 500, 600, 701, 704, 708, 712, 713, 720, 901, 910}) {
    EXPECT_FALSE(cuda::IsDeviceLost(not_lost)) << not_lost;
  }
}

TEST(FakeCudaConfig, Refusals) {
  for (const char* bad :
       {"devices", "devices=17", "nothing=1", "order=sideways", "memory=lots", "peer=2", "cc=x"}) {
    EXPECT_FALSE(FakeCuda::Get().Reset(bad)) << bad;
  }
  EXPECT_TRUE(FakeCuda::Get().Reset(""));
}

}  // namespace
}  // namespace lanyard::fake_cuda
