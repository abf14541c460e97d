// The server over real sockets with a FakeGenerator.
#include "web/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "web/testing/fake_generator.h"

namespace lanyard::web {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

class Client {
 public:
  explicit Client(const std::string& address, int receive_buffer = 0) {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (receive_buffer > 0)
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.find(':') + 1))));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  }
  ~Client() { Close(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void Close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  void Send(const std::string& bytes) {
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n = ::send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
      if (n <= 0) return;
      done += static_cast<size_t>(n);
    }
  }
  // Reads until `text` was seen, the peer closed, or 5 s passed.
  bool ReadUntil(const std::string& text) {
    while (got_.find(text) == std::string::npos) {
      if (!ReadSome(5000)) return false;
    }
    return true;
  }
  // True when the peer closed.
  bool ReadAll() {
    while (ReadSome(5000)) {
    }
    return closed_;
  }
  // One whole answer with Content-Length; leaves the rest.
  std::string ReadAnswer() {
    if (!ReadUntil("\r\n\r\n")) return got_;
    const size_t head = got_.find("\r\n\r\n") + 4;
    const size_t at = got_.find("Content-Length: ");
    const size_t length = at < head ? std::stoul(got_.substr(at + 16)) : 0;
    while (got_.size() < head + length && ReadSome(5000)) {
    }
    std::string answer = got_.substr(0, head + length);
    got_.erase(0, head + length);
    return answer;
  }
  void Clear() { got_.clear(); }
  const std::string& got() const { return got_; }

 private:
  bool ReadSome(int timeout_ms) {
    pollfd fd{.fd = fd_, .events = POLLIN, .revents = 0};
    if (::poll(&fd, 1, timeout_ms) <= 0) return false;
    char buffer[65536];
    const ssize_t n = ::recv(fd_, buffer, sizeof(buffer), 0);
    if (n <= 0) {
      closed_ = true;
      return false;
    }
    got_.append(buffer, static_cast<size_t>(n));
    return true;
  }
  int fd_;
  bool closed_ = false;
  std::string got_;
};

std::string Post(const std::string& path, const std::string& body) {
  return "POST " + path +
         " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}
std::string ChatBody(const std::string& text, const std::string& extra = "") {
  return R"({"messages":[{"role":"user","content":")" + text + "\"}]" + extra + "}";
}
json BodyOf(const std::string& answer) {
  return json::parse(answer.substr(answer.find("\r\n\r\n") + 4));
}

class HttpServerTest : public ::testing::Test {
 protected:
  void StartServer(ServerLimits limits = {}) {
    ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.open = true;
    options.limits = limits;
    options.origins = origins_;
    auto server = HttpServer::Start(options, &generator_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
  }
  std::string Ask(const std::string& bytes) {
    Client client(server_->address());
    client.Send(bytes);
    return client.ReadAnswer();
  }
  template <typename F>
  static bool Eventually(F condition) {
    for (int i = 0; i < 500; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(milliseconds(10));
    }
    return false;
  }

  FakeGenerator generator_;
  std::vector<std::string> origins_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, KeepAliveAndRequestId) {
  StartServer();
  Client client(server_->address());
  client.Send("GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: my-id\r\n\r\n");
  const std::string first = client.ReadAnswer();
  EXPECT_EQ(first.substr(0, 17), "HTTP/1.1 200 OK\r\n");
  EXPECT_NE(first.find("x-request-id: my-id\r\n"), std::string::npos);
  client.Send(Post("/v1/chat/completions", ChatBody("hi")));
  EXPECT_EQ(BodyOf(client.ReadAnswer())["object"], "chat.completion");
  // Two at once, pipelined.
  client.Send(
      "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nGET /version HTTP/1.1\r\nHost: "
      "localhost\r\n\r\n");
  EXPECT_EQ(BodyOf(client.ReadAnswer())["status"], "ok");
  EXPECT_TRUE(BodyOf(client.ReadAnswer()).contains("version"));
  client.Send("HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(client.ReadAll());
  EXPECT_EQ(client.got().substr(client.got().size() - 4), "\r\n\r\n");
}

TEST_F(HttpServerTest, ErrorsBeforeRoutingHaveOpenAisShape) {
  StartServer();
  struct Case {
    std::string bytes;
    int status;
  };
  const std::string host = "Host: localhost\r\n\r\n";
  std::string many = "GET /health HTTP/1.1\r\n";
  for (int i = 0; i < 150; ++i) many += "A" + std::to_string(i) + ": b\r\n";
  for (const Case& c :
       {Case{"GET /nope HTTP/1.1\r\n" + host, 404},
        {"DELETE /v1/models HTTP/1.1\r\n" + host, 405},
        {"BREW /v1/models HTTP/1.1\r\n" + host, 405},
        {"GET /health HTTP/1.1\r\n\r\n", 400},
        {"\x16\x03\x01\x02 hello\r\n\r\n", 400},
        {"GET http HTTP/1.1\r\n" + host, 400},
        {"GET /health HTTP/9.9\r\n" + host, 400},
        {many + host, 431},
        {"GET /health HTTP/1.1\r\nX: " + std::string(20000, 'x') + "\r\n" + host, 431},
        {"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403},
        {"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400},
        {"POST /v1/completions HTTP/1.1\r\nOrigin: http://evil.example\r\n" + host, 403},
        {"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999\r\n" + host, 413},
        {"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n" + host, 400},
        {Post("/v1/completions", "{\"prompt\":"), 400},
        {Post("/v1/completions", ""), 400}}) {
    const std::string answer = Ask(c.bytes);
    const std::string name = c.bytes.substr(0, 60);
    ASSERT_EQ(answer.substr(0, 12), "HTTP/1.1 " + std::to_string(c.status)) << name << "\n"
                                                                            << answer;
    EXPECT_NE(answer.find("x-request-id: "), std::string::npos) << name;
    const json error = BodyOf(answer)["error"];
    for (const char* key : {"message", "type", "param", "code"})
      EXPECT_TRUE(error.contains(key)) << name << key;
  }
  EXPECT_EQ(Ask("GET /health HTTP/1.1\r\n" + host).substr(0, 12), "HTTP/1.1 200");
}

TEST_F(HttpServerTest, SpellingsOfTheSameRequest) {
  StartServer();
  const std::string host = " HTTP/1.1\r\nHost: localhost\r\n\r\n";
  for (const std::string& get :
       {"GET /v1/models" + host, "GET /v1/models/" + host, "GET //v1/models" + host,
        "GET /models" + host, "GET http://localhost/v1/models" + host,
        "GET HTTP://127.0.0.1:80/models/" + host, "\r\nGET /v1/models" + host,
        "\r\n\n\r\n" + ("GET /v1/models" + host)}) {
    const std::string answer = Ask(get);
    ASSERT_EQ(answer.substr(0, 12), "HTTP/1.1 200") << get << answer;
    EXPECT_EQ(BodyOf(answer)["object"], "list") << get;
  }
  EXPECT_EQ(Ask(Post("/chat/completions", ChatBody("hi"))).substr(0, 12), "HTTP/1.1 200");
  EXPECT_EQ(Ask(Post("/completions", R"({"prompt":"hi"})")).substr(0, 12), "HTTP/1.1 200");
  // Both hosts of an absolute form must be this server's.
  EXPECT_EQ(Ask("GET http://evil.example/v1/models" + host).substr(0, 12), "HTTP/1.1 403");
  EXPECT_EQ(
      Ask("GET http://localhost/v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n").substr(0, 12),
      "HTTP/1.1 403");
  EXPECT_EQ(Ask("GET http://localhost/v1/models HTTP/1.1\r\n\r\n").substr(0, 12), "HTTP/1.1 400");
  // Empty lines after a request do not spoil the next one on the connection.
  Client client(server_->address());
  client.Send(Post("/v1/chat/completions", ChatBody("hi")) + "\r\n\r\nGET /health" + host);
  EXPECT_EQ(client.ReadAnswer().substr(0, 12), "HTTP/1.1 200");
  EXPECT_EQ(BodyOf(client.ReadAnswer())["status"], "ok");
}

TEST_F(HttpServerTest, EmptyLinesDoNotHoldAConnection) {
  ServerLimits limits;
  limits.header_timeout = milliseconds(300);
  StartServer(limits);
  Client dribbles(server_->address());
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 10; ++i) {
    dribbles.Send("\r\n");
    std::this_thread::sleep_for(milliseconds(60));
  }
  EXPECT_TRUE(dribbles.ReadAll());
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(3000));
  Client floods(server_->address());
  floods.Send(std::string(limits.max_header_bytes + 4096, '\n'));
  EXPECT_TRUE(floods.ReadAll());
  EXPECT_EQ(floods.got(), "");
}

TEST_F(HttpServerTest, BodiesAreReadAsTheyAre) {
  StartServer();
  const auto coded = [&](const std::string& header) {
    std::string request = Post("/v1/chat/completions", ChatBody("hi"));
    request.insert(request.find("Host:"), header + "\r\n");
    const std::string answer = Ask(request);
    return answer.substr(9, 3) + (answer.find("unsupported_encoding") != answer.npos ? "!" : "");
  };
  for (const char* coding : {"gzip", "br", "deflate", "zstd", "gzip, identity", "x"})
    EXPECT_EQ(coded(std::string("Content-Encoding: ") + coding), "415!") << coding;
  EXPECT_EQ(coded("Content-Encoding: identity"), "200");
  EXPECT_EQ(coded("Content-Encoding: IDENTITY"), "200");
  EXPECT_EQ(coded("Content-Encoding:"), "200");
}

// A body whose end is not certain never becomes the next request.
TEST_F(HttpServerTest, OnlyAPlainOrAChunkedBodyHasAnEnd) {
  StartServer();
  const std::string smuggled = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";
  struct Case {
    std::string coding;
    int status;
    std::string path = "/v1/completions";
    std::string version = "1.1";
  };
  for (const Case& c : {Case{"Transfer-Encoding: identity\r\n", 501},
                        {"Transfer-Encoding: identity\r\n", 501, "/nowhere"},
                        {"Transfer-Encoding:\r\n", 501},
                        {"Transfer-Encoding: x\r\n", 501},
                        {"Transfer-Encoding: gzip, chunked\r\n", 501},
                        {"Transfer-Encoding: chunked, identity\r\n", 501},
                        {"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", 400},
                        {"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400},
                        {"Transfer-Encoding: identity\r\nContent-Length: 2\r\n", 501},
                        {"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", 400},
                        {"Content-Length: 2\r\nContent-Length: 3\r\n", 400},
                        {"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n", 400,
                         "/v1/completions", "1.0"}}) {
    Client client(server_->address());
    client.Send("POST " + c.path + " HTTP/" + c.version + "\r\nHost: localhost\r\n" + c.coding +
                "\r\n" + smuggled);
    EXPECT_EQ(client.ReadAnswer().substr(9, 3), std::to_string(c.status)) << c.coding;
    EXPECT_TRUE(client.ReadAll()) << c.coding;
    EXPECT_EQ(client.got(), "") << c.coding;
  }
  const std::string chunked =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: Chunked\r\n\r\n"
      "f\r\n{\"prompt\":\"hi\"}\r\n0\r\n\r\n";
  EXPECT_EQ(Ask(chunked).substr(0, 12), "HTTP/1.1 200");
}

TEST_F(HttpServerTest, AnAllowedPageReadsAnswersErrorsAndStreams) {
  origins_ = {"https://chat.example"};
  StartServer();
  const std::string origin = "Origin: https://chat.example\r\n";
  const auto from_page = [&](std::string request) {
    request.insert(request.find("Host:"), origin);
    return request;
  };
  const std::string allow = "\r\nAccess-Control-Allow-Origin: https://chat.example\r\n";
  const std::string chat = Ask(from_page(Post("/v1/chat/completions", ChatBody("hi"))));
  EXPECT_EQ(chat.substr(0, 12), "HTTP/1.1 200");
  EXPECT_NE(chat.find(allow), std::string::npos) << chat;
  EXPECT_NE(chat.find("\r\nVary: Origin\r\n"), std::string::npos) << chat;
  EXPECT_EQ(chat.find("Allow-Credentials"), std::string::npos);
  for (const std::string& request : {Post("/v1/chat/completions", "{"), Post("/nowhere", "{}"),
                                     Post("/v1/chat/completions", ChatBody("QUEUE FULL"))}) {
    const std::string answer = Ask(from_page(request));
    EXPECT_NE(answer.substr(9, 3), "200");
    EXPECT_NE(answer.find(allow), std::string::npos) << answer;
  }
  Client stream(server_->address());
  stream.Send(from_page(Post("/v1/chat/completions", ChatBody("hi", R"(,"stream":true)"))));
  EXPECT_TRUE(stream.ReadUntil("[DONE]"));
  EXPECT_NE(stream.got().find(allow), std::string::npos) << stream.got();
  const std::string preflight =
      Ask("OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" + origin +
          "Access-Control-Request-Method: POST\r\n"
          "Access-Control-Request-Headers: authorization,content-type\r\n\r\n");
  EXPECT_EQ(preflight.substr(0, 12), "HTTP/1.1 204");
  EXPECT_EQ(preflight.find("Content-Length"), std::string::npos) << preflight;
  EXPECT_NE(preflight.find("Access-Control-Allow-Headers: authorization,content-type\r\n"),
            std::string::npos);
  // Neither an administrator's route nor another page gets anything, not even in open mode.
  EXPECT_EQ(Ask(from_page(Post("/admin/v1/keys", R"({"name":"x"})"))).substr(0, 12),
            "HTTP/1.1 403");
  std::string plain = Post("/admin/v1/stop", "{}");
  plain.insert(plain.find("Host:"), "Origin: http://localhost:3000\r\n");
  const std::string forged = Ask(plain);
  EXPECT_EQ(forged.substr(0, 12), "HTTP/1.1 403");
  EXPECT_EQ(forged.find("Access-Control"), std::string::npos);
  EXPECT_FALSE(generator_.shutdown_requested());
}

TEST_F(HttpServerTest, OriginsThatAreNoneAreRefusedAtTheStart) {
  for (const char* bad : {"*", "null", "chat.example", "https://chat.example/path"}) {
    ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.origins = {bad};
    const auto server = HttpServer::Start(options, &generator_);
    EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST_F(HttpServerTest, TooLargeABodyIsReadableByASenderThatDoesNotStop) {
  ServerLimits limits;
  limits.max_body_bytes = 100'000;
  StartServer(limits);
  const std::string big = "{\"prompt\":\"" + std::string(8u << 20, 'x') + "\"}";
  EXPECT_EQ(Ask(Post("/v1/completions", big)).substr(0, 12), "HTTP/1.1 413");
  // The same without a declared length.
  std::string chunked =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 20; ++i) chunked += "4000\r\n" + std::string(0x4000, 'x') + "\r\n";
  EXPECT_EQ(Ask(chunked + "0\r\n\r\n").substr(0, 12), "HTTP/1.1 413");
}

TEST_F(HttpServerTest, ExpectContinue) {
  StartServer();
  Client client(server_->address());
  const std::string body = ChatBody("hi");
  client.Send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nExpect: "
      "100-continue\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n");
  EXPECT_EQ(client.ReadAnswer(), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send(body);
  EXPECT_EQ(client.ReadAnswer().substr(0, 12), "HTTP/1.1 200");
}

TEST_F(HttpServerTest, StreamsAndKeepsTheConnection) {
  StartServer();
  Client client(server_->address());
  for (int i = 0; i < 2; ++i) {
    client.Send(Post("/v1/chat/completions", ChatBody("hi", R"(,"stream":true)")));
    ASSERT_TRUE(client.ReadUntil("data: [DONE]\n\n\r\n0\r\n\r\n")) << client.got();
    EXPECT_NE(client.got().find("Content-Type: text/event-stream"), std::string::npos);
    EXPECT_NE(client.got().find("X-Accel-Buffering: no"), std::string::npos);
    client.Clear();
  }
  // HTTP/1.0: no chunks, the end of the connection is the end.
  Client old(server_->address());
  const std::string body = ChatBody("hi", R"(,"stream":true)");
  old.Send("POST /v1/chat/completions HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) +
           "\r\n\r\n" + body);
  EXPECT_TRUE(old.ReadAll());
  EXPECT_EQ(old.got().substr(old.got().size() - 14), "data: [DONE]\n\n");
  EXPECT_EQ(generator_.cancelled(), 0u);
}

TEST_F(HttpServerTest, LeavingCancelsStreamedAndWhole) {
  StartServer();
  for (const std::string extra : {R"(,"stream":true)", ""}) {
    const uint64_t before = generator_.cancelled();
    Client client(server_->address());
    client.Send(Post("/v1/chat/completions", ChatBody("STALL", extra)));
    ASSERT_TRUE(Eventually([&] { return generator_.open() == 1; }));
    client.Close();
    EXPECT_TRUE(Eventually([&] { return generator_.cancelled() == before + 1; }));
    EXPECT_EQ(generator_.open(), 0u);
  }
}

TEST_F(HttpServerTest, LeavingWithAPipelinedRequestCancels) {
  StartServer();
  Client client(server_->address());
  client.Send(Post("/v1/chat/completions", ChatBody("STALL")) + "GET /health HTTP/1.1\r\n");
  ASSERT_TRUE(Eventually([&] { return generator_.open() == 1; }));
  std::this_thread::sleep_for(milliseconds(50));
  client.Close();
  EXPECT_TRUE(Eventually([&] { return generator_.cancelled() == 1; }));
}

TEST_F(HttpServerTest, ASlowClientIsCancelled) {
  StartServer();
  Client client(server_->address(), 4096);
  client.Send(
      Post("/v1/chat/completions", ChatBody("FLOOD", R"(,"stream":true,"ignore_eos":true)")));
  EXPECT_TRUE(Eventually([&] { return generator_.cancelled() == 1; }));
  EXPECT_EQ(Ask("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").substr(0, 12), "HTTP/1.1 200");
}

TEST_F(HttpServerTest, TimeOuts) {
  ServerLimits limits;
  limits.header_timeout = limits.body_timeout = milliseconds(100);
  limits.idle_timeout = milliseconds(200);
  limits.ping_interval = milliseconds(50);
  StartServer(limits);
  for (const char* bytes :
       {"", "GET /hea",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"}) {
    Client client(server_->address());
    client.Send(bytes);
    EXPECT_TRUE(client.ReadAll()) << bytes;
  }
  Client idle(server_->address());
  idle.Send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_TRUE(idle.ReadAll());
  Client waiting(server_->address());
  waiting.Send(Post("/v1/chat/completions", ChatBody("STALL", R"(,"stream":true)")));
  EXPECT_TRUE(waiting.ReadUntil("\r\n8\r\n: ping\n\n\r\n"));
  EXPECT_TRUE(Eventually([&] { return server_->connections() == 1; }));
}

// However it dribbles, a header and a body have their time as a whole.
TEST_F(HttpServerTest, DribblingDoesNotGainTime) {
  ServerLimits limits;
  limits.header_timeout = limits.body_timeout = milliseconds(200);
  StartServer(limits);
  const std::string head =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000\r\n\r\n";
  for (const std::string& start : {std::string("GET /livez HTTP/1.1\r\nX: "), head}) {
    Client client(server_->address());
    client.Send(start);
    ASSERT_TRUE(Eventually([&] { return server_->connections() == 1; }));
    const auto from = std::chrono::steady_clock::now();
    for (int i = 0; i < 100 && server_->connections() > 0; ++i) {
      client.Send("x");
      std::this_thread::sleep_for(milliseconds(20));
    }
    EXPECT_LT(std::chrono::steady_clock::now() - from, milliseconds(1500)) << start;
    EXPECT_TRUE(Eventually([&] { return server_->connections() == 0; }));
  }
}

TEST_F(HttpServerTest, JsonThatIsTooDeepOrTooMany) {
  StartServer();
  const auto code = [&](const std::string& body) {
    const std::string answer = Ask(Post("/v1/completions", body));
    return answer.substr(9, 3) + " " + BodyOf(answer)["error"]["code"].get<std::string>();
  };
  EXPECT_EQ(code("{\"prompt\":" + std::string(100'000, '[') + "}"), "400 invalid_json");
  std::string many = "{\"prompt\":[1";
  for (int i = 0; i < 1'000'001; ++i) many += ",1";
  EXPECT_EQ(code(many + "]}"), "400 invalid_json");
}

// Of large bodies one caller's are read one after another; small ones pass them.
TEST_F(HttpServerTest, LargeBodiesWaitForEachOther) {
  ServerLimits limits;
  limits.large_body_bytes = 1000;
  limits.large_body_wait = milliseconds(1000);
  StartServer(limits);
  const std::string large =
      Post("/v1/completions", R"({"prompt":")" + std::string(5000, 'x') + R"("})");
  Client slow(server_->address());
  slow.Send(large.substr(0, 2000));
  // Without a declared length it is noticed on the way.
  std::string chunked =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
      "d\r\n{\"prompt\":\"hi\r\n";
  for (int i = 0; i < 80; ++i) chunked += "40\r\n" + std::string(0x40, 'x') + "\r\n";
  Client waits(server_->address()), gives_up(server_->address()), leaves(server_->address());
  leaves.Send(large);
  std::this_thread::sleep_for(milliseconds(50));
  leaves.Close();
  waits.Send(chunked + "2\r\n\"}\r\n0\r\n\r\n");
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_EQ(Ask(Post("/v1/completions", R"({"prompt":"hi"})")).substr(0, 12), "HTTP/1.1 200");
  slow.Send(large.substr(2000));
  EXPECT_EQ(slow.ReadAnswer().substr(0, 12), "HTTP/1.1 200");
  EXPECT_EQ(waits.ReadAnswer().substr(0, 12), "HTTP/1.1 200");
  Client again(server_->address());
  again.Send(large.substr(0, 2000));
  std::this_thread::sleep_for(milliseconds(50));
  gives_up.Send(large);
  const std::string busy = gives_up.ReadAnswer();
  EXPECT_EQ(busy.substr(0, 12), "HTTP/1.1 429");
  EXPECT_NE(busy.find("too_many_large_requests"), std::string::npos);
  EXPECT_NE(busy.find("\r\nRetry-After: 5\r\n"), std::string::npos);
}

TEST_F(HttpServerTest, TwoHundredIdleStreams) {
  StartServer();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(std::make_unique<Client>(server_->address()));
    clients.back()->Send(Post("/v1/chat/completions", ChatBody("STALL", R"(,"stream":true)")));
  }
  for (auto& client : clients) ASSERT_TRUE(client->ReadUntil("\"role\":\"assistant\""));
  EXPECT_EQ(generator_.open(), 200u);
  EXPECT_EQ(Ask(Post("/v1/chat/completions", ChatBody("hi"))).substr(0, 12), "HTTP/1.1 200");
  clients.clear();
  EXPECT_TRUE(
      Eventually([&] { return generator_.cancelled() == 200 && server_->connections() == 0; }));
}

TEST_F(HttpServerTest, WhoSaysNothingMakesRoom) {
  ServerLimits limits;
  limits.max_connections = 2;
  limits.reserved_connections = 0;
  StartServer(limits);
  Client silent(server_->address());
  Client asking(server_->address());
  asking.Send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(asking.ReadAnswer().substr(0, 12), "HTTP/1.1 200");
  Client late(server_->address());
  late.Send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(late.ReadAnswer().substr(0, 12), "HTTP/1.1 200");
  EXPECT_TRUE(silent.ReadAll());
  // Both that are left have asked, and are given nothing now: the older one makes room.
  const std::string stall = Post("/v1/chat/completions", ChatBody("STALL", R"(,"stream":true)"));
  Client stream(server_->address());
  stream.Send(stall);
  EXPECT_TRUE(stream.ReadUntil("assistant"));
  EXPECT_TRUE(asking.ReadAll());
  late.Send(stall);
  EXPECT_TRUE(late.ReadUntil("assistant"));
  // Both that are left are being answered: now there is no room.
  Client one_more(server_->address());
  const std::string refused = one_more.ReadAnswer();
  EXPECT_EQ(refused.substr(0, 12), "HTTP/1.1 503");
  EXPECT_NE(refused.find("Retry-After: 1"), std::string::npos);
}

TEST_F(HttpServerTest, StrangersOfOneAddressAreFew) {
  ServerLimits limits;
  limits.max_strangers_per_client = 3;
  StartServer(limits);
  std::vector<std::unique_ptr<Client>> silent;
  for (int i = 0; i < 10; ++i) silent.push_back(std::make_unique<Client>(server_->address()));
  EXPECT_TRUE(Eventually([&] { return server_->connections() == 3; }));
  for (int i = 0; i < 7; ++i) EXPECT_TRUE(silent[static_cast<size_t>(i)]->ReadAll()) << i;
  // Those that have asked do not count.
  std::vector<std::unique_ptr<Client>> asking;
  for (int i = 0; i < 10; ++i) {
    asking.push_back(std::make_unique<Client>(server_->address()));
    asking.back()->Send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_EQ(asking.back()->ReadAnswer().substr(0, 12), "HTTP/1.1 200");
  }
  EXPECT_GE(server_->connections(), 10u);
}

TEST_F(HttpServerTest, StoppingCancelsWhatRuns) {
  StartServer();
  Client client(server_->address());
  client.Send(Post("/v1/chat/completions", ChatBody("STALL", R"(,"stream":true)")));
  Client idle(server_->address());
  ASSERT_TRUE(client.ReadUntil("assistant"));
  const auto start = std::chrono::steady_clock::now();
  server_.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  EXPECT_EQ(generator_.cancelled(), 1u);
  EXPECT_TRUE(client.ReadAll());
  EXPECT_TRUE(idle.ReadAll());
}

// What the pool said before the front stops is still sent.
TEST_F(HttpServerTest, StoppingSendsWhatWasSaid) {
  StartServer();
  Client client(server_->address());
  client.Send(Post("/v1/chat/completions", ChatBody("DIE", R"(,"stream":true)")));
  ASSERT_TRUE(client.ReadUntil("assistant"));
  ASSERT_TRUE(Eventually([&] { return generator_.open() == 0; }));
  server_.reset();
  EXPECT_TRUE(client.ReadAll());
  EXPECT_NE(client.got().find("worker w2 was lost"), std::string::npos);
  EXPECT_EQ(client.got().substr(client.got().size() - 5), "0\r\n\r\n");
}

TEST_F(HttpServerTest, BadAddresses) {
  StartServer();
  ServerOptions options;
  options.open = true;
  options.listen = server_->address();
  const auto used = HttpServer::Start(options, &generator_);
  EXPECT_EQ(used.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(used.status().message().find(options.listen), absl::string_view::npos);
  for (const char* bad : {"", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000",
                          "host.example:80", "0.0.0.0:0"}) {
    options.listen = bad;
    EXPECT_EQ(HttpServer::Start(options, &generator_).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

}  // namespace
}  // namespace lanyard::web
