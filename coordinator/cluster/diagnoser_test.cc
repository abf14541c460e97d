#include "coordinator/cluster/diagnoser.h"

#include <gtest/gtest.h>

namespace lanyard::coordinator {
namespace {

std::map<std::string, Member> Members(int n) {
  std::map<std::string, Member> out;
  for (int i = 0; i < n; ++i) {
    Member member;
    member.link = net::LinkId(static_cast<uint64_t>(i + 1));
    member.hello.name = absl::StrCat("w", i);
    member.hello.stage_address = absl::StrCat("h:", i);
    out[member.hello.name] = member;
  }
  return out;
}

struct Heard {
  std::optional<absl::StatusOr<PoolDiagnosis>> result;
  Diagnoser::Done Done() {
    return [this](absl::StatusOr<PoolDiagnosis> r) { result = std::move(r); };
  }
};

net::Diagnosis DiagnosisOf(uint64_t id, int64_t received, int64_t sent) {
  net::Diagnosis out;
  out.id = id;
  out.received_unix_ms = received;
  out.sent_unix_ms = sent;
  out.links = {{"w1", absl::OkStatus(), 1'000'000, 2'000'000, 3'000'000, 5e6, 1500, false}};
  return out;
}

TEST(DiagnoserTest, AsksOneAfterAnotherAndComparesClocks) {
  Diagnoser diagnoser;
  Heard heard;
  diagnoser.Start(Members(2), "", heard.Done(), 0);
  const auto first = diagnoser.Next(0, 1000);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->link, net::LinkId(1));
  ASSERT_EQ(first->request.targets.size(), 1u);
  EXPECT_EQ(first->request.targets[0].worker, "w1");
  EXPECT_FALSE(diagnoser.Next(0, 1000).has_value());  // one at a time
  // 20 ms each way, 500 ms of work, its clock 60 s ahead.
  diagnoser.OnDiagnosis(net::LinkId(1), DiagnosisOf(first->request.id, 61'020, 61'520), 1540);
  const auto second = diagnoser.Next(1, 2000);
  ASSERT_TRUE(second.has_value());
  diagnoser.OnDiagnosis(net::LinkId(1), DiagnosisOf(second->request.id, 0, 0),
                        2000);  // not whom we asked
  diagnoser.OnDiagnosis(net::LinkId(2), DiagnosisOf(second->request.id + 1, 0, 0),
                        2000);  // not what we asked
  diagnoser.OnTick(2, 2000);
  EXPECT_FALSE(heard.result.has_value());
  diagnoser.OnDiagnosis(net::LinkId(2), DiagnosisOf(second->request.id, 2000, 2000), 2000);
  diagnoser.OnTick(3, 2500);
  ASSERT_TRUE(heard.result.has_value() && heard.result->ok());
  const PoolDiagnosis& all = **heard.result;
  ASSERT_EQ(all.nodes.size(), 2u);
  EXPECT_DOUBLE_EQ(all.nodes[0].clock_skew_s, 60);
  EXPECT_DOUBLE_EQ(all.nodes[0].clock_error_s, 0.02);
  EXPECT_DOUBLE_EQ(all.nodes[1].clock_skew_s, 0);
  ASSERT_EQ(all.links.size(), 2u);
  EXPECT_DOUBLE_EQ(all.links[0].rtt_median_ms, 3);
  EXPECT_EQ(all.unix_ms, 2500);
  EXPECT_FALSE(diagnoser.busy());
}

TEST(DiagnoserTest, OneMachineAndTheWaysToIt) {
  Diagnoser diagnoser;
  Heard heard;
  diagnoser.Start(Members(3), "w1", heard.Done(), 0);
  for (const size_t wanted : {1u, 2u, 1u}) {  // w0 to w1, w1 to both, w2 to w1
    const auto ask = diagnoser.Next(0, 0);
    ASSERT_TRUE(ask.has_value());
    EXPECT_EQ(ask->request.targets.size(), wanted);
    diagnoser.OnDiagnosis(ask->link, DiagnosisOf(ask->request.id, 0, 0), 0);
  }
  diagnoser.OnTick(1, 1);
  EXPECT_TRUE(heard.result.has_value());
}

TEST(DiagnoserTest, LargePoolsAreMeasuredInPart) {
  Diagnoser diagnoser;
  Heard heard;
  diagnoser.Start(Members(30), "", heard.Done(), 0);
  const auto ask = diagnoser.Next(0, 0);
  ASSERT_TRUE(ask.has_value());
  EXPECT_EQ(ask->request.targets.size(), 6u);
}

TEST(DiagnoserTest, SilentGoneAndLate) {
  Diagnoser diagnoser({.answer_within = 10, .all_within = 100, .all_pairs_up_to = 8});
  Heard heard;
  diagnoser.Start(Members(4), "", heard.Done(), 0);
  diagnoser.Next(0, 0);
  diagnoser.OnTick(11, 0);  // w0 is silent
  diagnoser.Next(12, 0);
  diagnoser.OnGone(net::LinkId(2));
  diagnoser.Next(95, 0);
  diagnoser.OnTick(100, 0);  // w2 was being asked, w3 never
  ASSERT_TRUE(heard.result.has_value() && heard.result->ok());
  const auto& nodes = (*heard.result)->nodes;
  ASSERT_EQ(nodes.size(), 4u);
  EXPECT_NE(nodes[0].error.find("did not answer"), std::string::npos);
  EXPECT_NE(nodes[1].error.find("left"), std::string::npos);
  EXPECT_NE(nodes[2].error.find("over"), std::string::npos);
  EXPECT_NE(nodes[3].error.find("not asked"), std::string::npos);
}

TEST(DiagnoserTest, Refusals) {
  Diagnoser diagnoser;
  Heard unknown, first, second;
  diagnoser.Start(Members(1), "pc-9", unknown.Done(), 0);
  EXPECT_TRUE(absl::IsNotFound(unknown.result->status()));
  diagnoser.Start(Members(1), "", first.Done(), 0);
  diagnoser.Start(Members(1), "", second.Done(), 0);
  EXPECT_TRUE(absl::IsResourceExhausted(second.result->status()));
  diagnoser.Abort(Unavailable("stopping"));
  EXPECT_TRUE(absl::IsUnavailable(first.result->status()));
  Heard empty;
  diagnoser.Start({}, "", empty.Done(), 0);
  diagnoser.OnTick(0, 5);
  EXPECT_TRUE(empty.result.has_value() && empty.result->ok());
}

}  // namespace
}  // namespace lanyard::coordinator
