// The coordinator's side of WeightService.FetchPart. Disks are read on a thread of its own and
// never on gRPC's.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "base/mutex.h"
#include "lanyard/v1/control.grpc.pb.h"
#include "net/control.h"
#include "net/limits.h"
#include "net/peer_guard.h"
#include "net/stream.h"

namespace lanyard::net {

class PartWriter;

class WeightServiceImpl final : public v1::WeightService::CallbackService {
 public:
  // `Guard` says who opened a call.
  using Guard =
      std::function<absl::StatusOr<std::unique_ptr<PeerGuard>>(const grpc::ServerContextBase&)>;
  // `max_chunks`: as kMaxFetchChunks.
  WeightServiceImpl(PartProvider* parts, Guard guard, int max_chunks = kMaxFetchChunks);
  ~WeightServiceImpl() override;  // to be called after the server's Shutdown

  grpc::ServerWriteReactor<v1::PartChunk>* FetchPart(grpc::CallbackServerContext* context,
                                                     const v1::FetchPartRequest* request) override;

 private:
  friend class PartWriter;
  void Enqueue(std::shared_ptr<PartWriter> writer);
  void ChunkDone();
  void ReadLoop(std::stop_token stop);

  PartProvider* const parts_;
  const Guard guard_;
  const int max_chunks_;
  LiveCount live_;
  Mutex mu_;
  CondVar cv_;
  // Fetches whose next chunk is to be read, in order: each gets one and stands at the end again.
  std::deque<std::shared_ptr<PartWriter>> ready_ ABSL_GUARDED_BY(mu_);
  int chunks_ ABSL_GUARDED_BY(mu_) = 0;  // that are being read or written
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::jthread reader_;
};

}  // namespace lanyard::net
