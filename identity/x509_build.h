// The parts of a certificate that is being made: what authority.cc and https_authority.cc have in
// common.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "identity/key_pair.h"
#include "identity/openssl.h"
#include "identity/peer.h"

namespace lanyard::identity {

// InvalidArgument unless it is made of letters, digits and `extra`, so that it can stand in
// OpenSSL's lists of names.
absl::Status CheckNameText(std::string_view what, std::string_view name, std::string_view extra);

// A version 3 certificate with 16 random bytes as serial number and the subject O=Lanyard,
// CN=`common_name`. The subject is also the issuer when `issuer` is null.
absl::StatusOr<X509Ptr> BeginCertificate(X509* issuer, EVP_PKEY* key,
                                         const std::string& common_name);
void SetTimes(X509* certificate, UnixTime from, UnixTime to);
absl::Status AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value);
absl::Status SignCertificate(X509* certificate, EVP_PKEY* authority_key);

struct CaPair {
  KeyPair key;
  X509Ptr certificate;
};
// Reads a CA that was kept. InvalidArgument, in which `what` names it ("the cluster's CA"), when a
// text is not PEM, when the two do not belong together, or when the certificate is not a CA's.
absl::StatusOr<CaPair> LoadCa(std::string_view what, std::string_view certificate_pem,
                              std::string_view key_pem);

}  // namespace lanyard::identity
