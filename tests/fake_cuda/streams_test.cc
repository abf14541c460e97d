// Streams, events, pinned memory and graphs, in the random orders of the fake library: what is
// right never fails, what lacks a wait is found.
#include <atomic>
#include <thread>

#include "tests/fake_cuda/fixture.h"

namespace lanyard::fake_cuda {
namespace {

using cuda::Event;
using cuda::Graph;
using cuda::PinnedMemory;
using cuda::Stream;

constexpr uint32_t kWords = 200;
constexpr size_t kBytes = kWords * 4;
constexpr int kSeeds = 60;

// What a program under test may do wrong.
enum class Mistake { kNone, kNoWait, kNoWaitBack, kPinnedReusedTooEarly, kReadTooEarly };

struct Cards {
  Rig rig;
  std::unique_ptr<Stream> copies;
  std::unique_ptr<Stream> kernels;
  PinnedMemory in;
  PinnedMemory out;
  Event copied;
  Event computed;
  cuda::DeviceAddress a = 0;
  cuda::DeviceAddress b = 0;
};

absl::StatusOr<Cards> OpenCards() {
  Cards cards;
  ASSIGN_OR_RETURN(cards.rig, OpenRig());
  auto context = cards.rig.contexts[0];
  ASSIGN_OR_RETURN(cards.copies, Stream::Create(cards.rig.modules[0]));
  ASSIGN_OR_RETURN(cards.kernels, Stream::Create(cards.rig.modules[0]));
  ASSIGN_OR_RETURN(cards.in, PinnedMemory::Allocate(context, kBytes));
  ASSIGN_OR_RETURN(cards.out, PinnedMemory::Allocate(context, kBytes));
  ASSIGN_OR_RETURN(cards.copied, Event::Create(context));
  ASSIGN_OR_RETURN(cards.computed, Event::Create(context));
  ASSIGN_OR_RETURN(cards.a, context->Allocate(kBytes));
  ASSIGN_OR_RETURN(cards.b, context->Allocate(kBytes));
  RETURN_IF_ERROR(cards.copies->Fill(cards.a, 0, kBytes));
  RETURN_IF_ERROR(cards.copies->Fill(cards.b, 0, kBytes));
  RETURN_IF_ERROR(cards.copies->Synchronize());
  return cards;
}

uint32_t* Words(const PinnedMemory& memory) { return reinterpret_cast<uint32_t*>(memory.data()); }

// Three rounds of: copy in on one stream, compute on another, copy out on the first. The sum of
// what came out, or an error.
absl::StatusOr<uint64_t> Rounds(Mistake mistake) {
  ASSIGN_OR_RETURN(Cards cards, OpenCards());
  uint64_t sum = 0;
  for (uint32_t round = 0; round < 3; ++round) {
    for (uint32_t i = 0; i < kWords; ++i) Words(cards.in)[i] = round * 1000 + i;
    RETURN_IF_ERROR(cards.copies->CopyToDevice(cards.a, cards.in.data(), kBytes));
    RETURN_IF_ERROR(cards.copies->Record(cards.copied));
    if (mistake == Mistake::kPinnedReusedTooEarly) std::fill_n(Words(cards.in), kWords, 0u);
    if (mistake != Mistake::kNoWait) RETURN_IF_ERROR(cards.kernels->Wait(cards.copied));
    RETURN_IF_ERROR(Mix(*cards.kernels, {cards.b, kWords, round, cards.a}));
    RETURN_IF_ERROR(Mix(*cards.kernels, {cards.b, kWords, 7, cards.b}));
    RETURN_IF_ERROR(cards.kernels->Record(cards.computed));
    if (mistake != Mistake::kNoWaitBack) RETURN_IF_ERROR(cards.copies->Wait(cards.computed));
    RETURN_IF_ERROR(cards.copies->CopyToHost(cards.out.data(), cards.b, kBytes));
    if (mistake != Mistake::kReadTooEarly) RETURN_IF_ERROR(cards.copies->Synchronize());
    for (uint32_t i = 0; i < kWords; ++i) sum = sum * 31 + Words(cards.out)[i];
    if (mistake != Mistake::kNone) {  // the next round begins in order
      RETURN_IF_ERROR(cards.copies->Synchronize());
      RETURN_IF_ERROR(cards.kernels->Synchronize());
    }
  }
  return sum;
}

uint64_t ExpectedRounds() {
  uint64_t sum = 0;
  for (uint32_t round = 0; round < 3; ++round) {
    for (uint32_t i = 0; i < kWords; ++i)
      sum = sum * 31 + (((round * 1000 + i) * 3 + round) * 3 + 7);
  }
  return sum;
}

TEST(Streams, RightProgramIsRightInEveryOrder) {
  for (int seed = 0; seed < kSeeds; ++seed) {
    FakeCuda::Get().Reset("seed=" + std::to_string(seed));
    auto sum = Rounds(Mistake::kNone);
    ASSERT_OK(sum);
    ASSERT_EQ(*sum, ExpectedRounds()) << "seed " << seed;
    ASSERT_EQ(FakeCuda::Get().Reports(), "");
  }
}

// Whether any of the seeds shows the mistake; how many did.
int Found(Mistake mistake) {
  int found = 0;
  for (int seed = 0; seed < kSeeds; ++seed) {
    FakeCuda::Get().Reset("seed=" + std::to_string(seed));
    auto sum = Rounds(mistake);
    found += !sum.ok() || *sum != ExpectedRounds() ? 1 : 0;
  }
  return found;
}

TEST(Streams, PlantedMistakesAreFound) {
  EXPECT_GT(Found(Mistake::kNoWait), kSeeds / 4);
  EXPECT_GT(Found(Mistake::kNoWaitBack), kSeeds / 4);
  EXPECT_GT(Found(Mistake::kPinnedReusedTooEarly), kSeeds / 4);
  EXPECT_GT(Found(Mistake::kReadTooEarly), kSeeds / 4);
}

TEST(Streams, EventsOfNothingAndPolling) {
  FakeCuda::Get().Reset("seed=4");
  auto cards = OpenCards();
  ASSERT_OK(cards);
  EXPECT_OK(cards->copied.Synchronize());  // never recorded
  ASSERT_OK(cards->kernels->Wait(cards->copied));
  ASSERT_OK(Mix(*cards->kernels, {cards->a, kWords, 1, cards->a}));
  ASSERT_OK(cards->kernels->Record(cards->computed));
  int polls = 0;
  for (;; ++polls) {
    auto done = cards->computed.Done();
    ASSERT_OK(done);
    if (*done) break;
    ASSERT_LT(polls, 100);
  }
  auto idle = cards->kernels->Idle();
  ASSERT_OK(idle);
  EXPECT_TRUE(*idle);
  EXPECT_EQ(Event().Synchronize().code(), absl::StatusCode::kInternal);
}

TEST(Streams, OtherThreadsAskWhileOneWaits) {
  FakeCuda::Get().Reset("seed=4");
  auto cards = OpenCards();
  ASSERT_OK(cards);
  std::atomic<bool> stop{false};
  std::atomic<int> asked{0};
  std::thread heartbeat([&] {
    while (!stop) asked += cards->rig.contexts[0]->Memory().ok() ? 1 : 0;
  });
  int meanwhile = 0;
  // On a busy machine the other thread may not run at all during one wait.
  for (int round = 0; round < 20 && meanwhile < 2; ++round) {
    for (int i = 0; i < 3000; ++i) ASSERT_OK(Mix(*cards->kernels, {cards->a, kWords, 1, cards->a}));
    const int before = asked;
    EXPECT_OK(cards->kernels->Synchronize());
    meanwhile = asked - before;
  }
  stop = true;
  heartbeat.join();
  EXPECT_GE(meanwhile, 2);
}

TEST(Streams, TimingEvents) {
  FakeCuda::Get().Reset("seed=4");
  auto cards = OpenCards();
  ASSERT_OK(cards);
  auto begin = Event::Create(cards->rig.contexts[0], true);
  auto end = Event::Create(cards->rig.contexts[0], true);
  ASSERT_OK(begin);
  ASSERT_OK(end);
  ASSERT_OK(cards->kernels->Record(*begin));
  ASSERT_OK(Mix(*cards->kernels, {cards->a, kWords, 1, cards->a}));
  ASSERT_OK(cards->kernels->Record(*end));
  ASSERT_OK(end->Synchronize());
  auto seconds = Event::SecondsBetween(*begin, *end);
  ASSERT_OK(seconds);
  EXPECT_GT(*seconds, 0);
  EXPECT_FALSE(Event::SecondsBetween(cards->copied, *end).ok());  // not for timing
}

TEST(Streams, TwoCardsByPeerCopyAndEvent) {
  for (int seed = 0; seed < 20; ++seed) {
    FakeCuda::Get().Reset("devices=2,seed=" + std::to_string(seed));
    auto rig = OpenRig();
    ASSERT_OK(rig);
    auto first = Stream::Create(rig->modules[0]);
    auto second = Stream::Create(rig->modules[1]);
    ASSERT_OK(first);
    ASSERT_OK(second);
    auto a = rig->contexts[0]->Allocate(kBytes);
    auto b = rig->contexts[1]->Allocate(kBytes);
    ASSERT_OK(a);
    ASSERT_OK(b);
    auto arrived = Event::Create(rig->contexts[0]);
    ASSERT_OK(arrived);
    ASSERT_OK((*first)->Fill(*a, 1, kBytes));
    ASSERT_OK(Mix(**first, {*a, kWords, 5, *a}));
    ASSERT_OK((*first)->CopyPeer(*rig->contexts[1], *b, *a, kBytes));
    ASSERT_OK((*first)->Record(*arrived));
    ASSERT_OK((*second)->Wait(*arrived));
    ASSERT_OK(Mix(**second, {*b, kWords, 5, *b}));
    std::vector<uint32_t> out(kWords);
    ASSERT_OK((*second)->CopyToHost(out.data(), *b, kBytes));
    for (const uint32_t value : out)
      ASSERT_EQ(value, (0x01010101u * 3 + 5) * 3 + 5) << "seed " << seed;
    EXPECT_EQ(rig->contexts[0]->EnablePeer(*rig->contexts[1]).value(), false);
  }
}

TEST(Streams, MemoryOfAnotherCardIsOutOfBounds) {
  FakeCuda::Get().Reset("devices=2");
  auto rig = OpenRig();
  ASSERT_OK(rig);
  auto stream = Stream::Create(rig->modules[0]);
  ASSERT_OK(stream);
  auto other = rig->contexts[1]->Allocate(kBytes);
  ASSERT_OK(other);
  Mix(**stream, {*other, kWords, 5, *other}).IgnoreError();
  EXPECT_EQ((*stream)->Synchronize().code(), absl::StatusCode::kUnavailable);
}

// A fork and a join: b = mix(a) beside a second stream's a-only work, then b = mix(b).
absl::Status Record(Cards& cards, uint32_t value, Mistake mistake) {
  RETURN_IF_ERROR(cards.copies->BeginCapture());
  RETURN_IF_ERROR(cards.copies->CopyToDevice(cards.a, cards.in.data(), kBytes));
  RETURN_IF_ERROR(cards.copies->Record(cards.copied));
  RETURN_IF_ERROR(cards.kernels->Wait(cards.copied));
  RETURN_IF_ERROR(Mix(*cards.kernels, {cards.b, kWords, value, cards.a}));
  RETURN_IF_ERROR(cards.kernels->Record(cards.computed));
  if (mistake != Mistake::kNoWaitBack) RETURN_IF_ERROR(cards.copies->Wait(cards.computed));
  return cards.copies->CopyToHost(cards.out.data(), cards.b, kBytes);
}

TEST(Graphs, CaptureLaunchUpdate) {
  for (int seed = 0; seed < 20; ++seed) {
    FakeCuda::Get().Reset("seed=" + std::to_string(seed));
    auto cards = OpenCards();
    ASSERT_OK(cards);
    Graph graph;
    for (uint32_t round = 0; round < 4; ++round) {
      ASSERT_OK(Record(*cards, round, Mistake::kNone));
      ASSERT_OK(cards->copies->EndCaptureInto(graph));
      for (uint32_t i = 0; i < kWords; ++i) Words(cards->in)[i] = i + round;
      ASSERT_OK(cards->copies->Launch(graph));
      ASSERT_OK(cards->copies->Synchronize());
      for (uint32_t i = 0; i < kWords; ++i)
        ASSERT_EQ(Words(cards->out)[i], (i + round) * 3 + round) << "seed " << seed;
    }
    // Another shape under the same graph is instantiated anew.
    ASSERT_OK(cards->copies->BeginCapture());
    ASSERT_OK(cards->copies->Fill(cards->b, 9, kBytes));
    ASSERT_OK(cards->copies->EndCaptureInto(graph));
    ASSERT_OK(cards->copies->Launch(graph));
    ASSERT_OK(cards->copies->CopyToHost(cards->out.data(), cards->b, kBytes));
    ASSERT_OK(cards->copies->Synchronize());
    EXPECT_EQ(Words(cards->out)[0], 0x09090909u);
    EXPECT_EQ(FakeCuda::Get().Reports(), "");
  }
}

TEST(Graphs, LaunchesOfOneGraphDoNotOverlap) {
  for (int seed = 0; seed < 20; ++seed) {
    FakeCuda::Get().Reset("seed=" + std::to_string(seed));
    auto cards = OpenCards();
    ASSERT_OK(cards);
    ASSERT_OK(cards->copies->BeginCapture());
    ASSERT_OK(Mix(*cards->copies, {cards->a, kWords, 1, cards->a}));
    ASSERT_OK(Mix(*cards->copies, {cards->a, kWords, 2, cards->a}));
    auto graph = cards->copies->EndCapture();
    ASSERT_OK(graph);
    ASSERT_OK(cards->copies->Launch(*graph));
    ASSERT_OK(cards->kernels->Launch(*graph));
    ASSERT_OK(cards->rig.contexts[0]->Synchronize());
    ASSERT_OK(cards->copies->CopyToHost(cards->out.data(), cards->a, kBytes));
    ASSERT_OK(cards->copies->Synchronize());
    ASSERT_EQ(Words(cards->out)[0], (1 * 3 + 2) * 9 + 5u) << "seed " << seed;
  }
}

TEST(Graphs, WhatACaptureRefuses) {
  FakeCuda::Get().Reset("");
  auto cards = OpenCards();
  ASSERT_OK(cards);
  // A stream that joined and was not waited for.
  ASSERT_OK(Record(*cards, 1, Mistake::kNoWaitBack));
  EXPECT_FALSE(cards->copies->EndCapture().ok());
  // Memory, waiting, pageable memory.
  ASSERT_OK(cards->copies->BeginCapture());
  EXPECT_FALSE(cards->rig.contexts[0]->Allocate(100).ok());
  EXPECT_FALSE(cards->copies->EndCapture().ok());
  ASSERT_OK(cards->copies->BeginCapture());
  EXPECT_FALSE(cards->copies->Synchronize().ok());
  EXPECT_FALSE(cards->copies->EndCapture().ok());
  uint32_t pageable = 0;
  ASSERT_OK(cards->copies->BeginCapture());
  EXPECT_FALSE(cards->copies->CopyToHost(&pageable, cards->a, 4).ok());
  EXPECT_FALSE(cards->copies->EndCapture().ok());
  // An event that was recorded outside.
  ASSERT_OK(cards->kernels->Record(cards->computed));
  ASSERT_OK(cards->copies->BeginCapture());
  EXPECT_FALSE(cards->copies->Wait(cards->computed).ok());
  EXPECT_FALSE(cards->copies->EndCapture().ok());
  // And all is well after.
  ASSERT_OK(Record(*cards, 1, Mistake::kNone));
  auto graph = cards->copies->EndCapture();
  ASSERT_OK(graph);
  Graph none;
  EXPECT_EQ(cards->copies->Launch(none).code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(cards->rig.contexts[0]->lost());
}

// Everything that a stage does, small: to be lost or to lack memory at any point.
absl::Status Everything() {
  ASSIGN_OR_RETURN(Cards cards, OpenCards());
  std::fill_n(Words(cards.in), kWords, 3u);
  RETURN_IF_ERROR(Record(cards, 1, Mistake::kNone));
  ASSIGN_OR_RETURN(Graph graph, cards.copies->EndCapture());
  RETURN_IF_ERROR(cards.copies->Launch(graph));
  RETURN_IF_ERROR(cards.copies->Record(cards.copied));
  RETURN_IF_ERROR(cards.copied.Synchronize());
  std::vector<uint32_t> pageable(kWords);
  RETURN_IF_ERROR(cards.copies->CopyToHost(pageable.data(), cards.b, kBytes));
  RETURN_IF_ERROR(cards.copies->CopyOnDevice(cards.a, cards.b, kBytes));
  RETURN_IF_ERROR(cards.rig.contexts[0]->Memory().status());
  cards.rig.contexts[0]->Free(cards.a);
  RETURN_IF_ERROR(cards.rig.contexts[0]->Synchronize());
  if (pageable[0] != 3 * 3 + 1) return Internal("wrong result: ", pageable[0]);
  return absl::OkStatus();
}

TEST(Failures, LostAtEveryCall) {
  for (const int code : {700, 719, 999, 46}) {
    int calls = 0;
    for (int n = 1;; ++n) {
      FakeCuda::Get().Reset(absl::StrCat("seed=", n, ",lose_at=", n, ",lose_code=", code));
      const absl::Status status = Everything();
      if (status.ok()) {
        calls = n;
        break;
      }
      ASSERT_EQ(status.code(), absl::StatusCode::kUnavailable) << n << ": " << status;
      ASSERT_LT(n, 500);
    }
    EXPECT_GT(calls, 30);
  }
}

TEST(Failures, LostAtEveryPieceOfWork) {
  int n = 1;
  for (; n < 100; ++n) {
    FakeCuda::Get().Reset(absl::StrCat("seed=", n, ",lose_at_work=", n));
    const absl::Status status = Everything();
    if (status.ok()) break;
    ASSERT_EQ(status.code(), absl::StatusCode::kUnavailable) << n << ": " << status;
  }
  EXPECT_GE(n, 6);
  EXPECT_LT(n, 100);
}

TEST(Failures, NoMemoryAtEveryAllocation) {
  for (int n = 1; n <= 2; ++n) {
    FakeCuda::Get().Reset(absl::StrCat("fail_alloc=", n));
    EXPECT_EQ(Everything().code(), absl::StatusCode::kResourceExhausted) << n;
    FakeCuda::Get().Reset(absl::StrCat("fail_host_alloc=", n));
    EXPECT_EQ(Everything().code(), absl::StatusCode::kResourceExhausted) << n;
    FakeCuda::Get().Reset(absl::StrCat("fail_alloc_from=", n));
    EXPECT_EQ(Everything().code(), absl::StatusCode::kResourceExhausted) << n;
  }
  FakeCuda::Get().Reset("fail_alloc=3,fail_host_alloc=3");
  EXPECT_OK(Everything());
}

}  // namespace
}  // namespace lanyard::fake_cuda
