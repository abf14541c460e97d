// A server with a fake pool, a real key ring in a real database, and TLS where it is wanted.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "coordinator/access/key_ring.h"
#include "coordinator/state/store.h"
#include "tests/front_door/client.h"
#include "tests/front_door/pki.h"
#include "web/http_server.h"
#include "web/testing/fake_generator.h"

namespace lanyard::front_door {

class Rig : public ::testing::Test {
 protected:
  Rig() : directory_(::testing::TempDir() + absl::StrCat("front-door-", ::getpid())) {
    std::filesystem::create_directories(directory_);
    store_ = *coordinator::Store::Open(directory_ + "/lanyard.db");
    keys_ = *coordinator::KeyRing::Open(store_.get(), [this] { return now_.load(); });
    options_.listen = "127.0.0.1:0";
    options_.keys = keys_.get();
  }
  ~Rig() override {
    server_.reset();
    keys_.reset();
    store_.reset();
    std::filesystem::remove_all(directory_);
  }

  // Certificates whose common name begins with "admin" are administrators'.
  void UseTls() {
    authority_ = MakeAuthority("cluster");
    identity_ = Issue(authority_,
                      {.common_name = "server", .alternative_names = "DNS:localhost,IP:127.0.0.1"});
    options_.tls = [context = ServerContext(identity_, authority_)] { return context; };
    options_.admin_of = [](const std::string& pem) -> absl::StatusOr<std::string> {
      const std::string name = CommonNameOfPem(pem);
      if (name.rfind("admin", 0) == 0) return name;
      return absl::PermissionDeniedError("not an administrator");
    };
  }
  void Start() {
    auto server = web::HttpServer::Start(options_, &generator_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
  }
  coordinator::NewApiKey MakeKey(const std::string& name, std::optional<int64_t> ttl = {}) {
    const auto key = keys_->Create(name, ttl);
    EXPECT_TRUE(key.ok()) << key.status();
    return key.ok() ? *key : coordinator::NewApiKey{};
  }
  static std::string Bearer(const coordinator::NewApiKey& key) {
    return "Authorization: Bearer " + key.key + "\r\n";
  }
  // Connects by TLS if the server speaks it, with the identity's certificate if there is one.
  std::unique_ptr<Client> Connect(const Identity* identity = nullptr) {
    Client::Options options;
    if (options_.tls) options.tls = ClientContext(authority_, identity);
    return std::make_unique<Client>(server_->address(), options);
  }
  std::string Ask(const std::string& bytes, const Identity* identity = nullptr) {
    const auto client = Connect(identity);
    client->Send(bytes);
    return client->ReadAnswer();
  }
  template <typename F>
  static bool Eventually(F condition, int ms = 5000) {
    for (int i = 0; i < ms / 5; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

  const std::string directory_;
  std::atomic<int64_t> now_{1'800'000'000};
  web::FakeGenerator generator_;
  std::unique_ptr<coordinator::Store> store_;
  std::unique_ptr<coordinator::KeyRing> keys_;
  Identity authority_;
  Identity identity_;
  web::ServerOptions options_;
  std::unique_ptr<web::HttpServer> server_;
};

}  // namespace lanyard::front_door
