#include "coordinator/access/key_ring.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/api_key.h"

namespace lanyard::coordinator {
namespace {

class KeyRingTest : public ::testing::Test {
 protected:
  KeyRingTest() : directory_(::testing::TempDir() + absl::StrCat("keys-", ::getpid())) {
    std::filesystem::create_directories(directory_);
    Reopen();
  }
  ~KeyRingTest() override {
    ring_.reset();
    store_.reset();
    std::filesystem::remove_all(directory_);
  }
  void Reopen() {
    ring_.reset();
    store_.reset();
    auto store = Store::Open(directory_ + "/lanyard.db");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
    auto ring = KeyRing::Open(store_.get(), [this] { return now_; });
    ASSERT_TRUE(ring.ok()) << ring.status();
    ring_ = std::move(*ring);
  }
  NewApiKey Make(std::string_view name, std::optional<int64_t> ttl = {}) {
    const auto key = ring_->Create(name, ttl);
    EXPECT_TRUE(key.ok()) << key.status();
    return key.ok() ? *key : NewApiKey{};
  }
  std::string Disk() const {
    std::string all;
    for (const auto& file : std::filesystem::directory_iterator(directory_)) {
      std::ifstream in(file.path(), std::ios::binary);
      all.append(std::istreambuf_iterator<char>(in), {});
    }
    return all;
  }

  const std::string directory_;
  int64_t now_ = 1'800'000'000;
  std::unique_ptr<Store> store_;
  std::unique_ptr<KeyRing> ring_;
};

TEST_F(KeyRingTest, AKeysLife) {
  const NewApiKey key = Make("laptop");
  EXPECT_EQ(*ring_->Check(key.key), key.info.id);
  EXPECT_TRUE(ring_->IsLive(key.info.id));
  Reopen();
  EXPECT_EQ(*ring_->Check(key.key), key.info.id);
  const auto revoked = ring_->Revoke("laptop");
  ASSERT_TRUE(revoked.ok()) << revoked.status();
  EXPECT_EQ(revoked->revoked_unix_s, now_);
  EXPECT_FALSE(ring_->Check(key.key).ok());
  EXPECT_FALSE(ring_->IsLive(key.info.id));
  Reopen();
  EXPECT_FALSE(ring_->Check(key.key).ok());
  // The name is free again; the old key stays what it is.
  const NewApiKey second = Make("laptop");
  EXPECT_TRUE(ring_->Check(second.key).ok());
  EXPECT_FALSE(ring_->Check(key.key).ok());
  EXPECT_EQ(ring_->List()->size(), 2u);
  EXPECT_EQ(ring_->Revoke("laptop")->id, second.info.id);
  EXPECT_EQ(ring_->Revoke(key.info.id)->id, key.info.id);  // again, by id: still revoked
  EXPECT_EQ(ring_->Revoke("laptop").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(KeyRingTest, Expiry) {
  const NewApiKey key = Make("guest", 60);
  EXPECT_EQ(key.info.expires_unix_s, now_ + 60);
  now_ += 59;
  EXPECT_TRUE(ring_->Check(key.key).ok());
  now_ += 1;
  EXPECT_FALSE(ring_->Check(key.key).ok());
  EXPECT_FALSE(ring_->IsLive(key.info.id));
  for (const int64_t bad : {int64_t{0}, int64_t{-5}, kMaxApiKeySeconds + 1, INT64_MAX, INT64_MIN}) {
    EXPECT_EQ(ring_->Create("x", bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST_F(KeyRingTest, EveryRefusalSoundsTheSame) {
  const NewApiKey live = Make("live");
  const NewApiKey expired = Make("expired", 1);
  const NewApiKey revoked = Make("revoked");
  ASSERT_TRUE(ring_->Revoke("revoked").ok());
  now_ += 10;
  ApiKeyText other_secret = *ApiKeyText::Parse(live.key);
  other_secret.secret[31] = static_cast<char>(other_secret.secret[31] ^ 1);
  std::string mistyped = live.key;
  mistyped[30] = mistyped[30] == 'a' ? 'b' : 'a';
  for (const std::string& bad : {expired.key, revoked.key, other_secret.Encode(), mistyped,
                                 ApiKeyText::Make()->Encode(), std::string(), std::string("sk-1"),
                                 live.key.substr(1), live.key + "x", std::string(1000, 'x')}) {
    EXPECT_EQ(ring_->Check(bad).status(), NotAnApiKey());
  }
  EXPECT_TRUE(ring_->Check(live.key).ok());
}

TEST_F(KeyRingTest, Names) {
  Make("anna@pc-1.example");
  EXPECT_EQ(ring_->Create("anna@pc-1.example", {}).status().code(),
            absl::StatusCode::kAlreadyExists);
  for (const std::string& bad :
       {std::string(), std::string(65, 'a'), std::string("a b"), std::string("a\n"),
        std::string("0123456789ab"), std::string("\xc3\xa9"), std::string("a/b")}) {
    EXPECT_EQ(ring_->Create(bad, {}).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST_F(KeyRingTest, LastUseIsCoarseAndOutlivesTheProcess) {
  const NewApiKey key = Make("k");
  EXPECT_FALSE(ring_->List()->at(0).last_used_unix_s.has_value());
  ASSERT_TRUE(ring_->Check(key.key).ok());
  const int64_t first = now_;
  now_ += 59;
  ASSERT_TRUE(ring_->Check(key.key).ok());
  EXPECT_EQ(ring_->List()->at(0).last_used_unix_s, first);
  now_ += 1;
  ASSERT_TRUE(ring_->Check(key.key).ok());
  Reopen();
  EXPECT_EQ(ring_->List()->at(0).last_used_unix_s, first + 60);
}

TEST_F(KeyRingTest, TheSecretIsNowhereOnTheDisk) {
  const NewApiKey key = Make("k");
  ASSERT_TRUE(ring_->Check(key.key).ok());
  Reopen();
  const std::string disk = Disk();
  EXPECT_NE(disk.find(key.info.id), std::string::npos);  // the search finds what is there
  EXPECT_EQ(disk.find(ApiKeyText::Parse(key.key)->secret), std::string::npos);
  EXPECT_EQ(disk.find(key.key.substr(17)), std::string::npos);
}

}  // namespace
}  // namespace lanyard::coordinator
