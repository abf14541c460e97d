#include "web/gate.h"

#include <gtest/gtest.h>

#include "base/api_key.h"
#include "web/testing/fake_keys.h"

namespace lanyard::web {
namespace {

class GateTest : public ::testing::Test {
 protected:
  GateTest() : key_(*ApiKeyText::Make()), keys_(key_.Encode()) {
    keys_.id = key_.id;
    options_.keys = &keys_;
    options_.admin_of = [this](const std::string& pem) -> absl::StatusOr<std::string> {
      if (pem == "admin" && admin_valid_) return std::string("anna");
      return absl::PermissionDeniedError("no administrator");
    };
  }
  Gate::Verdict Enter(Gate& gate, const Credentials& credentials, std::optional<Access> access) {
    return gate.Enter(credentials, access, now_);
  }
  int Code(Gate& gate, const Credentials& credentials, std::optional<Access> access) {
    const auto verdict = Enter(gate, credentials, access);
    return verdict.refused.has_value() ? verdict.refused->status : 200;
  }
  std::string Bearer() const { return "Bearer " + key_.Encode(); }

  const ApiKeyText key_;
  FakeKeys keys_;
  GateOptions options_;
  bool admin_valid_ = true;
  TimeNs now_ = kSecond;
};

TEST_F(GateTest, Schemes) {
  Gate gate(options_);
  const std::string key = key_.Encode();
  for (const std::string& good : {"Bearer " + key, "bearer " + key, "BEARER   " + key + " "}) {
    EXPECT_EQ(Code(gate, {.authorization = {good}, .client = "c"}, Access::kUser), 200)
        << good.substr(0, 8);
  }
  EXPECT_EQ(Code(gate, {.api_keys = {key}, .client = "c"}, Access::kUser), 200);
  for (const std::string& bad :
       {key, "Basic " + key, "Bearer" + key, std::string("Bearer "), std::string("Bearer x")}) {
    EXPECT_EQ(Code(gate, {.authorization = {bad}, .client = "d"}, Access::kUser), 401)
        << bad.substr(0, 8);
  }
  const auto verdict = Enter(gate, {}, Access::kUser);
  ASSERT_TRUE(verdict.refused.has_value());
  EXPECT_EQ(verdict.refused->headers.at(0),
            std::make_pair(std::string("WWW-Authenticate"), std::string("Bearer")));
}

TEST_F(GateTest, OneRightKeyIsEnough) {
  Gate gate(options_);
  const std::string key = key_.Encode();
  const std::string bearer = Bearer();
  // What a proxy adds for itself, and what a client adds by habit, does not hide it.
  for (const Credentials& c :
       {Credentials{.authorization = {"Basic dXNlcjpwYXNz"}, .api_keys = {key}},
        Credentials{.authorization = {"Bearer x"}, .api_keys = {key}},
        Credentials{.authorization = {bearer}, .api_keys = {"x"}},
        Credentials{.authorization = {"Basic dXNlcjpwYXNz", bearer}},
        Credentials{.api_keys = {"", "x", key}}}) {
    EXPECT_EQ(Code(gate, c, Access::kUser), 200);
    EXPECT_EQ(Enter(gate, c, Access::kUser).caller.key_id, key_.id);
    EXPECT_EQ(Code(gate, c, Access::kAdmin), 403);
  }
  // Guesses are counted one by one, however many come in a request, and beyond four are not tried.
  const int before = keys_.checks;
  EXPECT_EQ(Code(gate,
                 {.authorization = {"Bearer a", "Bearer b"},
                  .api_keys = {"c", "d", "e", "f", key},
                  .client = "g"},
                 Access::kUser),
            401);
  EXPECT_EQ(keys_.checks, before + 4);
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(Code(gate, {.api_keys = {"a", "b", "c"}, .client = "g"}, Access::kUser), 401);
  EXPECT_EQ(Code(gate, {.api_keys = {"a"}, .client = "g"}, Access::kUser), 429);
  EXPECT_EQ(Code(gate, {.api_keys = {"a", key}, .client = "g"}, Access::kUser), 200);
  // A scheme that holds no key is no guess.
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(Code(gate, {.authorization = {"Basic x"}, .client = "h"}, Access::kUser), 401);
}

TEST_F(GateTest, AKeyIsNoAdministrator) {
  Gate gate(options_);
  const std::string bearer = Bearer();
  EXPECT_EQ(Code(gate, {.authorization = {bearer}}, Access::kAdmin), 403);
  EXPECT_EQ(Code(gate, {.peer_certificate_pem = "admin"}, Access::kAdmin), 200);
  EXPECT_EQ(Code(gate, {.peer_certificate_pem = "worker"}, Access::kAdmin), 401);
  EXPECT_EQ(
      Code(gate, {.authorization = {bearer}, .peer_certificate_pem = "worker"}, Access::kAdmin),
      403);
  EXPECT_EQ(
      Code(gate, {.authorization = {bearer}, .peer_certificate_pem = "worker"}, Access::kUser),
      200);
  // To a stranger a path that is none looks like one that is.
  EXPECT_EQ(Code(gate, {}, std::nullopt), 401);
  EXPECT_EQ(Code(gate, {.authorization = {bearer}}, std::nullopt), 200);
  EXPECT_EQ(Code(gate, {}, Access::kPublic), 200);
}

TEST_F(GateTest, StillMay) {
  Gate gate(options_);
  const std::string bearer = Bearer();
  const Caller user = Enter(gate, {.authorization = {bearer}}, Access::kUser).caller;
  const Caller admin = Enter(gate, {.peer_certificate_pem = "admin"}, Access::kAdmin).caller;
  EXPECT_EQ(admin.admin, "anna");
  EXPECT_TRUE(gate.StillMay(user, ""));
  EXPECT_TRUE(gate.StillMay(admin, "admin"));
  keys_.live = false;
  admin_valid_ = false;
  EXPECT_FALSE(gate.StillMay(user, ""));
  EXPECT_FALSE(gate.StillMay(admin, "admin"));
  EXPECT_TRUE(gate.StillMay(Caller{}, ""));
}

TEST_F(GateTest, GuessingCosts) {
  Gate gate(options_);
  const std::string bearer = Bearer();
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(Code(gate, {.authorization = {"Bearer guess"}, .client = "c"}, Access::kUser), 401)
        << i;
  }
  const int checked = keys_.checks;
  EXPECT_EQ(Code(gate, {.authorization = {"Bearer guess"}, .client = "c"}, Access::kUser), 429);
  EXPECT_EQ(keys_.checks, checked) << "a guess was looked at";
  // Others are not hurt: a true key from that very address, and every other address.
  EXPECT_EQ(Code(gate, {.authorization = {bearer}, .client = "c"}, Access::kUser), 200);
  EXPECT_EQ(Code(gate, {.authorization = {"Bearer guess"}, .client = "d"}, Access::kUser), 401);
  now_ += kSecond / 10;
  EXPECT_EQ(Code(gate, {.authorization = {"Bearer guess"}, .client = "c"}, Access::kUser), 401);
  EXPECT_EQ(Code(gate, {.authorization = {"Bearer guess"}, .client = "c"}, Access::kUser), 429);
  // Guesses at the secret of a known id have a measure of their own, which then holds for the true
  // key too.
  ApiKeyText guess = key_;
  guess.secret[0] = static_cast<char>(guess.secret[0] ^ 1);
  const std::string wrong = "Bearer " + guess.Encode();
  for (int i = 0; i < 10; ++i)
    EXPECT_EQ(Code(gate, {.authorization = {wrong}, .client = "e"}, Access::kUser), 401) << i;
  EXPECT_EQ(Code(gate, {.authorization = {bearer}, .client = "e"}, Access::kUser), 429);
  EXPECT_EQ(Code(gate, {.authorization = {bearer}, .client = "f"}, Access::kUser), 200);
}

TEST_F(GateTest, ManyAddressesTakeLittleMemory) {
  FailureLimiter limiter(10, 10);
  for (int i = 0; i < 100'000; ++i) limiter.Failed(absl::StrCat(i), now_);
  EXPECT_LE(limiter.size(), 4097u);
  EXPECT_TRUE(limiter.IsBlocked("someone new", now_));  // they share one
  EXPECT_FALSE(limiter.IsBlocked("5", now_));
  now_ += 2 * kSecond;
  EXPECT_FALSE(limiter.IsBlocked("someone new", now_));
  limiter.Failed("someone new", now_);
  EXPECT_LE(limiter.size(), 2u);
}

TEST_F(GateTest, OpenLetsEverybodyDoEverything) {
  options_.open = true;
  Gate gate(options_);
  EXPECT_EQ(Code(gate, {}, Access::kAdmin), 200);
  EXPECT_EQ(Code(gate, {.authorization = {"Bearer nonsense"}}, Access::kUser), 200);
}

TEST_F(GateTest, WithoutKeysAndAdministratorsNobodyEnters) {
  Gate gate{GateOptions{}};
  const std::string bearer = Bearer();
  EXPECT_EQ(Code(gate, {.authorization = {bearer}}, Access::kUser), 401);
  EXPECT_EQ(Code(gate, {.peer_certificate_pem = "admin"}, Access::kAdmin), 401);
}

}  // namespace
}  // namespace lanyard::web
