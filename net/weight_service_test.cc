#include "net/weight_service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "net/coordinator_client.h"
#include "net/testing_util.h"

namespace lanyard::net {
namespace {

constexpr uint64_t kChunks = 12;
constexpr uint64_t kPartBytes = kChunks * kWeightChunkBytes + 5;

// One part, whose bytes follow from their place.
class Pattern final : public PartProvider {
 public:
  static uint8_t At(uint64_t i) { return static_cast<uint8_t>(i * 31 + i / 1000); }
  absl::StatusOr<uint64_t> PartBytes(std::string_view) override {
    ++opened;
    return kPartBytes;
  }
  absl::Status ReadPart(std::string_view, uint64_t offset, std::span<uint8_t> out) override {
    for (size_t i = 0; i < out.size(); ++i) out[i] = At(offset + i);
    return absl::OkStatus();
  }
  std::atomic<int> opened{0};
};

class WeightServiceTest : public ::testing::Test {
 protected:
  void Start(int max_chunks) {
    service_ = std::make_unique<WeightServiceImpl>(
        &parts_,
        [this](const grpc::ServerContextBase& context) {
          return PeerGuard::Open({}, context, &table_);
        },
        max_chunks);
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    address_ = absl::StrCat("127.0.0.1:", port);
  }
  ~WeightServiceTest() override {
    if (server_ != nullptr) server_->Shutdown();
    service_.reset();
  }

  // `first` is called with the first bytes. The error, or whether all bytes came and are right.
  absl::Status Fetch(const std::function<void()>& first) {
    WeightClient client({address_});
    uint64_t at = 0;
    bool right = true;
    const absl::Status status = client.Fetch(std::string(64, 'a'), 0, {},
                                             [&](std::span<const uint8_t> data) -> absl::Status {
                                               if (at == 0) first();
                                               for (size_t i = 0; i < data.size(); i += 997)
                                                 right &= data[i] == Pattern::At(at + i);
                                               at += data.size();
                                               return absl::OkStatus();
                                             });
    RETURN_IF_ERROR(status);
    return right && at == kPartBytes ? absl::OkStatus() : absl::DataLossError("wrong bytes");
  }

  // Fetches `n` times at once, and returns the errors.
  std::vector<absl::Status> FetchAll(int n, const std::function<void()>& first) {
    std::vector<absl::Status> results(n);
    std::vector<std::jthread> threads;
    for (int i = 0; i < n; ++i)
      threads.emplace_back([this, &results, &first, i] { results[i] = Fetch(first); });
    threads.clear();
    std::vector<absl::Status> errors;
    for (const absl::Status& status : results) {
      if (!status.ok()) errors.push_back(status);
    }
    return errors;
  }

  Pattern parts_;
  PeerTable table_;
  std::unique_ptr<WeightServiceImpl> service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

// Each waits with its first bytes until all have theirs: none was refused, none had to wait for
// another's end.
TEST_F(WeightServiceTest, MoreThan64FetchesRunAtOnce) {
  Start(kMaxFetchChunks);
  constexpr int kFetches = 100;
  std::atomic<int> begun{0}, together{0};
  const auto errors = FetchAll(kFetches, [&] {
    ++begun;
    if (testing::WaitFor([&] { return begun == kFetches; }, 20'000)) ++together;
  });
  EXPECT_TRUE(errors.empty()) << errors.size() << " failed, the first: " << errors[0];
  EXPECT_EQ(together.load(), kFetches);
  EXPECT_EQ(parts_.opened.load(), kFetches);
}

// With hardly any memory for chunks they take turns.
TEST_F(WeightServiceTest, FetchesWaitForEachOther) {
  Start(2);
  const auto errors = FetchAll(20, [] {});
  EXPECT_TRUE(errors.empty()) << errors.size() << " failed, the first: " << errors[0];
}

// A fetch that ends in the middle gives its chunk back.
TEST_F(WeightServiceTest, AbandonedFetchesHoldNothing) {
  Start(2);
  WeightClient client({address_});
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(absl::IsInternal(client.Fetch(
        std::string(64, 'a'), 0, {}, [](std::span<const uint8_t>) { return Internal("enough"); })));
  }
  EXPECT_TRUE(
      absl::IsOutOfRange(client.Fetch(std::string(64, 'a'), kPartBytes + 1, {},
                                      [](std::span<const uint8_t>) { return absl::OkStatus(); })));
  EXPECT_TRUE(Fetch([] {}).ok());
}

}  // namespace
}  // namespace lanyard::net
