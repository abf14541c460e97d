#include "identity/openssl.h"

#include <openssl/err.h>
#include <openssl/pem.h>

namespace lanyard::identity {

std::string OpenSslError() {
  std::string out;
  while (const unsigned long code = ERR_get_error()) {
    const char* reason = ERR_reason_error_string(code);
    if (reason == nullptr) continue;
    if (!out.empty()) out += "; ";
    out += reason;
  }
  return out.empty() ? "no reason given" : out;
}

BioPtr ReadBio(std::string_view text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

std::string BioText(BIO* bio) {
  char* data = nullptr;
  const long n = BIO_get_mem_data(bio, &data);
  return n > 0 ? std::string(data, static_cast<size_t>(n)) : std::string();
}

X509Ptr X509FromPem(std::string_view pem) {
  const BioPtr bio = ReadBio(pem);
  X509Ptr out(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  if (out == nullptr) OpenSslError();
  return out;
}

std::string PemOf(X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(bio.get(), certificate);
  return BioText(bio.get());
}

}  // namespace lanyard::identity
