// Owners for OpenSSL's objects, and its error queue as text. Only this room and the TLS ends of
// net/, web/ and cli/ use them.
#pragma once

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <memory>
#include <string>
#include <string_view>

namespace lanyard::identity {

template <auto kFree>
struct OpenSslFree {
  template <typename T>
  void operator()(T* p) const {
    kFree(p);
  }
};

using BioPtr = std::unique_ptr<BIO, OpenSslFree<BIO_free_all>>;
using PkeyPtr = std::unique_ptr<EVP_PKEY, OpenSslFree<EVP_PKEY_free>>;
using X509Ptr = std::unique_ptr<X509, OpenSslFree<X509_free>>;
using X509ReqPtr = std::unique_ptr<X509_REQ, OpenSslFree<X509_REQ_free>>;

// Returns what OpenSSL says went wrong in this thread, and empties its queue; "no reason given"
// when it says nothing.
std::string OpenSslError();

// Reads from `text`, which must outlive the result.
BioPtr ReadBio(std::string_view text);
// The bytes written to a memory BIO.
std::string BioText(BIO* bio);

// The first certificate of a PEM text; null when there is none.
X509Ptr X509FromPem(std::string_view pem);
std::string PemOf(X509* certificate);

}  // namespace lanyard::identity
