#include "identity/https_authority.h"

#include <openssl/x509v3.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "identity/authority.h"
#include "identity/certificate.h"
#include "identity/x509_build.h"

namespace lanyard::identity {
namespace {

// Suffixes that are no top-level domain of the public DNS and are kept from becoming one: RFC 6762
// (local and its appendix G), RFC 8375, RFC 6761, ICANN's reservations of 2018 and 2024.
constexpr const char* kLocalSuffixes[] = {"local",   "lan",  "home.arpa", "internal", "intranet",
                                          "private", "home", "corp",      "test",     "localhost"};
// Of these a machine's own name is put into the certificate: routers and mDNS hand them out.
constexpr const char* kMachineSuffixes[] = {"local", "lan", "home.arpa", "internal", "home"};

// RFC 1918, 6598, 3927, loopback; RFC 4193, 4291.
constexpr const char* kLocalNetworks[] = {"10.0.0.0/255.0.0.0",
                                          "172.16.0.0/255.240.0.0",
                                          "192.168.0.0/255.255.0.0",
                                          "100.64.0.0/255.192.0.0",
                                          "169.254.0.0/255.255.0.0",
                                          "127.0.0.0/255.0.0.0",
                                          "fc00::/fe00::",
                                          "fe80::/ffc0::",
                                          "::1/ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"};

using Constraints = std::unique_ptr<NAME_CONSTRAINTS, OpenSslFree<NAME_CONSTRAINTS_free>>;

bool IsLocal(const std::string& dns) {
  return std::any_of(std::begin(kLocalSuffixes), std::end(kLocalSuffixes), [&](const char* s) {
    return dns == s || absl::EndsWith(dns, absl::StrCat(".", s));
  });
}

// A permitted "studio" also permits every name under it, and .studio is a domain of the public DNS:
// a name without a dot is permitted without those under it.
std::string ConstraintOf(const std::string& dns, const std::vector<std::string>& all) {
  if (IsLocal(dns)) return "";
  if (dns.find('.') != dns.npos) return ",permitted;DNS:" + dns;
  const bool used = std::any_of(all.begin(), all.end(), [&](const std::string& other) {
    return absl::EndsWith(other, "." + dns);
  });
  return used ? "" : absl::StrCat(",permitted;DNS:", dns, ",excluded;DNS:.", dns);
}

std::string ConstraintsFor(const HttpsNames& names) {
  std::string out = "critical";
  for (const char* suffix : kLocalSuffixes) absl::StrAppend(&out, ",permitted;DNS:", suffix);
  for (const std::string& dns : names.dns) out += ConstraintOf(dns, names.dns);
  for (const char* network : kLocalNetworks) absl::StrAppend(&out, ",permitted;IP:", network);
  for (const std::string& address : names.addresses) {
    const bool v6 = address.find(':') != address.npos;
    absl::StrAppend(&out, ",permitted;IP:", address, "/",
                    v6 ? "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" : "255.255.255.255");
  }
  return out;
}

absl::Status CheckText(const HttpsNames& names) {
  for (const std::string& dns : names.dns) RETURN_IF_ERROR(CheckNameText("DNS name", dns, ".-_"));
  for (const std::string& address : names.addresses)
    RETURN_IF_ERROR(CheckNameText("address", address, ".:"));
  return absl::OkStatus();
}

std::string AlternativeNames(const HttpsNames& names) {
  std::string out;
  for (const std::string& dns : names.dns)
    absl::StrAppend(&out, out.empty() ? "" : ",", "DNS:", dns);
  for (const std::string& address : names.addresses)
    absl::StrAppend(&out, out.empty() ? "" : ",", "IP:", address);
  return out;
}

}  // namespace

HttpsAuthority::HttpsAuthority(KeyPair key, X509Ptr certificate)
    : key_(std::move(key)), certificate_(std::move(certificate)), pem_(PemOf(certificate_.get())) {}

absl::StatusOr<HttpsAuthority> HttpsAuthority::Make(KeyPair key, const HttpsNames& names,
                                                    UnixTime now) {
  RETURN_IF_ERROR(CheckText(names));
  ASSIGN_OR_RETURN(
      X509Ptr certificate,
      BeginCertificate(nullptr, key.get(), "Lanyard HTTPS " + key.node_id().substr(0, 16)));
  X509* const x = certificate.get();
  SetTimes(x, kAuthorityFrom, now + kAuthorityDays * 24 * 3600);
  RETURN_IF_ERROR(AddExtension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
  RETURN_IF_ERROR(AddExtension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign"));
  // For servers: neither mail nor programs nor clients are signed by it.
  RETURN_IF_ERROR(AddExtension(x, x, NID_ext_key_usage, "serverAuth"));
  RETURN_IF_ERROR(AddExtension(x, x, NID_subject_key_identifier, "hash"));
  RETURN_IF_ERROR(AddExtension(x, x, NID_name_constraints, ConstraintsFor(names)));
  RETURN_IF_ERROR(SignCertificate(x, key.get()));
  return HttpsAuthority(std::move(key), std::move(certificate));
}

absl::StatusOr<HttpsAuthority> HttpsAuthority::Create(const HttpsNames& names, UnixTime now) {
  ASSIGN_OR_RETURN(KeyPair key, KeyPair::Generate());
  return Make(std::move(key), names, now);
}

absl::StatusOr<HttpsAuthority> HttpsAuthority::For(const HttpsNames& names, UnixTime now) const {
  return Make(key_, names, now);
}

absl::StatusOr<HttpsAuthority> HttpsAuthority::Load(std::string_view certificate_pem,
                                                    std::string_view key_pem) {
  ASSIGN_OR_RETURN(CaPair ca, LoadCa("HTTPS's CA", certificate_pem, key_pem));
  if (X509_get_ext_by_NID(ca.certificate.get(), NID_name_constraints, -1) < 0)
    return InvalidArgument("the certificate of HTTPS's CA has no name constraints");
  return HttpsAuthority(std::move(ca.key), std::move(ca.certificate));
}

UnixTime HttpsAuthority::not_after() const { return NotAfterOf(certificate_.get()); }

// By OpenSSL's own reading of the constraints, on a certificate that has this name alone.
absl::Status HttpsAuthority::Check(const std::string& general_name) const {
  ASSIGN_OR_RETURN(const X509Ptr probe, BeginCertificate(certificate_.get(), key_.get(), "a name"));
  RETURN_IF_ERROR(
      AddExtension(probe.get(), certificate_.get(), NID_subject_alt_name, general_name));
  RETURN_IF_ERROR(SignCertificate(probe.get(), key_.get()));
  // Without it the check below sees no name at all, and permits it.
  if (X509_check_purpose(probe.get(), -1, 0) != 1)
    return Internal("cannot read a certificate that was just made: ", OpenSslError());
  const Constraints constraints(static_cast<NAME_CONSTRAINTS*>(
      X509_get_ext_d2i(certificate_.get(), NID_name_constraints, nullptr, nullptr)));
  if (constraints == nullptr) return Internal("the CA of HTTPS has no name constraints");
  const int verdict = NAME_CONSTRAINTS_check(probe.get(), constraints.get());
  if (verdict == X509_V_OK) return absl::OkStatus();
  return InvalidArgument("the CA of HTTPS does not permit ", general_name, ": ",
                         X509_verify_cert_error_string(verdict));
}

HttpsNames HttpsAuthority::Permitted(const HttpsNames& names) const {
  HttpsNames out;
  for (const std::string& dns : names.dns) {
    if (Check("DNS:" + dns).ok()) out.dns.push_back(dns);
  }
  for (const std::string& address : names.addresses) {
    if (Check("IP:" + address).ok()) out.addresses.push_back(address);
  }
  return out;
}

absl::StatusOr<std::string> HttpsAuthority::Issue(EVP_PKEY* key, const HttpsNames& names,
                                                  int64_t lifetime_seconds, UnixTime now) const {
  RETURN_IF_ERROR(CheckText(names));
  const std::string alternative = AlternativeNames(names);
  if (alternative.empty()) return InvalidArgument("a certificate for no name");
  RETURN_IF_ERROR(Check(alternative));
  X509* const ca = certificate_.get();
  // With spaces: where there is no DNS name, a common name that looks like one is taken for it.
  ASSIGN_OR_RETURN(const X509Ptr certificate, BeginCertificate(ca, key, "A Lanyard pool"));
  X509* const x = certificate.get();
  SetTimes(x, now - kClockToleranceSeconds, now + lifetime_seconds);
  RETURN_IF_ERROR(AddExtension(x, ca, NID_basic_constraints, "critical,CA:FALSE"));
  RETURN_IF_ERROR(AddExtension(x, ca, NID_key_usage, "critical,digitalSignature"));
  RETURN_IF_ERROR(AddExtension(x, ca, NID_ext_key_usage, "serverAuth"));
  RETURN_IF_ERROR(AddExtension(x, ca, NID_authority_key_identifier, "keyid"));
  RETURN_IF_ERROR(AddExtension(x, ca, NID_subject_alt_name, alternative));
  RETURN_IF_ERROR(SignCertificate(x, key_.get()));
  return PemOf(x);
}

std::vector<std::string> LocalNames(const std::string& machine) {
  std::vector<std::string> out;
  if (machine.find('.') != machine.npos) return out;
  for (const char* suffix : kMachineSuffixes) out.push_back(absl::StrCat(machine, ".", suffix));
  return out;
}

}  // namespace lanyard::identity
