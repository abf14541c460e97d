#include "base/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lanyard {
namespace {

using ::testing::HasSubstr;

TEST(Metrics, TextOfEveryKind) {
  Metrics metrics(Metrics::Labels{{"model_name", "m"}});
  const Metrics::Description tokens{"vllm:generation_tokens_total", "Tokens."};
  metrics.Declare(tokens);
  EXPECT_THAT(metrics.Text(), HasSubstr("vllm:generation_tokens_total{model_name=\"m\"} 0\n"));
  metrics.Add(tokens, 3);
  metrics.Add(tokens, 2);
  EXPECT_THAT(metrics.Text(), HasSubstr("vllm:generation_tokens_total{model_name=\"m\"} 5\n"));
  metrics.RaiseTo(tokens, 9);
  metrics.RaiseTo(tokens, 4);
  EXPECT_THAT(metrics.Text(), HasSubstr("# TYPE vllm:generation_tokens_total counter\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("vllm:generation_tokens_total{model_name=\"m\"} 9\n"));
  metrics.Set({"lanyard_node_up", "Up."}, 1, {{"node", "w1"}});
  metrics.Set({"lanyard_node_up", "Up."}, 0, {{"node", "w2"}});
  EXPECT_THAT(metrics.Text(), HasSubstr("lanyard_node_up{model_name=\"m\",node=\"w1\"} 1\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("lanyard_node_up{model_name=\"m\",node=\"w2\"} 0\n"));
  metrics.Observe({"h_seconds", "H."}, {0.1, 1}, 0.5);
  metrics.Observe({"h_seconds", "H."}, {0.1, 1}, 7);
  EXPECT_THAT(metrics.Text(), HasSubstr("h_seconds_bucket{model_name=\"m\",le=\"1\"} 1\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("h_seconds_bucket{model_name=\"m\",le=\"+Inf\"} 2\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("h_seconds_count{model_name=\"m\"} 2\n"));
}

}  // namespace
}  // namespace lanyard
