#include "web/browser.h"

#include <gtest/gtest.h>

#include "web/api.h"

namespace lanyard::web {
namespace {

class BrowserTest : public ::testing::Test {
 protected:
  BrowserTest() {
    policy_.listen = *ParseListen("127.0.0.1:8080");
    policy_.origins = {"https://chat.example", "app://obsidian.md"};
  }
  // The status of the answer, or 0 where the request goes on.
  int Judge(BrowserHeaders request) {
    if (request.host.empty()) request.host = "127.0.0.1:8080";
    if (request.method.empty()) request.method = "GET";
    if (request.path.empty()) request.path = "/v1/models";
    last_ = JudgeBrowser(request, policy_);
    return last_.answer.has_value() ? last_.answer->status : 0;
  }
  std::string Header(const std::string& name) const {
    for (const auto& headers :
         {last_.headers,
          last_.answer.has_value() ? last_.answer->headers : decltype(last_.headers)()}) {
      for (const auto& [n, value] : headers) {
        if (n == name) return value;
      }
    }
    return "";
  }

  HostPolicy policy_;
  BrowserVerdict last_;
};

TEST_F(BrowserTest, ProgramsAreNotAskedAnything) {
  EXPECT_EQ(Judge({.method = "POST"}), 0);
  EXPECT_EQ(Judge({.method = "POST", .content_type = "text/plain"}), 0);
  EXPECT_EQ(Judge({.method = "OPTIONS"}), 0);
  EXPECT_EQ(Judge({.path = "/admin/v1/status"}), 0);
  EXPECT_EQ(Header("Access-Control-Allow-Origin"), "");
}

TEST_F(BrowserTest, OnlyItsOwnOriginPasses) {
  EXPECT_EQ(Judge({.origin = "http://127.0.0.1:8080"}), 0);
  EXPECT_EQ(Judge({.path = "/admin/v1/status", .origin = "http://127.0.0.1:8080"}), 0);
  EXPECT_EQ(Judge({.host = "LocalHost:8080", .origin = "http://localhost:8080"}), 0);
  for (const char* foreign :
       {"http://localhost:3000", "http://127.0.0.1:3000", "http://127.0.0.1", "http://[::1]:8080",
        "https://127.0.0.1:8080", "http://localhost:8080", "https://evil.example", "null",
        "file://", "app://other.md", "https://chat.example:444", "http://chat.example",
        "https://chat.example.evil", "127.0.0.1:8080", "several"}) {
    EXPECT_EQ(Judge({.origin = foreign}), 403) << foreign;
    EXPECT_EQ(Header("Access-Control-Allow-Origin"), "") << foreign;
    EXPECT_EQ(Judge({.method = "OPTIONS", .origin = foreign, .requested_method = "POST"}), 403);
  }
  EXPECT_EQ(Judge({.host = "localhost:80", .origin = "http://localhost"}), 0);
  policy_.tls = true;
  EXPECT_EQ(Judge({.host = "localhost:443", .origin = "https://localhost"}), 0);
  EXPECT_EQ(Judge({.host = "localhost:80", .origin = "https://localhost"}), 403);
  EXPECT_EQ(Judge({.origin = "https://127.0.0.1:8080"}), 0);
  EXPECT_EQ(Judge({.origin = "http://127.0.0.1:8080"}), 403);
}

TEST_F(BrowserTest, AnAllowedOriginIsTold) {
  EXPECT_EQ(Judge({.origin = "https://chat.example"}), 0);
  EXPECT_EQ(Header("Access-Control-Allow-Origin"), "https://chat.example");
  EXPECT_EQ(Header("Vary"), "Origin");
  EXPECT_EQ(Header("Access-Control-Allow-Credentials"), "");
  EXPECT_EQ(Judge({.origin = "app://obsidian.md"}), 0);
  // Whether there is an origin or not, an answer that is kept must not be another's.
  EXPECT_EQ(Judge({}), 0);
  EXPECT_EQ(Header("Vary"), "Origin");
  EXPECT_EQ(Judge({.method = "OPTIONS",
                   .origin = "https://chat.example",
                   .requested_method = "POST",
                   .requested_headers = "authorization,content-type,x-stainless-os"}),
            204);
  EXPECT_EQ(Header("Access-Control-Allow-Headers"), "authorization,content-type,x-stainless-os");
  EXPECT_NE(Header("Access-Control-Allow-Methods").find("POST"), std::string::npos);
  EXPECT_EQ(Header("Access-Control-Allow-Origin"), "https://chat.example");
  EXPECT_TRUE(last_.answer->body.empty());
  Judge({.method = "OPTIONS",
         .origin = "https://chat.example",
         .requested_method = "POST",
         .requested_headers = "a;b: c"});
  EXPECT_EQ(Header("Access-Control-Allow-Headers"), "");
}

TEST_F(BrowserTest, AdministratorsRoutesAnswerNoOtherOrigin) {
  const Router router = MakeRouter(nullptr, nullptr, nullptr);
  for (const Route& route : router.routes()) {
    EXPECT_EQ(IsAdminPath(route.path), route.access == Access::kAdmin) << route.path;
  }
  EXPECT_FALSE(IsAdminPath("/administer"));
  for (const char* path : {"/admin", "/admin/v1/keys", "/admin/nope"}) {
    EXPECT_EQ(Judge({.path = path, .origin = "https://chat.example"}), 403) << path;
    EXPECT_EQ(Header("Access-Control-Allow-Origin"), "") << path;
    EXPECT_EQ(Judge({.method = "OPTIONS",
                     .path = path,
                     .origin = "https://chat.example",
                     .requested_method = "POST"}),
              403);
    EXPECT_EQ(Judge({.path = path, .fetch_site = "cross-site"}), 403);  // an image, a frame
    EXPECT_EQ(Judge({.path = path, .fetch_site = "same-site"}), 403);
    EXPECT_EQ(Judge({.path = path, .fetch_site = "none"}), 0);  // typed in
    EXPECT_EQ(Judge({.path = path, .fetch_site = "same-origin"}), 0);
  }
}

TEST_F(BrowserTest, APageSendsJson) {
  const auto post = [&](const char* type, const char* origin, const char* site) {
    return Judge({.method = "POST", .origin = origin, .fetch_site = site, .content_type = type});
  };
  for (const char* type :
       {"application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"}) {
    EXPECT_EQ(post(type, "http://127.0.0.1:8080", ""), 0) << type;
    EXPECT_EQ(post(type, "https://chat.example", "cross-site"), 0) << type;
  }
  for (const char* type : {"", "text/plain", "application/x-www-form-urlencoded",
                           "multipart/form-data; boundary=application/json", "text/json"}) {
    EXPECT_EQ(post(type, "http://127.0.0.1:8080", ""), 415) << type;
    EXPECT_EQ(post(type, "https://chat.example", ""), 415) << type;
    EXPECT_EQ(Header("Access-Control-Allow-Origin"), "https://chat.example");  // it may read why
    EXPECT_EQ(post(type, "", "same-origin"), 415) << type;
  }
}

TEST(ParseOriginTest, WhatAnOriginIs) {
  for (const char* good : {"https://chat.example", "http://localhost:3000", "app://obsidian.md",
                           "vscode-webview://1a2b", "chrome-extension://abc", "file://",
                           "http://[::1]:8080", "http://a:443", "https://a:80"}) {
    const auto origin = ParseOrigin(good);
    ASSERT_TRUE(origin.ok()) << origin.status();
    EXPECT_EQ(*origin, good);
  }
  EXPECT_EQ(*ParseOrigin("HTTPS://Chat.Example"), "https://chat.example");
  EXPECT_EQ(*ParseOrigin("https://chat.example:443"), "https://chat.example");
  EXPECT_EQ(*ParseOrigin("http://[::1]:80"), "http://[::1]");
  for (const char* bad : {"", "*", "null", "chat.example", "https://", "https://a/", "https://a b",
                          "https://*.example", "://a", "https://a,https://b"}) {
    EXPECT_FALSE(ParseOrigin(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace lanyard::web
