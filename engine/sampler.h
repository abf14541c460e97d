// From a row of logits to a token and what was asked about it. docs/numerics.md "Sampling": top-k, top-p, min-p,
// temperature in this order (llama.cpp's), and a draw that is a function of (seed, position) alone.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "engine/ops/logits.h"
#include "stage/types.h"

namespace lanyard::engine {

// Uniform in [0, 1), a multiple of 2^-53. `position` is where the drawn token will stand.
double UniformDraw(uint64_t seed, uint64_t position);

class Sampler {
 public:
  Sampler(ops::Isa isa, ops::ThreadPool* pool) : isa_(isa), pool_(pool) {}

  // Summarises the row; Internal when it is not finite. `logits` must stay until the next call.
  absl::Status SetRow(const float* logits, int64_t n);
  // `out` has seq and pos; the rest is filled in.
  void Answer(const stage::OutputRequest& request, stage::TokenOut* out);

 private:
  struct Candidate {
    int32_t id;
    float logit;
  };
  // The k largest, descending, ties to the lower id.
  void Largest(int64_t k, std::vector<Candidate>* out) const;
  int32_t Draw(const stage::SampleSpec& spec, uint64_t position);
  int32_t DrawFromAll(float scale, double u);
  void CutTopP(const stage::SampleSpec& spec, bool sorted, std::vector<Candidate>* out) const;

  const ops::Isa isa_;
  ops::ThreadPool* const pool_;
  const float* logits_ = nullptr;
  int64_t n_ = 0;
  ops::LogitStats stats_;
  std::vector<Candidate> candidates_;
  std::vector<float> sums_;
};

}  // namespace lanyard::engine
