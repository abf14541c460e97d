#include "net/weight_service.h"

#include <algorithm>

#include "base/sha256.h"
#include "net/status_codes.h"

namespace lanyard::net {

// One fetch: it reads a chunk (reader thread), writes it (gRPC), and so on to the part's end.
class PartWriter final : public grpc::ServerWriteReactor<v1::PartChunk>,
                         public std::enable_shared_from_this<PartWriter> {
 public:
  PartWriter(WeightServiceImpl* service, std::unique_ptr<PeerGuard> guard,
             const v1::FetchPartRequest& request)
      : service_(service),
        guard_(std::move(guard)),
        sha256_(request.sha256()),
        offset_(request.offset()) {}

  void Begin() {
    self_ = shared_from_this();
    service_->Enqueue(self_);
  }

  ~PartWriter() override {
    guard_.reset();  // its table goes with the server, which waits for live_ alone
    service_->live_.Remove();
  }

  // Runs on the reader thread, never beside a write of this fetch. The fetch may have ended
  // meanwhile. Takes one of the chunks, which ChunkDone gives back.
  void ReadNext(PartProvider* parts) {
    absl::Status status = guard_->Check();
    if (status.ok()) status = OpenOnce(parts);
    if (status.ok() && offset_ < total_bytes_) {
      const size_t n =
          static_cast<size_t>(std::min<uint64_t>(kWeightChunkBytes, total_bytes_ - offset_));
      std::string* data = chunk_.mutable_data();
      data->resize(n);
      status = parts->ReadPart(sha256_, offset_, {reinterpret_cast<uint8_t*>(data->data()), n});
      if (status.ok()) {
        chunk_.set_offset(offset_);
        offset_ += n;
        if (!StartWriteUnlessEnded()) service_->ChunkDone();
        return;
      }
    }
    service_->ChunkDone();
    EndOnce(status);
  }

 private:
  absl::Status OpenOnce(PartProvider* parts) {
    if (opened_) return absl::OkStatus();
    opened_ = true;
    if (!IsSha256Hex(sha256_))
      return InvalidArgument("a part is asked by a digest of 64 hex digits");
    ASSIGN_OR_RETURN(total_bytes_, parts->PartBytes(sha256_));
    if (offset_ > total_bytes_) {
      return absl::OutOfRangeError(
          absl::StrCat("offset ", offset_, " of a part of ", total_bytes_, " bytes"));
    }
    return absl::OkStatus();
  }

  bool StartWriteUnlessEnded() {
    MutexLock lock(&mu_);
    if (!ended_) StartWrite(&chunk_);
    return !ended_;
  }

  void EndOnce(const absl::Status& status) {
    MutexLock lock(&mu_);
    if (ended_) return;
    ended_ = true;
    Finish(ToGrpc(status));
  }

  void OnWriteDone(bool ok) override {
    service_->ChunkDone();
    if (ok) {
      service_->Enqueue(shared_from_this());
    } else {
      EndOnce(Unavailable("the worker is gone"));
    }
  }
  void OnCancel() override { EndOnce(absl::CancelledError("the worker stopped fetching")); }
  void OnDone() override {
    std::shared_ptr<PartWriter> self = std::move(self_);  // the queue may hold another reference
  }

  WeightServiceImpl* const service_;
  std::unique_ptr<PeerGuard> guard_;
  const std::string sha256_;
  uint64_t offset_;
  uint64_t total_bytes_ = 0;
  bool opened_ = false;
  v1::PartChunk chunk_;
  std::shared_ptr<PartWriter> self_;
  Mutex mu_;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
};

namespace {

class RefusedFetch final : public grpc::ServerWriteReactor<v1::PartChunk> {
 public:
  explicit RefusedFetch(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

WeightServiceImpl::WeightServiceImpl(PartProvider* parts, Guard guard, int max_chunks)
    : parts_(parts),
      guard_(std::move(guard)),
      max_chunks_(max_chunks),
      reader_([this](std::stop_token stop) { ReadLoop(stop); }) {}

WeightServiceImpl::~WeightServiceImpl() {
  live_.WaitZero();
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    cv_.NotifyAll();
  }
  reader_.join();
}

grpc::ServerWriteReactor<v1::PartChunk>* WeightServiceImpl::FetchPart(
    grpc::CallbackServerContext* context, const v1::FetchPartRequest* request) {
  absl::StatusOr<std::unique_ptr<PeerGuard>> guard = guard_(*context);
  if (guard.ok()) {
    if (absl::Status role = (*guard)->Expect(identity::Role::kWorker, ""); !role.ok())
      guard = std::move(role);
  }
  if (!guard.ok()) return new RefusedFetch(guard.status());
  if (!live_.Add(kMaxFetches)) {
    return new RefusedFetch(
        Unavailable("the coordinator serves ", kMaxFetches, " fetches already; try again"));
  }
  auto writer = std::make_shared<PartWriter>(this, *std::move(guard), *request);
  writer->Begin();
  return writer.get();
}

void WeightServiceImpl::Enqueue(std::shared_ptr<PartWriter> writer) {
  MutexLock lock(&mu_);
  ready_.push_back(std::move(writer));
  cv_.NotifyOne();
}

void WeightServiceImpl::ChunkDone() {
  MutexLock lock(&mu_);
  --chunks_;
  cv_.NotifyOne();
}

void WeightServiceImpl::ReadLoop(std::stop_token) {
  for (;;) {
    std::shared_ptr<PartWriter> writer;
    {
      MutexLock lock(&mu_);
      while (!stopping_ && (ready_.empty() || chunks_ >= max_chunks_)) cv_.Wait(&mu_);
      if (ready_.empty()) return;
      writer = std::move(ready_.front());
      ready_.pop_front();
      ++chunks_;
    }
    writer->ReadNext(parts_);
  }
}

}  // namespace lanyard::net
