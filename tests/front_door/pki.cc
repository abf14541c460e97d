#include "tests/front_door/pki.h"

#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <atomic>

namespace lanyard::front_door {
namespace {

void Extend(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  ASSERT_NE(extension, nullptr) << value;
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

Identity Make(const IssueOptions& options, const Identity* authority) {
  static std::atomic<long> serial{1};
  Identity out{Key(EVP_EC_gen("P-256"), EVP_PKEY_free), Certificate(X509_new(), X509_free)};
  X509* const x = out.certificate.get();
  X509_set_version(x, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(x), serial++);
  X509_gmtime_adj(X509_getm_notBefore(x), options.from_seconds);
  X509_gmtime_adj(X509_getm_notAfter(x), options.to_seconds);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(options.common_name.c_str()),
                             -1, -1, 0);
  X509* const issuer = authority != nullptr ? authority->certificate.get() : x;
  X509_set_issuer_name(x, X509_get_subject_name(issuer));
  X509_set_pubkey(x, out.key.get());
  if (authority == nullptr) Extend(x, issuer, NID_basic_constraints, "critical,CA:TRUE");
  if (!options.alternative_names.empty())
    Extend(x, issuer, NID_subject_alt_name, options.alternative_names);
  X509_sign(x, authority != nullptr ? authority->key.get() : out.key.get(), EVP_sha256());
  return out;
}

void Present(SSL_CTX* context, const Identity& identity) {
  EXPECT_EQ(SSL_CTX_use_certificate(context, identity.certificate.get()), 1);
  EXPECT_EQ(SSL_CTX_use_PrivateKey(context, identity.key.get()), 1);
}

std::shared_ptr<SSL_CTX> Context(const SSL_METHOD* method, const Identity& authority) {
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(method), SSL_CTX_free);
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), authority.certificate.get());
  return context;
}

}  // namespace

Identity MakeAuthority(const std::string& common_name) {
  return Make({.common_name = common_name, .alternative_names = "", .to_seconds = 86400}, nullptr);
}

Identity Issue(const Identity& authority, const IssueOptions& options) {
  return Make(options, &authority);
}

std::string CommonNameOfPem(const std::string& pem) {
  const std::unique_ptr<BIO, decltype(&BIO_free_all)> bio(
      BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free_all);
  const Certificate certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr), X509_free);
  if (certificate == nullptr) return "";
  char name[256] = "";
  X509_NAME_get_text_by_NID(X509_get_subject_name(certificate.get()), NID_commonName, name,
                            sizeof(name));
  return name;
}

std::shared_ptr<SSL_CTX> ServerContext(const Identity& identity, const Identity& authority) {
  auto context = Context(TLS_server_method(), authority);
  Present(context.get(), identity);
  return context;
}

std::shared_ptr<SSL_CTX> ClientContext(const Identity& authority, const Identity* identity) {
  auto context = Context(TLS_client_method(), authority);
  if (identity != nullptr) Present(context.get(), *identity);
  return context;
}

}  // namespace lanyard::front_door
