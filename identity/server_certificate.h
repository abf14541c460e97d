// What an HTTPS server shows: a key, its certificate and the CAs between it and a root. Made by
// https_authority.h, or the house's own, read from two files of which somebody else renews both.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "identity/openssl.h"
#include "identity/peer.h"

namespace lanyard::identity {

// Immutable.
struct ServerCertificate {
  std::shared_ptr<EVP_PKEY> key;
  std::vector<std::shared_ptr<X509>> chain;  // the server's own first
  std::vector<std::string> names;            // DNS names in lower case, and addresses
  UnixTime not_before = 0;
  UnixTime not_after = 0;

  // InvalidArgument: not PEM, an encrypted key, a key that is not the first certificate's.
  static absl::StatusOr<std::shared_ptr<const ServerCertificate>> FromPem(
      std::string_view chain_pem, std::string_view key_pem);
  // Whether a client that asks for this name or address accepts it.
  bool IsFor(const std::string& host) const;
};

// Two files, read again when one of them has changed. Not thread-safe.
class CertificateFiles {
 public:
  CertificateFiles(std::string certificate_file, std::string key_file)
      : certificate_file_(std::move(certificate_file)), key_file_(std::move(key_file)) {}

  // Reads both. Errors name the file, what it is and what to do; a certificate that is not valid at
  // `now` is one.
  absl::StatusOr<std::shared_ptr<const ServerCertificate>> Read(UnixTime now);
  // Whether the files are others than at the last Read.
  bool Changed() const;

 private:
  std::string Stamp() const;

  const std::string certificate_file_;
  const std::string key_file_;
  std::string read_;  // the stamp
};

}  // namespace lanyard::identity
