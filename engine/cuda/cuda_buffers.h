// What a card's backend holds besides weights and pages, and where it lies in one allocation: the
// buffers of a step, and the frame's own part (pages, rotations, tiles), which the host fills in
// the same order and uploads.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/backend.h"
#include "engine/ops/cuda/attention.h"

namespace lanyard::engine {

// Single words of device memory that kernels read or write, at the start of the frame's part.
inline constexpr uint32_t kWordRows = 0;
inline constexpr uint32_t kWordNotFinite = 1;
// Numbers of tiles, for each state group in turn: prefill, then each chunk of decode.
inline constexpr uint32_t kWordCounts = 2;

// What a frame of `rows` rows uploads, with offsets in bytes. It is the same for all frames with
// this number of rows, so that a recorded graph finds it again. Everything but the page tables is
// one piece.
struct FrameLayout {
  struct Group {
    // Word with the number of prefill tiles; those of the chunks of decode follow it.
    uint32_t count_word = 0;
    uint64_t slots = 0;
    uint64_t decode_tiles = 0;
    uint64_t prefill_tiles = 0;
    uint64_t page_table = 0;
  };
  FrameLayout() = default;
  // `decode_tiles` is the number in one launch.
  FrameLayout(const StepSizes& sizes, int64_t rows, uint32_t decode_tiles);

  uint64_t words_bytes = 0;
  std::vector<Group> groups;  // one for each state group; none in a stage without layers
  uint64_t rotations = 0;     // [kind][cos, sin][rows][n_rot]
  uint64_t tables = 0;        // position of the first page table
  uint64_t bytes = 0;
};

class CudaLayout {
 public:
  CudaLayout() = default;
  CudaLayout(const StepSizes& sizes, InputForms forms);

  // Offsets in the one allocation; all are multiples of 256.
  uint64_t x = 0, h = 0, work = 0, logits = 0;
  uint64_t quantised = 0, floats = 0;  // rows that enter products
  uint64_t partials = 0;               // of attention, when a row is split
  uint64_t wire = 0;                   // hidden states in wire format
  uint64_t chunk_max = 0, chunk_argmax = 0, chunk_sums = 0, stats = 0;  // for the head's rows
  uint64_t head = 0;   // a word with the number of head rows, then the rows
  uint64_t frame = 0;  // the frame's own part begins here
  uint64_t bytes = 0;  // size of the whole allocation

  uint64_t frame_bytes = 0;  // size of the largest frame

  // The tiles of one launch of AttendDecode: so few that the partial sums of a long context fit.
  uint32_t decode_tiles = 1;

  uint64_t HostBytes()
      // page-locked memory: rows that come in and go out, the frame, logits and their statistics.
      const;
  uint64_t rows_bytes = 0;  // size of hidden states as f32
  uint64_t logit_bytes = 0;
  uint64_t chunks_bytes = 0;  // size of one of the chunk arrays
  uint64_t stats_bytes = 0;
};

}  // namespace lanyard::engine
