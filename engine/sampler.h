// From a row of logits to a token and to what was asked about it. The order is top-k, top-p, min-p,
// temperature (llama.cpp's; docs/numerics.md "Sampling"), and the draw is a function of (seed,
// position) alone.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "engine/ops/logits.h"
#include "stage/types.h"

namespace lanyard::engine {

// A uniform number in [0, 1), a multiple of 2^-53. `position` is where the drawn token will stand.
double UniformDraw(uint64_t seed, uint64_t position);

class Sampler {
 public:
  Sampler(ops::Isa isa, ops::ThreadPool* pool) : isa_(isa), pool_(pool) {}

  // Memory for rows of up to n_vocab logits, so that no answer needs more later; as Bytes says.
  void Reserve(int64_t n_vocab);
  static uint64_t Bytes(int64_t n_vocab);

  // The error of a row that is not finite (Internal).
  static absl::Status NotFinite();
  // Summarises the row; NotFinite when it is not. `logits` must stay until the next call.
  absl::Status SetRow(const float* logits, int64_t n);
  // Takes a row of n logits that a device has summarised. `stats` and `logits` must stay until the
  // next call; `logits` may be null when no answer of the row NeedsLogits.
  void SetRow(const ops::LogitStats& stats, const float* logits, int64_t n);
  // True when the first maximum and the row's statistics are not enough.
  static bool NeedsLogits(const stage::OutputRequest& request) {
    return request.sample.temperature != 0 || request.top != 0 || !request.want.empty();
  }
  // `out` has seq and pos; this fills in the rest.
  void Answer(const stage::OutputRequest& request, stage::TokenOut* out);

 private:
  struct Candidate {
    int32_t id;
    float logit;
  };
  // The k largest logits, descending, ties to the lower id.
  void Largest(int64_t k, std::vector<Candidate>* out) const;
  int32_t Draw(const stage::SampleSpec& spec, uint64_t position);
  int32_t DrawFromAll(float scale, double u);
  void CutTopP(const stage::SampleSpec& spec, bool sorted, std::vector<Candidate>* out) const;

  const ops::Isa isa_;
  ops::ThreadPool* const pool_;
  const float* logits_ = nullptr;
  int64_t n_ = 0;
  ops::LogitStats own_stats_;
  const ops::LogitStats* stats_ = &own_stats_;
  std::vector<Candidate> candidates_;
  std::vector<float> sums_;
};

}  // namespace lanyard::engine
