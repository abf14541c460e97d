#include "engine/evaluate.h"

#include <algorithm>

namespace lanyard::engine {
namespace {

struct Job {
  SeqId seq;
  EvalResult* result = nullptr;
  size_t fed = 0;  // tokens of the prompt, then of the continuation, that went in so far
  double nll = 0;
  bool done = false;
};

stage::OutputRequest Greedy(uint32_t row, uint32_t top) {
  stage::OutputRequest out;
  out.row = row;
  out.sample.temperature = 0;
  out.top = top;
  return out;
}

// The next tokens of a job: a chunk of its prompt, or the token that it made last.
Feed NextFeed(const Job& job, const EvalOptions& options, size_t room) {
  const std::vector<int32_t>& tokens = job.result->tokens;
  Feed feed;
  feed.seq = job.seq;
  if (job.fed >= tokens.size()) {
    feed.tokens = {job.result->greedy.back()};
    feed.outputs = {Greedy(0, 0)};
    return feed;
  }
  const size_t n = std::min({room, size_t{options.chunk}, tokens.size() - job.fed});
  feed.tokens.assign(tokens.begin() + job.fed, tokens.begin() + job.fed + n);
  for (size_t i = 0; i < n; ++i) {
    feed.outputs.push_back(Greedy(static_cast<uint32_t>(i), options.top));
    if (job.fed + i + 1 < tokens.size()) feed.outputs.back().want = {tokens[job.fed + i + 1]};
  }
  return feed;
}

void Take(Job& job, const Feed& feed, std::span<const stage::TokenOut> outs,
          const EvalOptions& options) {
  EvalResult& result = *job.result;
  for (const stage::TokenOut& out : outs) {
    if (job.fed < result.tokens.size()) {
      result.positions.push_back({out.lse, out.top});
      if (!out.want.empty())
        job.nll += static_cast<double>(out.lse) - static_cast<double>(out.want[0]);
    }
  }
  job.fed += feed.tokens.size();
  if (job.fed < result.tokens.size()) return;
  if (result.tokens.size() > 1)
    result.mean_nll = job.nll / static_cast<double>(result.tokens.size() - 1);
  if (result.greedy.size() < options.generate) result.greedy.push_back(outs.back().token);
  job.done = result.greedy.size() >= options.generate ||
             (options.is_end != nullptr && options.is_end(result.greedy.back()));
}

absl::Status RunJobs(Chain& chain, std::span<Job> jobs, const EvalOptions& options,
                     uint32_t max_rows) {
  while (true) {
    std::vector<Feed> feeds;
    std::vector<Job*> fed;
    size_t rows = 0;
    for (Job& job : jobs) {
      if (job.done || rows >= max_rows) continue;
      feeds.push_back(NextFeed(job, options, max_rows - rows));
      fed.push_back(&job);
      rows += feeds.back().tokens.size();
    }
    if (feeds.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::vector<stage::TokenOut> outs, chain.Step(feeds));
    for (const stage::TokenOut& out : outs) RETURN_IF_ERROR(out.status);
    size_t at = 0;
    for (size_t i = 0; i < feeds.size(); ++i) {
      Take(*fed[i], feeds[i], std::span(outs).subspan(at, feeds[i].outputs.size()), options);
      at += feeds[i].outputs.size();
      if (fed[i]->done) chain.Release(fed[i]->seq);
    }
  }
}

}  // namespace

absl::StatusOr<std::vector<EvalResult>> Evaluate(Chain& chain,
                                                 const std::vector<std::vector<int32_t>>& prompts,
                                                 const EvalOptions& options) {
  std::vector<EvalResult> results(prompts.size());
  std::vector<Job> jobs(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty()) return InvalidArgument("prompt ", i, " has no tokens");
    results[i].tokens = prompts[i];
    jobs[i].seq = SeqId(i + 1);
    jobs[i].result = &results[i];
  }
  const uint32_t max_rows = chain.specs()[0].max_rows;
  if (options.batch) {
    RETURN_IF_ERROR(RunJobs(chain, jobs, options, max_rows));
  } else {
    for (Job& job : jobs) RETURN_IF_ERROR(RunJobs(chain, std::span(&job, 1), options, max_rows));
  }
  return results;
}

}  // namespace lanyard::engine
