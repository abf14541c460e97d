// What the verbs that talk to a pool are made of: event reader, URLs, statistics, tables, progress,
// the plan's print.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/api_key.h"
#include "base/exit_code.h"
#include "cli/duration.h"
#include "cli/http_client.h"
#include "cli/load_stats.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "cli/up_process.h"
#include "cli/up_status.h"

namespace lanyard::cli {
namespace {

using nlohmann::json;

std::vector<std::string> ReadEvents(const std::string& stream, size_t piece) {
  SseReader reader;
  std::vector<std::string> out;
  for (size_t at = 0; at < stream.size(); at += piece) {
    reader.Feed(std::string_view(stream).substr(at, piece), [&](std::string_view data) {
      out.emplace_back(data);
      return true;
    });
  }
  return out;
}

TEST(SseReaderTest, AnySplit) {
  const std::string stream =
      ": ping\n\ndata: {\"a\":1}\n\nevent: x\ndata:two\ndata: lines\n\n\ndata: [DONE]\r\n\r\ndata: "
      "unfinished";
  const std::vector<std::string> want = {"{\"a\":1}", "two\nlines", "[DONE]"};
  for (size_t piece = 1; piece <= stream.size(); ++piece)
    EXPECT_EQ(ReadEvents(stream, piece), want) << piece;
}

TEST(SseReaderTest, StopsWhenAsked) {
  SseReader reader;
  int events = 0;
  EXPECT_FALSE(
      reader.Feed("data: 1\n\ndata: 2\n\n", [&](std::string_view) { return ++events < 1; }));
  EXPECT_EQ(events, 1);
}

TEST(HttpClientTest, Urls) {
  const auto url = [](const std::string& text) {
    const auto client = HttpClient::Create({.url = text, .api_key = ""});
    return client.ok() ? client->url() : "error: " + Str(client.status().message());
  };
  EXPECT_EQ(url("http://h:1/"), "http://h:1");
  EXPECT_EQ(url("http://h:1/v1"), "http://h:1");
  EXPECT_EQ(url("h:1"), "https://h:1");
  EXPECT_EQ(url("http://[::1]:80"), "http://[::1]:80");
  EXPECT_EQ(url("https://h:1/v1/"), "https://h:1");
  for (const char* bad : {"https://", "ftp://h", "http://", "http://h:x", "http://h:1/path",
                          "http://h:1234567", "http://u@h"}) {
    EXPECT_EQ(url(bad).substr(0, 6), "error:") << bad;
  }
  EXPECT_FALSE(HttpClient::Create({.url = "http://h", .api_key = "a\r\nX: y"}).ok());
  ::setenv("LANYARD_URL", "http://from-env:5", 1);
  EXPECT_EQ(url(""), "http://from-env:5");
  ::unsetenv("LANYARD_URL");
}

// Whatever is wrong with a key, and wherever it came from, it is refused as the server refuses one.
TEST(HttpClientTest, AMistypedKeyIsToldHereInTheServersWords) {
  const std::string key = ApiKeyText::Make()->Encode();
  const auto of = [](const std::string& text) {
    return HttpClient::Create({.url = "http://127.0.0.1", .api_key = text}).status();
  };
  EXPECT_TRUE(of(key).ok());
  EXPECT_TRUE(of("sk-of-somebody-else").ok());  // the server judges it
  std::string altered = key;
  altered[30] = altered[30] == 'a' ? 'b' : 'a';
  for (const std::string& wrong :
       {altered, key.substr(0, 50), key.substr(0, 64), key + "x", key + " ", key + "\n", "\t" + key,
        key.substr(0, 20) + "ä" + key.substr(22), std::string("two words"), std::string("lyk_")}) {
    EXPECT_EQ(of(wrong), NotAnApiKey()) << wrong;
    EXPECT_EQ(ExitCodeOf(of(wrong).code()), kDenied) << wrong;
    ::setenv("LANYARD_API_KEY", wrong.c_str(), 1);
    EXPECT_EQ(of(""), NotAnApiKey()) << "from the environment: " << wrong;
    ::unsetenv("LANYARD_API_KEY");
  }
  // The server's 401 becomes the same status.
  HttpReply reply;
  reply.status = 401;
  reply.body = nlohmann::json{{"error", {{"message", Str(NotAnApiKey().message())}}}}.dump();
  EXPECT_EQ(StatusOfReply(reply), NotAnApiKey());
}

TEST(TableTest, WithoutRowsItIsASentence) {
  Table table({"NAME", ">SIZE"});
  const auto printed = [&] {
    ::testing::internal::CaptureStdout();
    PrintTable(table, "There is none.");
    return ::testing::internal::GetCapturedStdout();
  };
  EXPECT_EQ(printed(), "There is none.\n");
  table.AddRow({"a", "1"});
  EXPECT_EQ(printed(), table.ToString());
}

// Each thing that can be wrong with the folder has words of its own.
TEST(AdminFolderTest, WhatIsWrongWithAFolderThatWasNamed) {
  const std::string dir = ::testing::TempDir() + absl::StrCat("admin-", ::getpid());
  std::filesystem::create_directories(dir + "/empty");
  std::ofstream(dir + "/file") << "x";
  const auto of = [](const std::string& admin) {
    return HttpClient::Create({.url = "https://h", .api_key = "", .admin = admin}).status();
  };
  const std::pair<std::string, const char*> cases[] = {
      {dir + "/absent", "there is no such folder"},
      {dir + "/file", "it is not a folder"},
      {dir + "/empty", "it is not an administrator's folder (it has no file `https`)"},
  };
  for (const auto& [folder, words] : cases) {
    EXPECT_TRUE(absl::IsNotFound(of(folder))) << of(folder);
    EXPECT_NE(Str(of(folder).message()).find("--admin " + folder + ": " + words), std::string::npos)
        << of(folder);
    ::setenv("LANYARD_ADMIN", folder.c_str(), 1);
    EXPECT_NE(Str(of("").message()).find("LANYARD_ADMIN " + folder + ": " + words),
              std::string::npos)
        << of("");
    ::unsetenv("LANYARD_ADMIN");
  }
  std::filesystem::remove_all(dir);
}

TEST(HttpClientTest, UrlsOfPools) {
  const struct {
    const char* text;
    const char* url;
    const char* host;
    const char* port;
  } good[] = {
      {"192.0.2.2:18999", "https://192.0.2.2:18999", "192.0.2.2", "18999"},
      {"pool", "https://pool", "pool", "443"},
      {"http://pool", "http://pool", "pool", "80"},
      {"HTTPS://Pool:1/v1/", "https://Pool:1", "Pool", "1"},
      {"Http://[::1]:65535", "http://[::1]:65535", "::1", "65535"},
  };
  for (const auto& c : good) {
    const auto url = ParsePoolUrl(c.text);
    ASSERT_TRUE(url.ok()) << url.status();
    EXPECT_EQ(url->url, c.url);
    EXPECT_EQ(url->host, c.host);
    EXPECT_EQ(url->port, c.port);
    EXPECT_EQ(url->secure, url->url.rfind("https://", 0) == 0);
  }
  for (const char* bad :
       {"", "https://", "ftp://h", "h:65536", "http://127.0.0.1:84535", "h:0",
        "h:", "h:99999999999", "h:+1", "h:1x", "h/p", "u@h", "h:1/p", "u:secret@h:1"}) {
    const absl::Status status = ParsePoolUrl(bad).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad;
    EXPECT_EQ(status.ToString().find("secret"), std::string::npos) << status;
  }
}

// On this machine's loopback nobody listens in.
TEST(HttpClientTest, NoKeyGoesToAnotherMachineInTheOpen) {
  const std::string key = ApiKeyText::Make()->Encode();
  const auto of = [](const std::string& url, const std::string& api_key) {
    return HttpClient::Create({.url = url, .api_key = api_key, .look_around = false}).status();
  };
  for (const char* url : {"http://192.0.2.2:18999", "http://pool", "http://127.example"}) {
    EXPECT_TRUE(absl::IsPermissionDenied(of(url, key))) << url;
    EXPECT_EQ(Str(of(url, key).message()).find(key), std::string::npos);
    EXPECT_TRUE(of(url, "").ok()) << url;
  }
  for (const char* url : {"http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"})
    EXPECT_TRUE(of(url, key).ok()) << url;
}

TEST(HttpClientTest, TlsFilesThatCannotBeUsed) {
  const auto words = [](const TlsFiles& files) {
    return Str(
        HttpClient::Create({.url = "https://h", .api_key = "", .tls = files}).status().message());
  };
  EXPECT_NE(words({.ca = "/nowhere/ca.pem", .cert = "", .key = ""}).find("/nowhere/ca.pem"),
            std::string::npos);
  EXPECT_NE(
      words({.ca = "", .cert = "/nowhere/c.pem", .key = "/nowhere/k.pem"}).find("/nowhere/c.pem"),
      std::string::npos);
  EXPECT_NE(words({.ca = "", .cert = "/nowhere/c.pem", .key = ""}).find("--cert FILE --key FILE"),
            std::string::npos);
}

TEST(DurationTest, Spans) {
  EXPECT_EQ(*ParseSeconds("45s"), 45);
  EXPECT_EQ(*ParseSeconds("30m"), 1800);
  EXPECT_EQ(*ParseSeconds("90d"), 90 * 86400);
  EXPECT_EQ(*ParseSeconds("2w"), 14 * 86400);
  for (const char* bad : {"", "d", "90", "0d", "-1d", "1.5d", "9d9", "1y", "99999999999999999999d",
                          "9999999999999w", "1 d"}) {
    EXPECT_EQ(ParseSeconds(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(HttpClientTest, NobodyThere) {
  const auto client = HttpClient::Create({.url = "http://127.0.0.1:1", .api_key = ""});
  const auto reply = client->Get("/health");
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(reply.status().message().find("http://127.0.0.1:1"), absl::string_view::npos);
  EXPECT_NE(reply.status().message().find("--url"), absl::string_view::npos);
}

TEST(HttpClientTest, StatusOfReplies) {
  EXPECT_TRUE(StatusOfReply({.status = 202, .headers = {}, .body = ""}).ok());
  const auto s = StatusOfReply(
      {.status = 404, .headers = {}, .body = R"({"error":{"message":"no such model"}})"});
  EXPECT_EQ(s, absl::NotFoundError("no such model"));
  EXPECT_EQ(StatusOfReply({.status = 503, .headers = {}, .body = "<html>"}).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(StatusOfReply({.status = 401, .headers = {}, .body = "{}"}).code(),
            absl::StatusCode::kUnauthenticated);
}

TEST(LoadStatsTest, Percentiles) {
  std::vector<double> none;
  EXPECT_EQ(Percentile(none, 50), 0);
  std::vector<double> one = {7};
  EXPECT_EQ(Percentile(one, 99), 7);
  std::vector<double> hundred;
  for (int i = 100; i >= 1; --i) hundred.push_back(i);
  EXPECT_EQ(Percentile(hundred, 50), 50);
  EXPECT_EQ(Percentile(hundred, 99), 99);
  EXPECT_EQ(Percentile(hundred, 100), 100);
  EXPECT_EQ(Percentile(hundred, 0), 1);
}

TEST(LoadStatsTest, Json) {
  LoadStats a;
  a.requests = 2;
  a.completion_tokens = 30;
  a.ttft_ms = {1, 3};
  a.between_ms = {2};
  LoadStats b;
  b.requests = 1;
  b.errors = 1;
  b.first_error = "x";
  a.Add(b);
  a.seconds = 2;
  const json out = json::parse(a.ToJson());
  EXPECT_EQ(out["requests"], 3);
  EXPECT_EQ(out["errors"], 1);
  EXPECT_EQ(out["tokens_per_s"], 15.0);
  EXPECT_EQ(out["ttft_ms"]["p50"], 1.0);
  EXPECT_EQ(out["ttft_ms"]["p99"], 3.0);
  EXPECT_EQ(out["between_ms"]["p99"], 2.0);
  EXPECT_EQ(a.first_error, "x");
}

TEST(TableTest, AlignsAndCleans) {
  Table table({"NAME", ">SIZE"});
  table.AddRow({"\xC3\xA9t\xC3\xA9", "5"});
  table.AddRow({"a\x1b[31mb", "12345"});
  EXPECT_EQ(table.ToString(), "NAME      SIZE\n\xC3\xA9t\xC3\xA9          5\na?[31mb  12345\n");
  EXPECT_EQ(FormatSeconds(3.21), "3.2 s");
  EXPECT_EQ(FormatSeconds(65), "1 m 05 s");
  EXPECT_EQ(FormatSeconds(7800), "2 h 10 m");
}

TEST(ProgressTest, RendersAndThrottles) {
  EXPECT_EQ(Progress::Render("load", 50, 100, 10, 4),
            "load  [##--]  50%  50 B of 100 B  10 B/s  5.0 s left");
  EXPECT_EQ(Progress::Render("load", 0, 0, 0, 0), "load  100%  0 B of 0 B");
  std::FILE* file = std::tmpfile();
  {
    Progress progress(file, Progress::Style::kLines);
    for (int i = 0; i < 1000; ++i)
      progress.Update("load", static_cast<uint64_t>(i), 1000, i * kMillisecond);
    progress.Update("load", 1000, 1000, kSecond);
  }
  std::rewind(file);
  std::string text(4096, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2) << text;  // the first and the end
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
}

constexpr char kStatus[] =
    R"({"ready":true,"state":"ready","model":"m","context":64,"plan_why":["a","b"],"nodes":[
  {"name":"w3","pid":13,"has_stage":true,"layers":null,"embeds":false,"samples":true,
   "gguf_bytes":3},
  {"name":"w2","pid":12,"has_stage":true,"layers":[5,9],"embeds":false,"samples":false,
   "gguf_bytes":2},
  {"name":"w1","pid":11,"has_stage":true,"layers":[0,4],"embeds":true,"samples":false,
   "gguf_bytes":1}]})";

TEST(UpStatusTest, JsonLine) {
  const auto view = ParsePoolView(kStatus);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->plan_why, "  a\n  b");
  const PoolAccess open{{.url = "http://127.0.0.1:8080", .open = true}};
  const std::string line = UpJson(*view, open, 10, {{"w1", 111}});
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const json want = json::parse(
      R"({"url":"http://127.0.0.1:8080","api_key":null,"ca":null,"ca_bundle":null,"admin":null,
    "model":"m","context":64,
    "pids":{"coordinator":10},"workers":[
    {"name":"w1","pid":111,"layers":[0,4],"embeds":true,"samples":false,"bytes":1},
    {"name":"w2","pid":12,"layers":[5,9],"embeds":false,"samples":false,"bytes":2},
    {"name":"w3","pid":13,"layers":null,"embeds":false,"samples":true,"bytes":3}]})");
  json got = json::parse(line);
  EXPECT_EQ(got["clients"]["openai"],
            "OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none "
            "python3 YOUR_PROGRAM.py");
  EXPECT_FALSE(got["clients"].contains("system"));
  got.erase("clients");
  EXPECT_EQ(got, want);
  const std::string text = UpText(*view, open, "/logs");
  EXPECT_NE(text.find("embedding, 0-4"), std::string::npos);
  EXPECT_NE(text.find("curl http://127.0.0.1:8080/v1/chat/completions"), std::string::npos);
}

TEST(UpStatusTest, TheKeyIsInJsonAndNotOnTheTerminal) {
  const auto view = ParsePoolView(kStatus);
  ASSERT_TRUE(view.has_value());
  const PoolAccess access{{.url = "https://h",
                           .key_file = "/it's/api.key",
                           .ca = "/s/admin/https-ca.crt",
                           .bundle = "/s/admin/ca-bundle.crt",
                           .system_store = "/etc/store"},
                          "lyk_x",
                          "/s/admin"};
  const json line = json::parse(UpJson(*view, access, 10, {}));
  EXPECT_EQ(line["api_key"], "lyk_x");
  EXPECT_EQ(line["ca"], "/s/admin/https-ca.crt");
  EXPECT_EQ(line["ca_bundle"], "/s/admin/ca-bundle.crt");
  EXPECT_EQ(line["admin"], "/s/admin");
  const std::string text = UpText(*view, access, "/l");
  EXPECT_EQ(text.find("lyk_x"), std::string::npos);
  for (const char* words :
       {R"(' '/it'\''s/api.key' | curl --cacert /s/admin/https-ca.crt -H @- https://h/v1/chat/c)"
        "ompletions -d",
        R"~(OPENAI_API_KEY="$(cat '/it'\''s/api.key')" SSL_CERT_FILE=/s/admin/ca-bundle.crt)~",
        "lanyard run --admin /s/admin", "lanyard clients --admin /s/admin"}) {
    EXPECT_NE(text.find(words), std::string::npos) << words << " in\n" << text;
  }
}

TEST(ClientLinesTest, EachKindOfClientHasItsFile) {
  ClientAccess access{.url = "https://h:8470",
                      .ca = "/f/https-ca.crt",
                      .bundle = "/f/ca-bundle.crt",
                      .system_store = "/etc/store"};
  const json lines = ClientLinesJson(access);
  const auto has = [&](const char* client, const std::string& words) {
    EXPECT_NE(lines[client].get<std::string>().find(words), std::string::npos) << lines[client];
  };
  has("curl", "--cacert /f/https-ca.crt");
  has("openai", "SSL_CERT_FILE=/f/ca-bundle.crt");
  has("requests", "REQUESTS_CA_BUNDLE=/f/ca-bundle.crt");
  has("node", "NODE_EXTRA_CA_CERTS=/f/https-ca.crt");
  has("system", "/usr/local/share/ca-certificates/lanyard.crt && sudo update-ca-certificates");
  const auto says = [&](const char* words) {
    return ClientLinesText(access).find(words) != std::string::npos;
  };
  EXPECT_TRUE(says("for no web site"));
  EXPECT_FALSE(says("No store of this system's CAs"));
  access.system_store = "";
  EXPECT_TRUE(says("No store of this system's CAs"));
  access.constrained = false;
  EXPECT_TRUE(says("lanyard clients --new-ca"));
}

TEST(ClientLinesTest, TheHousesCertificateNeedsNoFile) {
  const ClientAccess access{.url = "https://llm.house.example:8470"};
  const json lines = ClientLinesJson(access);
  EXPECT_FALSE(lines.contains("system"));
  for (const auto& [client, line] : lines.items()) {
    for (const char* word : {"CERT", "BUNDLE", "--cacert"})
      EXPECT_EQ(line.get<std::string>().find(word), std::string::npos) << client << ": " << line;
  }
  EXPECT_NE(ClientLinesText(access).find("the house's own certificate"), std::string::npos);
}

TEST(UpStatusTest, SurvivesNonsense) {
  for (const char* bad : {"", "[]", "3", "{"}) EXPECT_FALSE(ParsePoolView(bad).has_value()) << bad;
  const auto view = ParsePoolView(
      R"({"ready":1,"nodes":[3,{"layers":[-1,2],"name":5}],"plan_why":3,"context":-1})");
  ASSERT_TRUE(view.has_value());
  EXPECT_FALSE(view->ready);
  ASSERT_EQ(view->nodes.size(), 1u);
  EXPECT_FALSE(view->nodes[0].layers.has_value());
}

TEST(UpProcessTest, BackOffGrowsAndForgets) {
  BackOff b;
  EXPECT_EQ(b.NextStart(0, kSecond), kSecond + 250 * kMillisecond);
  EXPECT_EQ(b.NextStart(0, kSecond), kSecond + 500 * kMillisecond);
  for (int i = 0; i < 20; ++i) b.NextStart(0, kSecond);
  EXPECT_EQ(b.NextStart(0, kSecond), 11 * kSecond);
  EXPECT_EQ(b.NextStart(0, 100 * kSecond), 100 * kSecond + 250 * kMillisecond);
  EXPECT_EQ(b.failures(), 1);
}

TEST(UpProcessTest, RunsStopsAndReadsLogs) {
  const std::string log =
      ::testing::TempDir() + "/lanyard_up_process_" + std::to_string(::getpid()) + ".log";
  Process quick({"quick", "/bin/sh", {"-c", "echo one; echo two; echo three; exit 3"}, log});
  ASSERT_TRUE(quick.Start().ok());
  std::optional<std::string> how;
  for (int i = 0; i < 500 && !how.has_value(); ++i) {
    how = quick.Poll();
    ::usleep(10'000);
  }
  EXPECT_EQ(how, "exit code 3");
  EXPECT_EQ(quick.exit_code(), 3);
  EXPECT_EQ(LastLines(log, 2), "two\nthree");
  EXPECT_EQ(LastLines(log, 9), "one\ntwo\nthree");
  EXPECT_EQ(LastLines("/nowhere", 9), "");
  // One that ignores SIGTERM is killed.
  Process stubborn({"stubborn",
                    "/bin/sh",
                    {"-c", "trap '' TERM; echo up; while true; do sleep 0.05; done"},
                    log});
  ASSERT_TRUE(stubborn.Start().ok());
  for (int i = 0; i < 500 && LastLines(log, 1) != "up"; ++i) ::usleep(10'000);
  StopAll({&stubborn}, std::chrono::milliseconds(100));
  EXPECT_FALSE(stubborn.running());
  Process missing({"missing", "/nowhere/lanyard-worker", {}, log});
  EXPECT_EQ(missing.Start().code(), absl::StatusCode::kNotFound);
  ::unlink(log.c_str());
}

// A log that a test writes to.
class LogFile {
 public:
  LogFile() : path_(::testing::TempDir() + "/lanyard_log_" + std::to_string(::getpid())) {
    Add("");
  }
  ~LogFile() { ::unlink(path_.c_str()); }
  void Add(const std::string& text) { std::ofstream(path_, std::ios::app) << text; }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

TEST(UpProcessTest, LastWordsAreWhatAProgramSaidItself) {
  LogFile log;
  EXPECT_EQ(LastWords(log.path()), "");
  log.Add("12:00:00.000 w1 info joined 127.0.0.1:7300 as 'w1'\n");
  EXPECT_EQ(LastWords(log.path()), "");
  log.Add("error: --memory: too small\n");
  EXPECT_EQ(LastWords(log.path()), "--memory: too small");
  log.Add("terminate called\n");
  EXPECT_EQ(LastWords(log.path()), "terminate called");
}

TEST(UpProcessTest, ComplaintsAreWarningsAndErrorsOnce) {
  LogFile log;
  Complaints complaints(log.path());
  using Lines = std::vector<std::string>;
  EXPECT_EQ(complaints.Next(), Lines{});
  log.Add("12:00:00.000 w1 info joined\n12:00:00.100 w1 warning not joined: no\nfree text\n12:0");
  EXPECT_EQ(complaints.Next(), Lines{"not joined: no"});
  log.Add("0:01.000 w1 error no room: \"info\"\n12:00:02.000 w1 warning not joined: no\n");
  EXPECT_EQ(complaints.Next(), Lines{"no room: \"info\""});
  EXPECT_EQ(complaints.Next(), Lines{});
}

}  // namespace
}  // namespace lanyard::cli
