// Router, error table, chunk format, exchange, handlers: all without sockets.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "web/api.h"
#include "web/completion_handler.h"
#include "web/errors.h"
#include "web/exchange.h"
#include "web/openai_format.h"
#include "web/testing/fake_generator.h"

namespace lanyard::web {
namespace {

using nlohmann::json;

class Recorder : public ResponseWriter {
 public:
  void Send(Response r) override {
    MutexLock lock(&mu_);
    response_ = std::move(r);
    done_ = true;
    cv_.NotifyAll();
  }
  void BeginStream() override {
    MutexLock lock(&mu_);
    ++begun_;
  }
  void Write(std::string events) override {
    MutexLock lock(&mu_);
    events_ += events;
  }
  void End() override {
    MutexLock lock(&mu_);
    done_ = true;
    cv_.NotifyAll();
  }
  void OnGone(std::function<void()> callback) override {
    MutexLock lock(&mu_);
    gone_ = std::move(callback);
  }
  bool Gone() override { return false; }
  bool Wait() {
    MutexLock lock(&mu_);
    while (!done_) {
      if (!cv_.WaitFor(&mu_, std::chrono::seconds(5))) return false;
    }
    return true;
  }
  Response response() {
    MutexLock lock(&mu_);
    return response_;
  }
  std::string events() {
    MutexLock lock(&mu_);
    return events_;
  }
  int begun() {
    MutexLock lock(&mu_);
    return begun_;
  }
  void Leave() {
    std::function<void()> gone;
    {
      MutexLock lock(&mu_);
      gone = gone_;
    }
    if (gone) gone();
  }

 private:
  Mutex mu_;
  CondVar cv_;
  Response response_ ABSL_GUARDED_BY(mu_);
  std::string events_ ABSL_GUARDED_BY(mu_);
  int begun_ ABSL_GUARDED_BY(mu_) = 0;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  std::function<void()> gone_ ABSL_GUARDED_BY(mu_);
};

Response Call(coordinator::Generator* g, const std::string& method, const std::string& path,
              const std::string& body = "") {
  const Router router = MakeRouter(g, nullptr, nullptr);
  const Router::Match match = router.Find(method, path);
  if (match.route == nullptr) return match.error;
  auto recorder = std::make_shared<Recorder>();
  Request request;
  request.method = method;
  request.path = path;
  request.suffix = match.suffix;
  request.body = body;
  request.request_id = "r1";
  match.route->handler(request, recorder);
  EXPECT_TRUE(recorder->Wait());
  return recorder->response();
}

// The data of every event of a stream.
std::vector<std::string> Events(const std::string& stream) {
  std::vector<std::string> out;
  size_t at = 0;
  while (at < stream.size()) {
    const size_t end = stream.find("\n\n", at);
    EXPECT_NE(end, std::string::npos);
    EXPECT_EQ(stream.substr(at, 6), "data: ");
    out.push_back(stream.substr(at + 6, end - at - 6));
    at = end + 2;
  }
  return out;
}

std::vector<std::string> Stream(coordinator::Generator* g, const std::string& path,
                                const std::string& body) {
  auto recorder = std::make_shared<Recorder>();
  Request request;
  request.body = body;
  request.request_id = "r1";
  (path == "chat" ? HandleChatCompletion : HandleTextCompletion)(g, request, recorder);
  EXPECT_TRUE(recorder->Wait());
  EXPECT_EQ(recorder->begun(), 1);
  return Events(recorder->events());
}

TEST(RouterTest, DeniesByDefault) {
  FakeGenerator g;
  EXPECT_EQ(Call(&g, "GET", "/nothing").status, 404);
  EXPECT_EQ(Call(&g, "GET", "/v1/models/").status, 404);
  const Response wrong = Call(&g, "GET", "/v1/chat/completions");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers.at(0), std::make_pair(std::string("Allow"), std::string("POST")));
  EXPECT_EQ(json::parse(wrong.body)["error"]["code"], "method_not_allowed");
  EXPECT_EQ(Call(&g, "HEAD", "/health").status, 200);
}

TEST(RouterTest, OnePathForEverySpelling) {
  const auto path = [](const char* text) {
    Target target;
    return ParseTarget(text, &target) ? target.authority + "|" + target.path : "malformed";
  };
  EXPECT_EQ(path("/v1/models/a%2Fb%3a1?x=1#y"), "|/v1/models/a/b:1");
  EXPECT_EQ(path("/"), "|/");
  for (const char* same : {"/v1/models", "/v1/models/", "//v1/models", "//v1//models//",
                           "/v1%2fmodels", "/v1/models%2F", "/v1/models/?a=/b/"}) {
    EXPECT_EQ(path(same), "|/v1/models") << same;
  }
  EXPECT_EQ(path("http://pc1:8080/v1/models/"), "pc1:8080|/v1/models");
  EXPECT_EQ(path("HTTPS://[::1]"), "[::1]|/");
  EXPECT_EQ(path("http://h?x=/y"), "h|/");
  for (const char* bad :
       {"", "x", "?x", "http://", "http:///x", "http:/h/x", "ftp://h/x", "http://user@h/x",
        "http://h/%", "/%", "/%2", "/%zz", "/%00", "*", "h:443"})
    EXPECT_EQ(path(bad), "malformed") << bad;
  // Dots are no way up: they stay what they are, and are no route.
  EXPECT_EQ(path("/v1/../admin/v1/status"), "|/v1/../admin/v1/status");
}

TEST(RouterTest, RoutesUnderV1GoWithoutIt) {
  FakeGenerator g;
  const Router router = MakeRouter(&g, nullptr, nullptr);
  for (const Route& route : router.routes()) {
    if (route.path.rfind("/v1/", 0) != 0) {
      EXPECT_EQ(router.Find(route.method, "/v1" + route.path).route, nullptr) << route.path;
      continue;
    }
    EXPECT_EQ(route.access, Access::kUser) << route.path;
    std::string path = route.path.substr(3);
    if (path.back() == '*') path.back() = 'x';
    EXPECT_EQ(router.Find(route.method, path).route, &route) << path;
  }
  EXPECT_EQ(Call(&g, "DELETE", "/models").status, 405);
  EXPECT_EQ(router.Find("GET", "/models/a/b").suffix, "a/b");
  EXPECT_EQ(router.Find("GET", "/v1/v1/models").route, nullptr);
}

TEST(Errors, StatusTable) {
  const auto code = [](const absl::Status& s) { return ToResponse(s).status; };
  EXPECT_EQ(code(absl::InvalidArgumentError("x")), 400);
  EXPECT_EQ(code(absl::OutOfRangeError("x")), 400);
  EXPECT_EQ(code(absl::NotFoundError("x")), 404);
  EXPECT_EQ(code(absl::UnavailableError("x")), 503);
  EXPECT_EQ(code(absl::ResourceExhaustedError("x")), 429);
  EXPECT_EQ(code(absl::DeadlineExceededError("x")), 504);
  EXPECT_EQ(code(absl::InternalError("x")), 500);
  EXPECT_EQ(code(absl::UnauthenticatedError("x")), 401);
  EXPECT_EQ(ToResponse(absl::UnavailableError("x")).headers.at(0).first, "Retry-After");
  for (const auto& [said, header] : {std::pair(7, "7"), {0, "1"}, {3600, "60"}}) {
    EXPECT_EQ(ToResponse(WithRetryAfter(absl::ResourceExhaustedError("x"), said)).headers.at(0),
              std::pair(std::string("Retry-After"), std::string(header)));
  }
  const json error = json::parse(ToErrorJson(absl::OutOfRangeError("long")))["error"];
  EXPECT_EQ(error["code"], "context_length_exceeded");
  EXPECT_EQ(error["message"], "long");
  const json plain = json::parse(ToErrorJson(absl::InvalidArgumentError("\xff")))["error"];
  EXPECT_TRUE(plain["param"].is_null() && plain["code"].is_null());
}

TEST(Errors, NoTextIsLong) {
  EXPECT_LT(ErrorResponse(404, std::string(3u << 20, 'x')).body.size(), 5000u);
}

TEST(Format, JsonStringsAreValid) {
  for (const std::string& s : {std::string("a\"b\\c\n\t\x01\x7f"),
                               std::string("\xC3\xA9\xF0\x9F\x8E\x89"), std::string("\0x", 2)}) {
    EXPECT_EQ(json::parse(JsonString(s)).get<std::string>(), s);
  }
  EXPECT_EQ(json::parse(JsonString("a\xff\xC3")).get<std::string>(), "a\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(json::parse(JsonString("\xED\xA0\x80")).get<std::string>().substr(0, 3),
            "\xEF\xBF\xBD");
}

TEST(Format, ChatLogprobs) {
  AnswerFormat format(
      {.id = "i", .created_unix_s = 1, .model = "m", .system_fingerprint = "f", .logprobs = true});
  const std::vector<coordinator::TokenLogprob> lps = {
      {.id = 1, .bytes = "\xC3", .logprob = -1, .top = {{"a", -1.f}, {"\xff", -INFINITY}}}};
  const json chunk = json::parse(Events(format.Text("x", lps)).at(0));
  const json& token = chunk["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(token["bytes"], json::array({0xC3}));
  EXPECT_EQ(token["logprob"], -1.0);
  EXPECT_EQ(token["top_logprobs"][1]["bytes"], json::array({0xff}));
  EXPECT_EQ(token["top_logprobs"][1]["logprob"], -9999.0);
}

TEST(Format, TextLogprobs) {
  AnswerFormat format({.id = "i",
                       .created_unix_s = 1,
                       .model = "m",
                       .system_fingerprint = "f",
                       .chat = false,
                       .logprobs = true});
  const std::vector<coordinator::TokenLogprob> lps = {
      {.id = 1, .bytes = "\xC3\xA9t", .logprob = -1, .top = {{"a", -1.f}}},
      {.id = 2, .bytes = "b", .logprob = -2, .top = {{"\xff", -2.f}}}};
  const json whole =
      json::parse(format.Whole("\xC3\xA9tb", lps, coordinator::FinishReason::kStop, {3, 2}));
  const json& lp = whole["choices"][0]["logprobs"];
  EXPECT_EQ(lp["tokens"], json::array({"\xC3\xA9t", "b"}));
  EXPECT_EQ(lp["text_offset"], json::array({0, 2}));
  EXPECT_EQ(lp["top_logprobs"][0]["a"], -1.0);
  EXPECT_EQ(whole["usage"]["total_tokens"], 5);
}

TEST(ExchangeTest, OverflowAndGone) {
  int wakes = 0;
  Exchange e(10, [&] { ++wakes; });
  e.BeginStream();
  e.Write("12345");
  EXPECT_EQ(wakes, 1);  // one until it is taken
  EXPECT_EQ(e.Take().events, "12345");
  e.Write("1234567890");
  EXPECT_FALSE(e.Take().overflow);
  e.Write("12345678901");
  EXPECT_TRUE(e.Take().overflow);
  int gone = 0;
  e.OnGone([&] { ++gone; });
  e.ClientGone();
  e.ClientGone();
  EXPECT_EQ(gone, 1);
  e.OnGone([&] { ++gone; });  // already left
  EXPECT_EQ(gone, 2);
  e.Detach();
  e.Write("x");
}

TEST(ExchangeTest, NoCancelAfterTheEnd) {
  Exchange e(10, [] {});
  int gone = 0;
  e.OnGone([&] { ++gone; });
  e.Send(Response{});
  e.OnGone([&] { ++gone; });
  e.ClientGone();
  EXPECT_EQ(gone, 0);
  EXPECT_TRUE(e.Take().ended);
}

TEST(ExchangeTest, AbortEndsWithAnErrorAndTellsTheHandlerOnce) {
  Response refusal;
  refusal.status = 401;
  {
    Exchange e(100, [] {});
    int gone = 0;
    e.OnGone([&] { ++gone; });
    e.BeginStream();
    e.Write("a");
    e.Abort(refusal, "b");
    e.Write("c");
    e.ClientGone();
    EXPECT_EQ(gone, 1);
    const auto taken = e.Take();
    EXPECT_EQ(taken.events, "ab");
    EXPECT_TRUE(taken.ended);
    EXPECT_FALSE(taken.response.has_value());
  }
  Exchange e(100, [] {});
  e.Abort(refusal, "b");
  int gone = 0;
  e.OnGone([&] { ++gone; });  // the handler starts its answer just now
  EXPECT_EQ(gone, 1);
  e.Send(Response{});
  EXPECT_EQ(e.Take().response->status, 401);
}

TEST(Api, Health) {
  FakeGenerator g;
  EXPECT_EQ(Call(&g, "GET", "/readyz").status, 200);
  g.set_ready(false);
  EXPECT_EQ(Call(&g, "GET", "/health").body, R"({"status":"ok"})");  // whatever the pool does
  const Response r = Call(&g, "GET", "/readyz");
  EXPECT_EQ(r.status, 503);
  const json error = json::parse(r.body)["error"];
  EXPECT_EQ(error["type"], "unavailable_error");
  EXPECT_EQ(error["message"],
            "Loading model fake/model:1: loading; w1 loading 50%, w2 loading 50%; about 7 s to go");
  EXPECT_EQ(r.headers.at(0), std::pair(std::string("Retry-After"), std::string("7")));
  EXPECT_EQ(Call(&g, "GET", "/livez").status, 200);
}

TEST(Api, ModelsStatusStop) {
  FakeGenerator g;
  EXPECT_EQ(json::parse(Call(&g, "GET", "/v1/models").body)["data"][0]["id"], "fake/model:1");
  EXPECT_EQ(json::parse(Call(&g, "GET", "/v1/models/fake/model:1").body)["object"], "model");
  const Response missing = Call(&g, "GET", "/v1/models/nope");
  EXPECT_EQ(missing.status, 404);
  EXPECT_EQ(json::parse(missing.body)["error"]["code"], "model_not_found");
  const json status = json::parse(Call(&g, "GET", "/admin/v1/status").body);
  EXPECT_EQ(status["nodes"][0]["layers"], json::array({0, 9}));
  EXPECT_EQ(status["nodes"][1]["samples"], true);
  EXPECT_FALSE(g.shutdown_requested());
  EXPECT_EQ(Call(&g, "POST", "/admin/v1/stop").status, 202);
  EXPECT_TRUE(g.shutdown_requested());
  EXPECT_EQ(json::parse(Call(&g, "GET", "/version").body)["version"], "0.1.0");
}

TEST(Chat, WholeEqualsStream) {
  FakeGenerator g;
  const std::string head = R"({"messages":[{"role":"user","content":"hi"}],"seed":5)";
  const json whole = json::parse(Call(&g, "POST", "/v1/chat/completions", head + "}").body);
  const auto events =
      Stream(&g, "chat", head + R"(,"stream":true,"stream_options":{"include_usage":true}})");
  ASSERT_GT(events.size(), 4u);
  EXPECT_EQ(events.back(), "[DONE]");
  std::string text;
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    const json chunk = json::parse(events[i]);
    EXPECT_EQ(chunk["id"], "chatcmpl-r1");
    EXPECT_EQ(chunk["object"], "chat.completion.chunk");
    EXPECT_EQ(chunk["model"], "fake/model:1");
    EXPECT_EQ(chunk["created"], json::parse(events[0])["created"]);
    EXPECT_EQ(chunk["system_fingerprint"], "n1-kv.f16-wire.f16-aaaaaaaaaaaa");
    if (i + 2 == events.size()) {
      EXPECT_TRUE(chunk["choices"].empty());
      EXPECT_EQ(chunk["usage"], whole["usage"]);
      continue;
    }
    EXPECT_TRUE(chunk["usage"].is_null());
    const json& choice = chunk["choices"][0];
    EXPECT_EQ(choice["delta"].contains("role"), i == 0);
    EXPECT_EQ(choice["finish_reason"].is_null(), i + 3 != events.size());
    if (choice["delta"].contains("content")) text += choice["delta"]["content"].get<std::string>();
  }
  EXPECT_FALSE(text.empty());
  EXPECT_EQ(whole["choices"][0]["message"]["content"], text);
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(whole["usage"]["completion_tokens"], 12);
}

TEST(Chat, NoUsageUnlessAsked) {
  FakeGenerator g;
  for (const auto& event :
       Stream(&g, "chat", R"({"messages":[{"role":"user","content":"hi"}],"stream":true})")) {
    if (event != "[DONE]") {
      EXPECT_FALSE(json::parse(event).contains("usage"));
    }
  }
}

TEST(Chat, ErrorsBeforeAndAfterTheFirstToken) {
  FakeGenerator g;
  const auto call = [&](const std::string& text) {
    return Call(&g, "POST", "/v1/chat/completions",
                R"({"messages":[{"role":"user","content":")" + text + "\"}]}");
  };
  EXPECT_EQ(call("TOO LONG").status, 400);
  EXPECT_EQ(call("QUEUE FULL").status, 429);
  EXPECT_EQ(call("NOT READY").status, 503);
  EXPECT_EQ(call("DIE").status, 503);
  const auto events =
      Stream(&g, "chat", R"({"messages":[{"role":"user","content":"DIE"}],"stream":true})");
  const json last = json::parse(events.back());
  EXPECT_EQ(last["error"]["message"], "worker w2 was lost");
  EXPECT_EQ(last["error"]["type"], "unavailable_error");
}

TEST(Text, Stream) {
  FakeGenerator g;
  const auto events = Stream(&g, "text", R"({"prompt":"hi","max_tokens":3,"stream":true})");
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(json::parse(events[0])["object"], "text_completion");
  EXPECT_EQ(json::parse(events[3])["choices"][0]["finish_reason"], "length");
}

TEST(Chat, LeavingCancels) {
  FakeGenerator g;
  auto recorder = std::make_shared<Recorder>();
  Request request;
  request.body = R"({"messages":[{"role":"user","content":"STALL"}]})";
  HandleChatCompletion(&g, request, recorder);
  EXPECT_EQ(g.open(), 1u);
  recorder->Leave();
  EXPECT_EQ(g.open(), 0u);
  EXPECT_EQ(g.cancelled(), 1u);
}

}  // namespace
}  // namespace lanyard::web
