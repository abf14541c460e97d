// The bounds of everything that arrives. They are tested before anything is allocated for a field.
#pragma once

#include <cstddef>
#include <cstdint>

#include "stage/validate.h"

namespace lanyard::net {

// Hidden states of one frame: 512 rows x 32768 x f32.
inline constexpr size_t kMaxFrameBytes = size_t{64} << 20;
// A frame with its block tables.
inline constexpr size_t kMaxFrameMessageBytes = kMaxFrameBytes + (size_t{4} << 20);
inline constexpr size_t kMaxControlMessageBytes = size_t{8} << 20;
inline constexpr size_t kMaxResultMessageBytes = size_t{8} << 20;
inline constexpr size_t kMaxQueuedBytes = size_t{64}  // Bytes queued on one stream, beyond the
                                                      // message being written.
                                          << 20;
inline constexpr size_t kWeightChunkBytes = size_t{256} << 10;

inline constexpr int kMaxRuns = 512;
inline constexpr int kMaxFrameSubmessages = 1 << 16;  // runs, tables and outputs together
inline constexpr int kMaxGroups = 16;                 // state groups of a model
inline constexpr int kMaxBlocks = 1 << 20;            // blocks of one table: 32 M tokens
inline constexpr int kMaxTop = stage::kMaxTopLogits;
inline constexpr int kMaxWant = stage::kMaxWantLogits;
inline constexpr int kMaxTokensOut = stage::kMaxFrameRows * stage::kMaxOutputsPerRow;
inline constexpr int kMaxLayers = 1024;
inline constexpr int kMaxParts = kMaxLayers + 8;
inline constexpr int kMaxTensorsOfPart = 4096;
inline constexpr int kMaxDims = 4;
inline constexpr int kMaxDevices = 64;       // a worker's devices beside its processor
inline constexpr size_t kMaxNameBytes = 64;  // a worker's name
inline constexpr size_t kMaxAddressBytes = 256;
inline constexpr size_t kMaxTextBytes = 4096;  // text of an error
inline constexpr int kMaxLinks = 4096;
inline constexpr size_t kMaxStreamsOfNode = 24;  // a node's streams of every kind, into one server
inline constexpr int kFirstMessageMs = 3000;  // time from a stream's opening to its first message
inline constexpr int kMaxStreams = 64;        // streams of frames into one worker
// Fetches of parts that a coordinator has open; the next one is told to come again.
inline constexpr int kMaxFetches = 1024;
// Chunks of all fetches in memory. They take turns, so that every worker comes forward.
inline constexpr int kMaxFetchChunks = 256;
inline constexpr int kMaxDiagnoseTargets = 64;  // peers that a worker measures for one request
inline constexpr int kMaxProbes = 4;       // streams that carry pings only, into one worker at once
inline constexpr int kMaxProbePings = 64;  // pings of one such stream
inline constexpr size_t kMaxProbePingBytes = size_t{1} << 20;
inline constexpr size_t kMaxProbeBytes = size_t{8} << 20;  // bytes of all its pings

}  // namespace lanyard::net
