// Every route for every kind of caller, over sockets and TLS; keys over HTTP; revocation in the
// middle of an answer.
#include <cctype>

#include "absl/strings/str_replace.h"
#include "base/api_key.h"
#include "tests/front_door/rig.h"
#include "web/api.h"

namespace lanyard::front_door {
namespace {

using nlohmann::json;
using web::Access;

// What stands in the place of a route's "*".
std::string PathOf(const web::Route& route) {
  std::string path = route.path;
  if (!path.empty() && path.back() == '*') path.replace(path.size() - 1, 1, "nothing-like-that");
  return path;
}

// Well-formed, and as harmless as can be: an empty object.
std::string RequestOf(const std::string& method, const std::string& path,
                      const std::string& headers) {
  return method + " " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n" + headers +
         "\r\n{}";
}

// Routes of which a server without a cluster says that it has none.
bool NeedsCluster(const web::Route& route) {
  for (const char* prefix :
       {"/admin/v1/tokens", "/admin/v1/members", "/admin/v1/drains", "/admin/v1/https"}) {
    if (route.path.rfind(prefix, 0) == 0) return true;
  }
  return false;
}

// Other ways to write the path of a route, each of which must meet the same rule.
std::vector<std::string> Spellings(const std::string& path) {
  std::vector<std::string> out = {"/" + path,
                                  path + "/",
                                  path + "//",
                                  "///" + path + "/?x=/",
                                  "http://localhost" + path,
                                  "HTTPS://127.0.0.1:1" + path + "/"};
  std::string coded;
  for (const char c : path) coded += c == '/' ? "/" : absl::StrFormat("%%%02x", c);
  out.push_back(coded);
  out.push_back("/" + absl::StrReplaceAll(path.substr(1), {{"/", "%2F"}}) + "%2f");
  if (path.rfind("/v1/", 0) == 0) {
    out.push_back(path.substr(3));
    out.push_back("/" + path.substr(3) + "/");
  }
  return out;
}

class AccessTest : public Rig {};

// One kind of caller.
struct Who {
  const char* name;
  std::string headers;
  const Identity* identity;
  int rank;  // 0: no credentials, 1: a key, 2: an administrator
};

class CellTest : public AccessTest {
 protected:
  CellTest() {
    UseTls();
    options_.limits.failed_keys_per_second = 10'000;
    Start();
    admin_ = Issue(authority_, {.common_name = "admin-anna", .alternative_names = ""});
    worker_ = Issue(authority_, {.common_name = "worker-1", .alternative_names = ""});
  }
  std::vector<Who> Callers() {
    const std::string good = MakeKey("good").key;
    const std::string expired = MakeKey("expired", 60).key;
    const std::string revoked = MakeKey("revoked").key;
    EXPECT_TRUE(keys_->Revoke("revoked").ok());
    now_ += 61;
    std::string altered = good;
    altered[40] = altered[40] == 'x' ? 'y' : 'x';
    ApiKeyText other_secret = *ApiKeyText::Parse(good);
    other_secret.secret[5] = static_cast<char>(other_secret.secret[5] + 1);
    const auto bearer = [](const std::string& text) {
      return "Authorization: Bearer " + text + "\r\n";
    };
    return {
        {"no credentials", "", nullptr, 0},
        {"an empty Bearer", bearer(""), nullptr, 0},
        {"an unknown key", bearer(ApiKeyText::Make()->Encode()), nullptr, 0},
        {"no key at all", bearer("sk-12345"), nullptr, 0},
        {"an altered key", bearer(altered), nullptr, 0},
        {"a known id, a wrong secret", bearer(other_secret.Encode()), nullptr, 0},
        {"a truncated key", bearer(good.substr(0, 64)), nullptr, 0},
        {"the key with a tail", bearer(good + "A"), nullptr, 0},
        {"two keys", bearer(good + ", " + good), nullptr, 0},
        {"an expired key", bearer(expired), nullptr, 0},
        {"a revoked key", bearer(revoked), nullptr, 0},
        {"the key by Basic", "Authorization: Basic " + good + "\r\n", nullptr, 0},
        {"the key without a scheme", "Authorization: " + good + "\r\n", nullptr, 0},
        {"the key as a cookie", "Cookie: api_key=" + good + "\r\n", nullptr, 0},
        {"a wrong x-api-key", "x-api-key: " + altered + "\r\n", nullptr, 0},
        {"a forwarded user", "X-Forwarded-User: admin\r\nX-OpenWebUI-User-Role: admin\r\n", nullptr,
         0},
        {"a worker's certificate", "", &worker_, 0},
        {"a good key", bearer(good), nullptr, 1},
        {"a good x-api-key", "x-api-key: " + good + "\r\n", nullptr, 1},
        {"a good api-key", "api-key: " + good + "\r\n", nullptr, 1},
        {"a proxy's Basic, a good x-api-key",
         "Authorization: Basic dXNlcjpwYXNz\r\nx-api-key: " + good + "\r\n", nullptr, 1},
        {"a wrong Bearer, a good api-key", bearer(altered) + "api-key: " + good + "\r\n", nullptr,
         1},
        {"a good key, a wrong x-api-key", bearer(good) + "x-api-key: " + altered + "\r\n", nullptr,
         1},
        {"two headers, the second good", bearer(revoked) + bearer(good), nullptr, 1},
        {"three wrong ones", bearer(altered) + "x-api-key: x\r\napi-key: " + revoked + "\r\n",
         nullptr, 0},
        {"a good key, a worker's certificate", bearer(good), &worker_, 1},
        {"an administrator", "", &admin_, 2},
        {"an administrator with an old key", bearer(revoked), &admin_, 2},
    };
  }
  // How the handler likes an empty object is not asked here, but it answers: only what this server
  // does not have (a cluster) may be unavailable, and nothing fails.
  int TryCell(const Who& who, const web::Route& route) {
    return TryCell(who, route, PathOf(route));
  }
  int TryCell(const Who& who, const web::Route& route, const std::string& path) {
    const std::string where = absl::StrCat(who.name, ": ", route.method, " ", path);
    const std::string answer = Ask(RequestOf(route.method, path, who.headers), who.identity);
    const int status = StatusOf(answer);
    CheckCell(who, route, answer, where);
    return status;
  }
  void CheckCell(const Who& who, const web::Route& route, const std::string& answer,
                 const std::string& where) {
    const int status = StatusOf(answer);
    const int needed = route.access == Access::kPublic ? 0 : route.access == Access::kUser ? 1 : 2;
    if (who.rank >= needed) {
      EXPECT_TRUE(status != 401 && status != 403 && status != 429 && status != 0) << where << "\n"
                                                                                  << answer;
      EXPECT_TRUE(status < 500 || (status == 503 && NeedsCluster(route))) << where << "\n"
                                                                          << answer;
      return;
    }
    ASSERT_EQ(status, who.rank == 0 ? 401 : 403) << where << "\n" << answer;
    EXPECT_TRUE(json::parse(BodyOf(answer))["error"].contains("code")) << where;
    EXPECT_EQ(answer.find("WWW-Authenticate: Bearer\r\n") != answer.npos, who.rank == 0) << where;
  }

  Identity admin_;
  Identity worker_;
};

TEST_F(CellTest, EveryRouteForEveryCaller) {
  const web::Router router = web::MakeRouter(&generator_, keys_.get(), nullptr);
  ASSERT_GE(router.routes().size(), 14u);
  int cells = 0;
  for (const Who& who : Callers()) {
    for (const web::Route& route : router.routes()) {
      if (route.path == "/admin/v1/stop" && who.rank == 2) continue;  // below
      TryCell(who, route);
      ++cells;
    }
    // A path that is none.
    EXPECT_EQ(StatusOf(Ask(Get("/nowhere", who.headers), who.identity)), who.rank == 0 ? 401 : 404)
        << who.name;
  }
  EXPECT_FALSE(generator_.shutdown_requested());
  EXPECT_EQ(StatusOf(Ask(Post("/admin/v1/stop", "{}"), &admin_)), 202);
  EXPECT_TRUE(Eventually([&] { return generator_.shutdown_requested(); }));
  std::printf("%d cells\n", cells);
}

// However a path is written, who may ask it is the same.
TEST_F(CellTest, EverySpellingOfAPathMeetsItsRule) {
  const web::Router router = web::MakeRouter(&generator_, keys_.get(), nullptr);
  const std::string key = "api-key: " + MakeKey("k").key + "\r\n";
  const std::vector<Who> callers = {
      {"nobody", "", nullptr, 0}, {"a key", key, nullptr, 1}, {"an administrator", "", &admin_, 2}};
  for (const Who& who : callers) {
    for (const web::Route& route : router.routes()) {
      if (route.path == "/admin/v1/stop" && who.rank == 2) continue;
      const std::string path = PathOf(route);
      const int plain = TryCell(who, route, path);
      // A spelling that led nowhere would be a 404 where the plain one is none.
      for (const std::string& spelling : Spellings(path))
        EXPECT_EQ(TryCell(who, route, spelling), plain)
            << who.name << " " << route.method << " " << spelling;
    }
  }
  EXPECT_FALSE(generator_.shutdown_requested());
}

// A page of another origin gets nothing, an allowed one all but an administrator's routes.
TEST_F(AccessTest, PagesOfOtherOriginsInOpenMode) {
  options_.open = true;
  options_.origins = {"https://chat.example"};
  Start();
  const web::Router router = web::MakeRouter(&generator_, keys_.get(), nullptr);
  for (const web::Route& route : router.routes()) {
    for (const char* type : {"text/plain", "application/json"}) {
      const auto ask = [&](const char* origin) {
        return Ask(RequestOf(route.method, PathOf(route),
                             absl::StrCat("Content-Type: ", type, "\r\nOrigin: ", origin, "\r\n")));
      };
      for (const char* foreign : {"http://localhost:3000", "null", "https://evil.example"}) {
        const std::string answer = ask(foreign);
        EXPECT_EQ(StatusOf(answer), 403) << route.method << " " << route.path << " " << foreign;
        EXPECT_EQ(answer.find("Access-Control"), answer.npos) << answer;
      }
      const std::string answer = ask("https://chat.example");
      const bool form = route.method == "POST" && std::string(type) == "text/plain";
      if (route.access == Access::kAdmin) {
        EXPECT_EQ(StatusOf(answer), 403) << route.path;
        EXPECT_EQ(answer.find("Access-Control"), answer.npos) << answer;
      } else {
        EXPECT_EQ(StatusOf(answer) == 415, form) << answer;
        EXPECT_NE(StatusOf(answer), 403) << answer;
        EXPECT_NE(answer.find("Access-Control-Allow-Origin: https://chat.example\r\n"), answer.npos)
            << answer;
      }
    }
  }
  EXPECT_FALSE(generator_.shutdown_requested());
  EXPECT_TRUE(keys_->List()->empty());
}

// A stranger can learn nothing: what is public is constant, and everything else looks the same.
TEST_F(AccessTest, OneConstantForStrangers) {
  Start();
  const auto health = [&] { return BodyOf(Ask(Get("/health"))); };
  EXPECT_EQ(health(), R"({"status":"ok"})");
  generator_.set_ready(false);
  EXPECT_EQ(health(), R"({"status":"ok"})");
  const std::string refusal = BodyOf(Ask(Get("/v1/models")));
  for (const char* path :
       {"/readyz", "/metrics", "/version", "/livez", "/", "/admin/v1/status", "/admin/v1/keys/x",
        "/nope", "/v1/models/x", "/HEALTH", "/healthz", "/models", "/chat/completions",
        "/admin/nope", "//admin/v1/keys/", "http://localhost/admin/v1/keys"}) {
    const std::string answer = Ask(Get(path));
    EXPECT_EQ(StatusOf(answer), 401) << path;
    EXPECT_EQ(BodyOf(answer), refusal) << path;
  }
  for (const char* path : {"/health/", "//health", "/health%2f", "http://localhost/health"})
    EXPECT_EQ(BodyOf(Ask(Get(path))), R"({"status":"ok"})") << path;
  // Not even the body is read.
  EXPECT_EQ(
      StatusOf(Ask(
          "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n")),
      401);
}

TEST_F(AccessTest, KeysOverHttp) {
  UseTls();
  Start();
  const Identity admin = Issue(authority_, {.common_name = "admin", .alternative_names = ""});
  const std::string made =
      Ask(Post("/admin/v1/keys", R"({"name":"laptop","ttl_seconds":60})"), &admin);
  ASSERT_EQ(StatusOf(made), 201) << made;
  EXPECT_NE(made.find("Cache-Control: no-store"), made.npos);
  const json key = json::parse(BodyOf(made));
  EXPECT_EQ(key["expires_unix_s"], now_.load() + 60);
  EXPECT_EQ(key["revoked_unix_s"], nullptr);
  const std::string bearer = "Authorization: Bearer " + key["key"].get<std::string>() + "\r\n";
  EXPECT_EQ(StatusOf(Ask(Get("/v1/models", bearer))), 200);
  // Its text is in no list.
  const std::string list = BodyOf(Ask(Get("/admin/v1/keys"), &admin));
  EXPECT_EQ(list.find(key["key"].get<std::string>().substr(17)), list.npos);
  EXPECT_EQ(json::parse(list)["keys"][0]["name"], "laptop");
  EXPECT_EQ(json::parse(list)["keys"][0]["last_used_unix_s"], now_.load());

  const auto code = [&](const std::string& body) {
    const std::string answer = Ask(Post("/admin/v1/keys", body), &admin);
    return absl::StrCat(StatusOf(answer), " ", json::parse(BodyOf(answer))["error"]["code"].dump());
  };
  EXPECT_EQ(code(R"({"name":"laptop"})"), "409 \"already_exists\"");
  EXPECT_EQ(code(R"({"name":"a b"})").substr(0, 3), "400");
  EXPECT_EQ(code(R"({})").substr(0, 3), "400");
  EXPECT_EQ(code(R"({"name":5})"), "400 \"invalid_type\"");
  EXPECT_EQ(code(R"({"name":"x","ttl_seconds":-1})").substr(0, 3), "400");
  EXPECT_EQ(code("nonsense"), "400 \"invalid_json\"");

  EXPECT_EQ(
      StatusOf(Ask("DELETE /admin/v1/keys/nobody HTTP/1.1\r\nHost: localhost\r\n\r\n", &admin)),
      404);
  const std::string gone =
      Ask("DELETE /admin/v1/keys/laptop HTTP/1.1\r\nHost: localhost\r\n\r\n", &admin);
  EXPECT_EQ(json::parse(BodyOf(gone))["revoked_unix_s"], now_.load());
  EXPECT_EQ(StatusOf(Ask(Get("/v1/models", bearer))), 401);
}

TEST_F(AccessTest, RevocationEndsRunningAnswersWithinASecond) {
  Start();
  const std::string body = R"({"messages":[{"role":"user","content":"STALL"}],"stream":true})";
  const std::string whole = R"({"messages":[{"role":"user","content":"STALL"}]})";
  double worst_ms = 0;
  for (int i = 0; i < 10; ++i) {
    const auto key = MakeKey(absl::StrCat("k", i));
    const auto other = MakeKey(absl::StrCat("other", i));
    const auto streaming = Connect();
    const auto waiting = Connect();
    const auto bystander = Connect();
    streaming->Send(Post("/v1/chat/completions", body, Bearer(key)));
    waiting->Send(Post("/v1/chat/completions", whole, Bearer(key)));
    bystander->Send(Post("/v1/chat/completions", body, Bearer(other)));
    ASSERT_TRUE(streaming->ReadUntil("assistant") && bystander->ReadUntil("assistant"));
    ASSERT_TRUE(Eventually([&] { return generator_.open() == 3; }));
    const auto start = std::chrono::steady_clock::now();
    ASSERT_TRUE(keys_->Revoke(key.info.id).ok());
    EXPECT_EQ(StatusOf(Ask(Get("/v1/models", Bearer(key)))), 401);
    ASSERT_TRUE(Eventually([&] { return generator_.open() == 1; }));
    worst_ms =
        std::max(worst_ms,
                 std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
                     .count());
    EXPECT_TRUE(streaming->ReadUntil("\r\n0\r\n\r\n"));
    EXPECT_NE(streaming->got().find("invalid_api_key"), std::string::npos) << streaming->got();
    EXPECT_EQ(StatusOf(waiting->ReadAnswer()), 401);
    ASSERT_TRUE(keys_->Revoke(other.info.id).ok());
    ASSERT_TRUE(Eventually([&] { return generator_.open() == 0; }));
  }
  EXPECT_LT(worst_ms, 1000);
  std::printf("revoked to cancelled: at most %.0f ms of 10\n", worst_ms);
}

TEST_F(AccessTest, ExpiryEndsRunningAnswersToo) {
  Start();
  const auto key = MakeKey("k", 60);
  const auto client = Connect();
  client->Send(Post("/v1/chat/completions",
                    R"({"messages":[{"role":"user","content":"STALL"}],"stream":true})",
                    Bearer(key)));
  ASSERT_TRUE(client->ReadUntil("assistant"));
  now_ += 60;
  EXPECT_TRUE(client->ReadUntil("invalid_api_key"));
  EXPECT_TRUE(Eventually([&] { return generator_.open() == 0; }));
}

TEST_F(AccessTest, GuessersWait) {
  Start();
  int refused = 0;
  int told_to_wait = 0;
  for (int i = 0; i < 60; ++i) {
    const int status = StatusOf(Ask(Get("/v1/models", "Authorization: Bearer guess\r\n")));
    refused += status == 401 ? 1 : 0;
    told_to_wait += status == 429 ? 1 : 0;
  }
  EXPECT_EQ(refused + told_to_wait, 60);
  EXPECT_GE(refused, 10);
  EXPECT_GE(told_to_wait, 10);
  EXPECT_EQ(StatusOf(Ask(Get("/v1/models", Bearer(MakeKey("k"))))), 200);
}

TEST_F(AccessTest, WhereItMayListen) {
  const auto start = [&] { return web::HttpServer::Start(options_, &generator_).status(); };
  const auto refused = [&](const char* words) {
    const absl::Status status = start();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << words;
    EXPECT_NE(status.message().find(words), absl::string_view::npos) << status;
  };
  options_.listen = "192.168.77.1:0";
  refused("takes TLS and API keys, and there is no certificate");
  options_.open = true;
  refused("listens on this machine only");
  options_.open = false;
  UseTls();
  options_.keys = nullptr;
  refused("there are no keys");
  options_.keys = keys_.get();
  options_.listen = "8.8.8.8:0";
  refused("--public");
  // With all that it takes, only the machine's lack of the address is left.
  options_.public_address = true;
  EXPECT_EQ(start().code(), absl::StatusCode::kUnavailable);
  options_.listen = "192.168.77.1:0";
  EXPECT_EQ(start().code(), absl::StatusCode::kUnavailable);
  options_.listen = "0.0.0.0:0";
  EXPECT_TRUE(start().ok());
  options_.tls = {};
  options_.listen = "127.0.0.1:0";
  options_.public_address = false;
  EXPECT_TRUE(start().ok());  // keys over plaintext, on this machine
}

}  // namespace
}  // namespace lanyard::front_door
