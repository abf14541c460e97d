// Programs drawn at random: kernels on several streams, over shared buffers, with every wait that
// their hazards need. Right ones give the result of running one after another for every seed; with
// one needed wait left out, some seed shows it.
#include <map>
#include <random>

#include "tests/fake_cuda/fixture.h"

namespace lanyard::fake_cuda {
namespace {

using cuda::Event;
using cuda::Stream;

constexpr uint32_t kElements = 40;
constexpr int kStreams = 3;
constexpr int kBuffers = 4;

// to = from * 3 + value on a stream, after the steps in `waits`.
struct Step {
  int stream = 0;
  int to = 0;
  int from = 0;
  uint32_t value = 0;
  std::vector<int> waits;
};

// Waits for the last conflicting step of every other stream: who wrote what is read, who read or
// wrote what is written.
std::vector<Step> MakeProgram(uint32_t seed, int length) {
  std::mt19937 random(seed);
  std::vector<Step> steps;
  for (int i = 0; i < length; ++i) {
    Step step;
    step.stream = static_cast<int>(random() % kStreams);
    step.to = static_cast<int>(random() % kBuffers);
    step.from = static_cast<int>(random() % kBuffers);
    step.value = random() % 1000;
    std::map<int, int> last;  // of each stream
    for (int j = 0; j < i; ++j) {
      const Step& other = steps[static_cast<size_t>(j)];
      const bool conflict = other.to == step.from || other.to == step.to || other.from == step.to;
      if (conflict && other.stream != step.stream) last[other.stream] = j;
    }
    for (const auto& [stream, j] : last) step.waits.push_back(j);
    steps.push_back(std::move(step));
  }
  return steps;
}

std::vector<std::vector<uint32_t>> Reference(const std::vector<Step>& steps) {
  std::vector<std::vector<uint32_t>> buffers(kBuffers,
                                             std::vector<uint32_t>(kElements, 0x01010101u));
  for (const Step& step : steps) {
    for (uint32_t i = 0; i < kElements; ++i) {
      buffers[static_cast<size_t>(step.to)][i] =
          buffers[static_cast<size_t>(step.from)][i] * 3 + step.value;
    }
  }
  return buffers;
}

// A legal order when `victim` waits for nothing: what it still comes after, the victim, the rest.
std::vector<Step> EarlyOrder(const std::vector<Step>& steps, int victim) {
  std::vector<bool> before(steps.size(), false);
  std::vector<int> todo = {victim};
  while (!todo.empty()) {
    const int at = todo.back();
    todo.pop_back();
    std::vector<int> after =
        at == victim ? std::vector<int>() : steps[static_cast<size_t>(at)].waits;
    for (int j = at - 1; j >= 0; --j) {
      if (steps[static_cast<size_t>(j)].stream != steps[static_cast<size_t>(at)].stream) continue;
      after.push_back(j);
      break;
    }
    for (const int j : after) {
      if (!before[static_cast<size_t>(j)]) todo.push_back(j);
      before[static_cast<size_t>(j)] = true;
    }
  }
  before[static_cast<size_t>(victim)] = false;
  std::vector<Step> out;
  for (size_t i = 0; i < steps.size(); ++i) {
    if (before[i]) out.push_back(steps[i]);
  }
  out.push_back(steps[static_cast<size_t>(victim)]);
  for (size_t i = 0; i < steps.size(); ++i) {
    if (!before[i] && static_cast<int>(i) != victim) out.push_back(steps[i]);
  }
  return out;
}

struct Machine {
  Rig rig;
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<cuda::DeviceAddress> buffers;
};

absl::StatusOr<Machine> OpenMachine() {
  Machine m;
  ASSIGN_OR_RETURN(m.rig, OpenRig());
  for (int i = 0; i < kStreams; ++i) {
    ASSIGN_OR_RETURN(auto stream, Stream::Create(m.rig.modules[0]));
    m.streams.push_back(std::move(stream));
  }
  for (int i = 0; i < kBuffers; ++i) {
    ASSIGN_OR_RETURN(const cuda::DeviceAddress address, m.rig.contexts[0]->Allocate(kElements * 4));
    m.buffers.push_back(address);
    RETURN_IF_ERROR(m.streams[0]->Fill(address, 1, kElements * 4));
  }
  RETURN_IF_ERROR(m.streams[0]->Synchronize());
  return m;
}

// Enqueues the program; `left_out` of the steps has no waits.
absl::Status Enqueue(Machine& m, const std::vector<Step>& steps, int left_out) {
  std::vector<Event> done;
  for (size_t i = 0; i < steps.size(); ++i) {
    const Step& step = steps[i];
    Stream& stream = *m.streams[static_cast<size_t>(step.stream)];
    for (const int wait : step.waits) {
      if (static_cast<int>(i) != left_out)
        RETURN_IF_ERROR(stream.Wait(done[static_cast<size_t>(wait)]));
    }
    RETURN_IF_ERROR(Mix(stream, {m.buffers[static_cast<size_t>(step.to)], kElements, step.value,
                                 m.buffers[static_cast<size_t>(step.from)]}));
    ASSIGN_OR_RETURN(Event event, Event::Create(m.rig.contexts[0]));
    RETURN_IF_ERROR(stream.Record(event));
    done.push_back(std::move(event));
  }
  return m.rig.contexts[0]->Synchronize();
}

absl::StatusOr<std::vector<std::vector<uint32_t>>> Download(Machine& m) {
  std::vector<std::vector<uint32_t>> out;
  for (const cuda::DeviceAddress address : m.buffers) {
    std::vector<uint32_t> words(kElements);
    RETURN_IF_ERROR(m.streams[0]->CopyToHost(words.data(), address, kElements * 4));
    out.push_back(std::move(words));
  }
  return out;
}

absl::StatusOr<std::vector<std::vector<uint32_t>>> RunProgram(const std::vector<Step>& steps,
                                                              int seed, int left_out) {
  FakeCuda::Get().Reset(absl::StrCat("seed=", seed));
  ASSIGN_OR_RETURN(Machine m, OpenMachine());
  RETURN_IF_ERROR(Enqueue(m, steps, left_out));
  return Download(m);
}

TEST(RandomPrograms, RightOnesAreRightInEveryOrder) {
  for (uint32_t program = 0; program < 20; ++program) {
    const std::vector<Step> steps = MakeProgram(program, 14);
    const auto want = Reference(steps);
    for (int seed = 0; seed < 10; ++seed) {
      auto got = RunProgram(steps, seed, -1);
      ASSERT_OK(got);
      ASSERT_EQ(*got, want) << "program " << program << ", seed " << seed;
    }
  }
  EXPECT_EQ(FakeCuda::Get().Reports(), "");
}

// The same program captured: the first stream begins, the others join by a wait and are waited for
// at the end.
TEST(RandomPrograms, CapturedTheyAreTheSame) {
  for (uint32_t program = 0; program < 20; ++program) {
    std::vector<Step> steps = MakeProgram(program, 10);
    FakeCuda::Get().Reset(absl::StrCat("seed=", program));
    auto m = OpenMachine();
    ASSERT_OK(m);
    auto fork = Event::Create(m->rig.contexts[0]);
    ASSERT_OK(fork);
    ASSERT_OK(m->streams[0]->BeginCapture());
    ASSERT_OK(m->streams[0]->Record(*fork));
    for (int i = 1; i < kStreams; ++i) ASSERT_OK(m->streams[static_cast<size_t>(i)]->Wait(*fork));
    std::vector<Event> done;
    for (const Step& step : steps) {
      Stream& stream = *m->streams[static_cast<size_t>(step.stream)];
      for (const int wait : step.waits) ASSERT_OK(stream.Wait(done[static_cast<size_t>(wait)]));
      ASSERT_OK(Mix(stream, {m->buffers[static_cast<size_t>(step.to)], kElements, step.value,
                             m->buffers[static_cast<size_t>(step.from)]}));
      auto event = Event::Create(m->rig.contexts[0]);
      ASSERT_OK(event);
      ASSERT_OK(stream.Record(*event));
      done.push_back(*std::move(event));
    }
    for (int i = 1; i < kStreams; ++i) {
      auto join = Event::Create(m->rig.contexts[0]);
      ASSERT_OK(join);
      ASSERT_OK(m->streams[static_cast<size_t>(i)]->Record(*join));
      ASSERT_OK(m->streams[0]->Wait(*join));
    }
    auto graph = m->streams[0]->EndCapture();
    ASSERT_OK(graph);
    // Twice: the second launch goes on from the first one's buffers.
    ASSERT_OK(m->streams[0]->Launch(*graph));
    ASSERT_OK(m->streams[1]->Launch(*graph));
    ASSERT_OK(m->rig.contexts[0]->Synchronize());
    auto got = Download(*m);
    ASSERT_OK(got);
    steps.insert(steps.end(), steps.begin(), steps.end());
    ASSERT_EQ(*got, Reference(steps)) << "program " << program;
  }
}

TEST(RandomPrograms, AWaitLeftOutIsFound) {
  int planted = 0;
  int found = 0;
  for (uint32_t program = 0; program < 30; ++program) {
    const std::vector<Step> steps = MakeProgram(program, 14);
    const auto want = Reference(steps);
    for (int victim = 0; victim < static_cast<int>(steps.size()); ++victim) {
      // To leave out a wait is no mistake where others imply it, or where nothing shows its
      // absence.
      if (steps[static_cast<size_t>(victim)].waits.empty() ||
          Reference(EarlyOrder(steps, victim)) == want)
        continue;
      ++planted;
      for (int seed = 0; seed < 40; ++seed) {
        auto got = RunProgram(steps, seed, victim);
        ASSERT_OK(got);
        if (*got == want) continue;
        ++found;
        break;
      }
    }
  }
  EXPECT_GT(planted, 50);
  EXPECT_GE(found * 100, planted * 98) << found << " of " << planted;
  RecordProperty("found", found);
  RecordProperty("planted", planted);
}

}  // namespace
}  // namespace lanyard::fake_cuda
