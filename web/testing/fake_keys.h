// ApiKeys in memory: "good" is a key until Revoke; no other text is one.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "base/api_key.h"
#include "coordinator/access/api_keys.h"

namespace lanyard::web {

class FakeKeys : public coordinator::ApiKeys {
 public:
  explicit FakeKeys(std::string good) : good_(std::move(good)) {}

  absl::StatusOr<std::string> Check(std::string_view presented) override {
    ++checks;
    if (live && presented == good_) return id;
    return NotAnApiKey();
  }
  bool IsLive(std::string_view key_id) const override { return live && key_id == id; }
  absl::StatusOr<coordinator::NewApiKey> Create(std::string_view, std::optional<int64_t>) override {
    return absl::AlreadyExistsError("there is one");
  }
  absl::StatusOr<std::vector<coordinator::ApiKeyInfo>> List() override {
    return std::vector<coordinator::ApiKeyInfo>{};
  }
  absl::StatusOr<coordinator::ApiKeyInfo> Revoke(std::string_view) override {
    live = false;
    return coordinator::ApiKeyInfo{};
  }
  void Flush() override {}

  std::string id = "0123456789ab";
  std::atomic<bool> live{true};
  std::atomic<int> checks{0};

 private:
  const std::string good_;
};

}  // namespace lanyard::web
