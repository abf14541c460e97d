// Certificates for tests: a CA, and the certificates that it signs.
#pragma once

#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

namespace lanyard::front_door {

using Key = std::shared_ptr<EVP_PKEY>;
using Certificate = std::shared_ptr<X509>;

struct Identity {
  Key key;
  Certificate certificate;
};

struct IssueOptions {
  std::string common_name;
  std::string alternative_names;  // OpenSSL's form: "DNS:localhost,IP:127.0.0.1"
  long from_seconds = -60;        // counted from now
  long to_seconds = 3600;
};

Identity MakeAuthority(const std::string& common_name);
Identity Issue(const Identity& authority, const IssueOptions& options);

std::string CommonNameOfPem(const std::string& pem);

// TLS 1.3 only. The server asks for a client certificate of `authority` and goes on without one;
// the client checks the server's.
std::shared_ptr<SSL_CTX> ServerContext(const Identity& identity, const Identity& authority);
std::shared_ptr<SSL_CTX> ClientContext(const Identity& authority,
                                       const Identity* identity = nullptr);

}  // namespace lanyard::front_door
