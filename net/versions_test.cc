#include "net/versions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lanyard::net {
namespace {

using ::testing::HasSubstr;

Program Of(uint32_t protocol, const std::string& version = "1.0.0", uint32_t numerics = 1) {
  return {protocol, version, numerics};
}

// The whole rule: which protocols work together, and which side is told to upgrade.
TEST(Versions, ACoordinatorTakesItsProtocolAndTheOneBefore) {
  struct Row {
    uint32_t coordinator, worker;
    const char* upgrade;  // null: they work together
  };
  for (const Row& row : {
           Row{1, 0, "upgrade the worker"},  // says nothing, or something else than a protocol
           Row{1, 1, nullptr},
           Row{1, 2, "upgrade the coordinator"},
           Row{2, 0, "upgrade the worker"},
           Row{2, 1, nullptr},
           Row{2, 2, nullptr},
           Row{2, 3, "upgrade the coordinator"},
           Row{7, 5, "upgrade the worker"},
           Row{7, 6, nullptr},
           Row{7, 7, nullptr},
           Row{7, 8, "upgrade the coordinator"},
           Row{7, 4294967295u, "upgrade the coordinator"},
       }) {
    SCOPED_TRACE(absl::StrCat("coordinator ", row.coordinator, ", worker ", row.worker));
    const absl::Status status =
        CheckWorkerProgram(Of(row.worker, "9.1.0"), Of(row.coordinator, "0.4.0"));
    EXPECT_EQ(status.ok(), row.upgrade == nullptr) << status;
    if (row.upgrade == nullptr) continue;
    EXPECT_TRUE(absl::IsFailedPrecondition(status));
    const std::string text(status.message());
    EXPECT_THAT(text, HasSubstr(row.upgrade));
    EXPECT_THAT(text, HasSubstr(absl::StrCat("9.1.0 (protocol ", row.worker, ")")));
    EXPECT_THAT(text, HasSubstr(absl::StrCat("0.4.0 (protocol ", row.coordinator, ")")));
  }
}

TEST(Versions, TheProductsVersionDecidesNothing) {
  for (const char* version : {"0.0.1", "0.1.1", "1.0.0", "99.0", "", "what\never"}) {
    EXPECT_TRUE(CheckWorkerProgram(Of(kProtocolVersion, version)).ok()) << version;
    EXPECT_TRUE(CheckNeighbourProgram(Of(kProtocolVersion, version)).ok()) << version;
  }
}

TEST(Versions, OtherNumericsAreRefusedByTheirOwnRule) {
  EXPECT_TRUE(CheckWorkerProgram(Of(2, "a", 3), Of(2, "b", 3)).ok());
  const absl::Status newer = CheckWorkerProgram(Of(2, "a", 4), Of(2, "b", 3));
  EXPECT_TRUE(absl::IsFailedPrecondition(newer));
  EXPECT_THAT(std::string(newer.message()), HasSubstr("numerics version 4"));
  EXPECT_THAT(std::string(newer.message()), HasSubstr("numerics version 3"));
  EXPECT_THAT(std::string(newer.message()), HasSubstr("upgrade the coordinator"));
  EXPECT_THAT(std::string(CheckWorkerProgram(Of(2, "a", 2), Of(2, "b", 3)).message()),
              HasSubstr("upgrade the worker"));
}

// In a pool of coordinator N the workers are of N and N-1, and each sends frames to each.
TEST(Versions, NeighboursMayBeOneApart) {
  for (const uint32_t coordinator : {1u, 2u, 7u}) {
    for (uint32_t a = coordinator > 1 ? coordinator - 1 : 1; a <= coordinator; ++a) {
      EXPECT_TRUE(CheckNeighbourProgram(Of(coordinator), Of(a)).ok());
      for (uint32_t b = coordinator > 1 ? coordinator - 1 : 1; b <= coordinator; ++b)
        EXPECT_TRUE(CheckNeighbourProgram(Of(a), Of(b)).ok()) << a << " " << b;
    }
  }
  EXPECT_THAT(std::string(CheckNeighbourProgram(Of(3), Of(1)).message()),
              HasSubstr("upgrade the program here"));
  EXPECT_THAT(std::string(CheckNeighbourProgram(Of(0), Of(1)).message()),
              HasSubstr("upgrade the other side"));
}

TEST(Versions, TextOfTheOtherSideIsCleaned) {
  const absl::Status status = CheckWorkerProgram(Of(9, std::string(500, 'v') + "\n"));
  EXPECT_LT(status.message().size(), 400u);
  EXPECT_EQ(status.message().find('\n'), absl::string_view::npos);
}

}  // namespace
}  // namespace lanyard::net
