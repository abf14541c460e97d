#include "net/client_hello.h"

#include <gtest/gtest.h>
#include <openssl/ssl.h>

#include <memory>
#include <string>

#include "net/acceptor.h"

namespace lanyard::net {
namespace {

using State = ClientHello::State;

// What OpenSSL sends first.
std::vector<uint8_t> RealHello(int version, const std::string& alpn) {
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()),
                                                                  SSL_CTX_free);
  SSL_CTX_set_max_proto_version(context.get(), version);
  const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), SSL_free);
  BIO* const out = BIO_new(BIO_s_mem());
  SSL_set_bio(ssl.get(), BIO_new(BIO_s_mem()), out);
  if (!alpn.empty())
    SSL_set_alpn_protos(ssl.get(), reinterpret_cast<const unsigned char*>(alpn.data()),
                        alpn.size());
  SSL_connect(ssl.get());
  char* data = nullptr;
  const long n = BIO_get_mem_data(out, &data);
  return {data, data + n};
}

TEST(ClientHello, ReadsVersionsAndProtocols) {
  const auto bytes = RealHello(TLS1_3_VERSION, "\x02h2\x0elanyard-join/1");
  const ClientHello hello = ParseClientHello(bytes);
  EXPECT_EQ(hello.state, State::kDone);
  EXPECT_TRUE(hello.tls13);
  EXPECT_EQ(hello.alpn, (std::vector<std::string>{"h2", "lanyard-join/1"}));
  const ClientHello old = ParseClientHello(RealHello(TLS1_2_VERSION, ""));
  EXPECT_EQ(old.state, State::kDone);
  EXPECT_FALSE(old.tls13);
  EXPECT_TRUE(old.alpn.empty());
}

TEST(ClientHello, EveryBeginningNeedsMore) {
  const auto bytes = RealHello(TLS1_3_VERSION, "\x02h2");
  for (size_t n = 0; n < bytes.size(); ++n)
    EXPECT_EQ(ParseClientHello({bytes.data(), n}).state, State::kNeedMore) << n;
}

TEST(ClientHello, OtherThingsAreToldApart) {
  const std::string http = "GET / HTTP/1.1\r\n";
  EXPECT_EQ(ParseClientHello({reinterpret_cast<const uint8_t*>(http.data()), http.size()}).state,
            State::kNotTls);
  const uint8_t too_long[] = {22, 3, 1, 0x40, 0};
  EXPECT_EQ(ParseClientHello(too_long).state, State::kBad);
  const uint8_t other_message[] = {22, 3, 1, 0, 4, 2, 0, 0, 0};
  EXPECT_EQ(ParseClientHello(other_message).state, State::kBad);
}

TEST(ClientHello, EveryAlteredByteIsReadWithoutHarm) {
  const auto bytes = RealHello(TLS1_3_VERSION, "\x02h2");
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int value = 0; value < 256; value += 5) {
      auto altered = bytes;
      altered[i] = static_cast<uint8_t>(value);
      ParseClientHello(altered);  // the sanitizers' build tells
    }
  }
}

}  // namespace
}  // namespace lanyard::net
