#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "engine/ops/math.h"

namespace lanyard::engine {
namespace {

uint64_t Mix(uint64_t x) {  // splitmix64's finaliser
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace

double UniformDraw(uint64_t seed, uint64_t position) {
  return static_cast<double>(Mix(Mix(seed) ^ Mix(position + 0x632be59bd9b4e019ull)) >> 11) *
         0x1p-53;
}

void Sampler::Reserve(int64_t n_vocab) {
  candidates_.reserve(n_vocab);
  sums_.reserve(ops::LogitChunks(n_vocab));
}

uint64_t Sampler::Bytes(int64_t n_vocab) {
  return n_vocab * sizeof(Candidate) + ops::LogitChunks(n_vocab) * sizeof(float);
}

absl::Status Sampler::NotFinite() {
  return Internal(
      "the model's numbers for this text are not finite: its weights overflow on it, or are "
      "damaged");
}

absl::Status Sampler::SetRow(const float* logits, int64_t n) {
  if (!ops::SummariseLogits(isa_, *pool_, logits, n, &own_stats_)) return NotFinite();
  SetRow(own_stats_, logits, n);
  return absl::OkStatus();
}

void Sampler::SetRow(const ops::LogitStats& stats, const float* logits, int64_t n) {
  stats_ = &stats;
  logits_ = logits;
  n_ = n;
}

void Sampler::Largest(int64_t k, std::vector<Candidate>* out) const {
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  out->clear();
  if (k >= n_ / 4) {
    for (int64_t id = 0; id < n_; ++id) out->push_back({static_cast<int32_t>(id), logits_[id]});
    k = std::min(k, n_);
    std::partial_sort(out->begin(), out->begin() + k, out->end(), before);
    out->resize(k);
    return;
  }
  // It is a heap with the least of the k on top; ids ascend, so an equal logit never displaces one.
  for (size_t c = 0; c < stats_->chunk_max.size(); ++c) {
    const bool full = static_cast<int64_t>(out->size()) == k;
    if (full && (k == 0 || stats_->chunk_max[c] <= out->front().logit)) continue;
    const int64_t begin = static_cast<int64_t>(c) * ops::kLogitChunk;
    const int64_t end = std::min(n_, begin + ops::kLogitChunk);
    for (int64_t id = begin; id < end; ++id) {
      if (static_cast<int64_t>(out->size()) == k) {
        if (logits_[id] <= out->front().logit) continue;
        std::pop_heap(out->begin(), out->end(), before);
        out->pop_back();
      }
      out->push_back({static_cast<int32_t>(id), logits_[id]});
      std::push_heap(out->begin(), out->end(), before);
    }
  }
  std::sort_heap(out->begin(), out->end(), before);
}

// Keeps the shortest prefix whose share of the mass reaches top_p.
void Sampler::CutTopP(const stage::SampleSpec& spec, bool sorted,
                      std::vector<Candidate>* out) const {
  double total = stats_->sum;
  if (sorted) {
    total = 0;
    for (const Candidate& c : *out) total += ops::Exp(c.logit - stats_->max);
  }
  // Without top-k the candidates come in growing portions, since most rows need few.
  for (int64_t k = sorted ? static_cast<int64_t>(out->size()) : 256;; k *= 8) {
    if (!sorted) Largest(k, out);
    double mass = 0;
    for (size_t i = 0; i < out->size(); ++i) {
      mass += ops::Exp((*out)[i].logit - stats_->max);
      if (mass >= static_cast<double>(spec.top_p) * total) {
        out->resize(i + 1);
        return;
      }
    }
    if (sorted || k >= n_) return;
  }
}

int32_t Sampler::DrawFromAll(float scale, double u) {
  ops::ChunkSums(isa_, *pool_, std::span(logits_, n_), {stats_->max, scale}, &sums_);
  double total = 0;
  for (const float s : sums_) total += static_cast<double>(s);
  const double target = u * total;
  double mass = 0;
  int32_t last = stats_->argmax;
  for (size_t c = 0; c < sums_.size(); ++c) {
    if (mass + static_cast<double>(sums_[c]) <= target && c + 1 < sums_.size()) {
      mass += static_cast<double>(sums_[c]);
      continue;
    }
    const int64_t begin = static_cast<int64_t>(c) * ops::kLogitChunk;
    const int64_t end = std::min(n_, begin + ops::kLogitChunk);
    for (int64_t id = begin; id < end; ++id) {
      const double p = ops::Exp((logits_[id] - stats_->max) * scale);
      if (p == 0) continue;
      mass += p;
      last = static_cast<int32_t>(id);
      if (mass > target) return last;
    }
    // The chunk's sum was rounded up: the next token with any mass is the one.
  }
  return last;
}

int32_t Sampler::Draw(const stage::SampleSpec& spec, uint64_t position) {
  if (spec.temperature == 0) return stats_->argmax;
  const float scale = 1.0f / spec.temperature;
  if (!std::isfinite(scale)) return stats_->argmax;
  const double u = UniformDraw(spec.seed, position);
  const bool top_k = spec.top_k > 0 && spec.top_k < n_;
  const bool top_p = spec.top_p < 1;
  if (!top_k && !top_p && spec.min_p == 0) return DrawFromAll(scale, u);

  if (top_k) Largest(spec.top_k, &candidates_);
  if (top_p) CutTopP(spec, top_k, &candidates_);
  const float least =
      spec.min_p > 0 ? static_cast<float>(stats_->max + ops::LogDouble(spec.min_p)) : -HUGE_VALF;
  if (!top_k && !top_p) {
    candidates_.clear();
    for (int64_t id = 0; id < n_; ++id) {
      if (logits_[id] >= least) candidates_.push_back({static_cast<int32_t>(id), logits_[id]});
    }
  } else if (spec.min_p > 0) {
    std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < least; });
  }
  if (candidates_.empty()) return stats_->argmax;  // happens with min_p 1 and a rounded logarithm
  double total = 0;
  for (const Candidate& c : candidates_) total += ops::Exp((c.logit - stats_->max) * scale);
  double mass = 0;
  for (const Candidate& c : candidates_) {
    mass += ops::Exp((c.logit - stats_->max) * scale);
    if (mass > u * total) return c.id;
  }
  return candidates_.back().id;
}

void Sampler::Answer(const stage::OutputRequest& request, stage::TokenOut* out) {
  out->token = Draw(request.sample, uint64_t{out->pos} + 1);
  const float logit = logits_ != nullptr ? logits_[out->token] : stats_->max;
  out->lse = static_cast<float>(stats_->lse);
  out->logprob = static_cast<float>(static_cast<double>(logit) - stats_->lse);
  if (request.top > 0) {
    Largest(request.top, &candidates_);
    for (const Candidate& c : candidates_) out->top.emplace_back(c.id, c.logit);
  }
  for (const int32_t id : request.want) out->want.push_back(logits_[id]);
}

}  // namespace lanyard::engine
