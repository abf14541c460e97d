// The CA of the HTTP front alone, with name constraints (RFC 5280, 4.2.1.10): it is what people put
// into their machines' stores, so it must be good for this pool and for no web site. It has a key
// of its own and signs nothing that a node of the cluster accepts
// (docs/decisions/0009-https.md).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "identity/key_pair.h"
#include "identity/openssl.h"
#include "identity/peer.h"

namespace lanyard::identity {

// What a server is reached by.
struct HttpsNames {
  std::vector<std::string> dns = {};        // in lower case
  std::vector<std::string> addresses = {};  // numeric
};

// Immutable, thread-safe; copies share the key.
class HttpsAuthority {
 public:
  // Permits `names`, and always: localhost, names that no public DNS has (.local, .lan, ...), and
  // addresses that the internet does not route.
  static absl::StatusOr<HttpsAuthority> Create(const HttpsNames& names, UnixTime now);
  // The same key and name with constraints for `names`. Who has the certificate of before goes on
  // with what that one permits.
  absl::StatusOr<HttpsAuthority> For(const HttpsNames& names, UnixTime now) const;
  // InvalidArgument when they do not belong together, or are no CA with constraints.
  static absl::StatusOr<HttpsAuthority> Load(std::string_view certificate_pem,
                                             std::string_view key_pem);

  const std::string& certificate_pem() const { return pem_; }
  std::string key_pem() const { return key_.ToPem(); }
  X509* certificate() const { return certificate_.get(); }
  UnixTime not_after() const;

  // What of `names` a certificate of this CA may say.
  HttpsNames Permitted(const HttpsNames& names) const;
  // A server's certificate (PEM). InvalidArgument for a name that is malformed or not permitted.
  absl::StatusOr<std::string> Issue(EVP_PKEY* key, const HttpsNames& names,
                                    int64_t lifetime_seconds, UnixTime now) const;

 private:
  HttpsAuthority(KeyPair key, X509Ptr certificate);
  static absl::StatusOr<HttpsAuthority> Make(KeyPair key, const HttpsNames& names, UnixTime now);
  absl::Status Check(const std::string& general_name) const;

  KeyPair key_;
  std::shared_ptr<X509> certificate_;
  std::string pem_;
};

// The names of a machine in the local suffixes: "pc1.local", "pc1.lan", ... for "pc1"; none for a
// name with a dot.
std::vector<std::string> LocalNames(const std::string& machine);

}  // namespace lanyard::identity
