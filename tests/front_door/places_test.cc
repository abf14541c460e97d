// One key that opens all the connections it can, beside others, administrators and /health.
#include "tests/front_door/rig.h"

namespace lanyard::front_door {
namespace {

using Clients = std::vector<std::unique_ptr<Client>>;

class PlacesTest : public Rig {
 protected:
  PlacesTest() {
    UseTls();
    options_.limits.max_connections = 60;
    options_.limits.reserved_connections = 20;  // 40 for completions, of one key 20
    Start();
    admin_ = Issue(authority_, {.common_name = "admin-anna", .alternative_names = ""});
  }
  static std::string Stall(const coordinator::NewApiKey& key) {
    return Post("/v1/completions", R"({"prompt":"STALL","stream":true})", Bearer(key));
  }
  // As many answers as the server lets one key have open.
  Clients Fill(const coordinator::NewApiKey& key, size_t n) {
    Clients streams;
    for (size_t i = 0; i < n; ++i) {
      streams.push_back(Connect());
      streams.back()->Send(Stall(key));
      EXPECT_TRUE(streams.back()->ReadUntil("text/event-stream")) << i;
    }
    return streams;
  }
  Identity admin_;
};

TEST_F(PlacesTest, OneKeyHasHalf) {
  const auto anna = MakeKey("anna"), bob = MakeKey("bob"), eve = MakeKey("eve");
  Clients annas = Fill(anna, 20);
  const std::string refused = Ask(Stall(anna));
  EXPECT_EQ(StatusOf(refused), 429);
  EXPECT_NE(refused.find("You have 20 requests open with this key"), refused.npos) << refused;
  EXPECT_NE(refused.find("\r\nRetry-After: 5\r\n"), refused.npos);
  // What takes no place is answered.
  EXPECT_EQ(StatusOf(Ask(Get("/v1/models", Bearer(anna)))), 200);
  const Clients bobs = Fill(bob, 20);
  const std::string full = Ask(Stall(eve));
  EXPECT_EQ(StatusOf(full), 503);
  EXPECT_NE(full.find("All 40 places"), full.npos) << full;
  // A place that is left is free again.
  annas.pop_back();
  ASSERT_TRUE(Eventually([&] { return StatusOf(Ask(Stall(eve))) == 200; }));
}

TEST_F(PlacesTest, AdministratorsAndHealthGetThrough) {
  const auto anna = MakeKey("anna"), bob = MakeKey("bob");
  const Clients annas = Fill(anna, 20), bobs = Fill(bob, 20);
  // And all that there is beside them: some that asked and stay, some that say nothing, some that
  // ask for more than their share and stay.
  Clients others;
  for (int i = 0; i < 60; ++i) {
    others.push_back(Connect());
    if (i % 3 == 0) others.back()->Send(Get("/v1/models", Bearer(anna)));
    if (i % 3 == 1) others.back()->Send(Stall(anna));
  }
  EXPECT_TRUE(Eventually([&] { return server_->connections() <= 60; }));
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(StatusOf(Ask(Get("/health"))), 200);
    EXPECT_EQ(StatusOf(Ask(Get("/admin/v1/status"), &admin_)), 200);
  }
  const std::string revoke = "DELETE /admin/v1/keys/anna HTTP/1.1\r\nHost: localhost\r\n\r\n";
  EXPECT_EQ(StatusOf(Ask(revoke, &admin_)), 200);
  for (const auto& stream : annas) EXPECT_TRUE(stream->ReadUntil("revoked"));
  // No answer of others has ended for any of that.
  EXPECT_TRUE(Eventually([&] { return generator_.open() == 20; })) << generator_.open();
}

// A connection that is kept between requests holds no place.
TEST_F(PlacesTest, IdleConnectionsMakeRoom) {
  const auto anna = MakeKey("anna");
  Clients idle;
  for (int i = 0; i < 100; ++i) {
    idle.push_back(Connect());
    idle.back()->Send(Post("/v1/completions", R"({"prompt":"hi"})", Bearer(anna)));
    EXPECT_EQ(StatusOf(idle.back()->ReadAnswer()), 200) << i;
  }
  EXPECT_LE(server_->connections(), 61u);
  EXPECT_TRUE(idle.front()->ReadToEnd());
}

}  // namespace
}  // namespace lanyard::front_door
