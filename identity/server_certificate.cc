#include "identity/server_certificate.h"

#include <arpa/inet.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <array>

#include "absl/strings/ascii.h"
#include "base/file.h"
#include "identity/certificate.h"

namespace lanyard::identity {
namespace {

constexpr size_t kMaxChain = 10;

std::vector<std::string> NamesOf(X509* certificate) {
  using Names = std::unique_ptr<GENERAL_NAMES, OpenSslFree<GENERAL_NAMES_free>>;
  const Names names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  std::vector<std::string> out;
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type == GEN_DNS) {
      out.push_back(absl::AsciiStrToLower(
          absl::string_view(reinterpret_cast<const char*>(ASN1_STRING_get0_data(name->d.dNSName)),
                            static_cast<size_t>(ASN1_STRING_length(name->d.dNSName)))));
    } else if (name->type == GEN_IPADD) {
      const int bytes = ASN1_STRING_length(name->d.iPAddress);
      std::array<char, INET6_ADDRSTRLEN> text{};
      if ((bytes == 4 || bytes == 16) &&
          inet_ntop(bytes == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(name->d.iPAddress),
                    text.data(), text.size()) != nullptr) {
        out.emplace_back(text.data());
      }
    }
  }
  return out;
}

absl::StatusOr<std::vector<std::shared_ptr<X509>>> ChainOf(std::string_view pem) {
  std::vector<std::shared_ptr<X509>> out;
  const BioPtr bio = ReadBio(pem);
  while (X509* next = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    out.emplace_back(next, X509_free);
    if (out.size() > kMaxChain)
      return InvalidArgument("it holds more than ", kMaxChain, " certificates");
  }
  OpenSslError();  // the end of the text is one too
  if (out.empty()) return InvalidArgument("it holds no certificate in PEM");
  return out;
}

absl::StatusOr<std::string> ReadFile(const char* option, const std::string& path) {
  absl::StatusOr<std::string> text = ReadSmallFile(path);
  if (text.ok()) return text;
  const bool said = absl::IsFailedPrecondition(text.status());  // what to do about it
  return FailedPrecondition(
      option, ": ", Str(text.status().message()),
      said ? "" : "; the user that the coordinator runs as must be able to read it");
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ServerCertificate>> ServerCertificate::FromPem(
    std::string_view chain_pem, std::string_view key_pem) {
  auto out = std::make_shared<ServerCertificate>();
  ASSIGN_OR_RETURN(out->chain, ChainOf(chain_pem));
  const BioPtr bio = ReadBio(key_pem);
  // The callback refuses an encrypted key instead of asking at the terminal.
  const auto no_password = [](char*, int, int, void*) { return -1; };
  out->key.reset(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr), EVP_PKEY_free);
  if (out->key == nullptr) {
    return InvalidArgument("the key is not a private key in PEM without a password: ",
                           OpenSslError());
  }
  X509* const own = out->chain.front().get();
  if (X509_check_private_key(own, out->key.get()) != 1) {
    OpenSslError();
    return InvalidArgument(
        "the key is not that of the first certificate; the server's own certificate must stand "
        "first, then those of the CAs between it and the root");
  }
  out->names = NamesOf(own);
  out->not_before = NotBeforeOf(own);
  out->not_after = NotAfterOf(own);
  return std::shared_ptr<const ServerCertificate>(std::move(out));
}

bool ServerCertificate::IsFor(const std::string& host) const {
  X509* const own = chain.front().get();
  return X509_check_host(own, host.c_str(), 0, 0, nullptr) == 1 ||
         X509_check_ip_asc(own, host.c_str(), 0) == 1;
}

absl::StatusOr<std::shared_ptr<const ServerCertificate>> CertificateFiles::Read(UnixTime now) {
  read_ = Stamp();
  ASSIGN_OR_RETURN(const std::string chain, ReadFile("--http-cert", certificate_file_));
  ASSIGN_OR_RETURN(const std::string key, ReadFile("--http-key", key_file_));
  auto made = ServerCertificate::FromPem(chain, key);
  if (!made.ok()) {
    return InvalidArgument("--http-cert ", certificate_file_, " with --http-key ", key_file_, ": ",
                           Str(made.status().message()));
  }
  if (now > (*made)->not_after || now < (*made)->not_before) {
    return FailedPrecondition(
        "--http-cert ", certificate_file_,
        now > (*made)->not_after ? ": the certificate expired at " : ": it is valid from ",
        TimeText(now > (*made)->not_after ? (*made)->not_after : (*made)->not_before),
        now > (*made)->not_after ? "; renew it" : " on; compare the clocks");
  }
  return made;
}

bool CertificateFiles::Changed() const { return Stamp() != read_; }

// Through links, which is how some programs renew certificates.
std::string CertificateFiles::Stamp() const {
  std::string out;
  for (const std::string& file : {certificate_file_, key_file_}) {
    struct stat info {};
    if (::stat(file.c_str(), &info) != 0) info = {};
    absl::StrAppend(&out, info.st_dev, " ", info.st_ino, " ", info.st_size, " ",
                    info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, " ");
  }
  return out;
}

}  // namespace lanyard::identity
