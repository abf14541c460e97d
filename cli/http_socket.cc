#include "cli/http_socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <utility>

#include "base/file.h"
#include "cli/running_pools.h"
#include "identity/openssl.h"

namespace lanyard::cli {
namespace {

constexpr int kPollMs = 100;  // how often *stop is read

// Waits until the socket is ready for `events`.
absl::Status WaitFor(int fd, short events, int timeout_ms, const std::atomic<bool>* stop) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (true) {
    if (stop != nullptr && stop->load()) return absl::CancelledError("interrupted");
    pollfd p{.fd = fd, .events = events, .revents = 0};
    const int n = ::poll(&p, 1, kPollMs);
    if (n > 0) return absl::OkStatus();
    if (n < 0 && errno != EINTR) return Internal("poll: ", std::strerror(errno));
    if (std::chrono::steady_clock::now() >= end) {
      return absl::DeadlineExceededError(
          absl::StrCat("no answer within ", timeout_ms / 1000, " s"));
    }
  }
}

std::string TimeText(const ASN1_TIME* time) {
  std::unique_ptr<BIO, decltype(&BIO_free_all)> bio(BIO_new(BIO_s_mem()), BIO_free_all);
  ASN1_TIME_print(bio.get(), time);
  char* data = nullptr;
  const long n = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<size_t>(n > 0 ? n : 0)};
}

// Returns "pc1, 192.168.1.10": the names that a certificate is for, without anything that could
// move a terminal's cursor.
std::string NamesOf(X509* certificate) {
  std::string out;
  auto* names = static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
    std::string text;
    if (name->type == GEN_DNS) {
      text.assign(reinterpret_cast<const char*>(ASN1_STRING_get0_data(name->d.dNSName)),
                  static_cast<size_t>(ASN1_STRING_length(name->d.dNSName)));
    } else if (name->type == GEN_IPADD) {
      char address[INET6_ADDRSTRLEN] = "";
      const int length = ASN1_STRING_length(name->d.iPAddress);
      if (length == 4 || length == 16) {
        inet_ntop(length == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(name->d.iPAddress),
                  address, sizeof(address));
      }
      text = address;
    }
    for (char& c : text)
      c = static_cast<unsigned char>(c) > ' ' && static_cast<unsigned char>(c) < 0x7f ? c : '?';
    if (!text.empty()) absl::StrAppend(&out, out.empty() ? "" : ", ", text.substr(0, 100));
  }
  GENERAL_NAMES_free(names);
  return out.empty() ? "nobody" : out;
}

bool IsAddress(const std::string& host) {
  unsigned char bytes[16];
  return inet_pton(AF_INET, host.c_str(), bytes) == 1 ||
         inet_pton(AF_INET6, host.c_str(), bytes) == 1;
}

// OpenSSL writes without MSG_NOSIGNAL, and a peer that is gone must not end the program.
class NoSigpipe {
 public:
  NoSigpipe() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~NoSigpipe() {
    const timespec now{};
    sigtimedwait(&pipe_, nullptr, &now);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoSigpipe(const NoSigpipe&) = delete;
  NoSigpipe& operator=(const NoSigpipe&) = delete;

 private:
  sigset_t pipe_{};
  sigset_t before_{};
};

// Closes at the end of a scope unless it was released.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

absl::StatusOr<int> ConnectOne(const addrinfo& a, const SocketOptions& o) {
  Descriptor fd(::socket(a.ai_family, a.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a.ai_protocol));
  if (fd.get() < 0) return Unavailable(std::strerror(errno));
  int error = ::connect(fd.get(), a.ai_addr, a.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS || error == EINTR) {
    RETURN_IF_ERROR(WaitFor(fd.get(), POLLOUT, o.connect_timeout_ms, o.stop));
    socklen_t size = sizeof(error);
    ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  }
  if (error != 0) return Unavailable(std::strerror(error));
  const int on = 1;
  ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return fd.Release();
}

absl::StatusOr<int> ConnectAny(const SocketOptions& o) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int rc = ::getaddrinfo(o.host.c_str(), o.port.c_str(), &hints, &found); rc != 0) {
    return Unavailable("cannot reach the pool at ", o.url, ": ", ::gai_strerror(rc),
                       "\n  Check the host's name in --url or LANYARD_URL.");
  }
  absl::StatusOr<int> fd = Unavailable("no address");
  for (const addrinfo* a = found; a != nullptr && !fd.ok() && !absl::IsCancelled(fd.status());
       a = a->ai_next) {
    fd = ConnectOne(*a, o);
  }
  ::freeaddrinfo(found);
  if (fd.ok() || absl::IsCancelled(fd.status())) return fd;
  return Unavailable("cannot reach the pool at ", o.url, ": ", fd.status().message(),
                     HowToFindAPool());
}

// OpenSSL's words for a file that is not there, or not this user's to read, fit no exit code.
absl::Status CheckReadable(const std::string& file) {
  struct stat info {};
  // It is not opened: what a pipe holds can be read once.
  if (file.empty()) return absl::OkStatus();
  if (::access(file.c_str(), R_OK) != 0 || ::stat(file.c_str(), &info) != 0)
    return FileError("read", file, errno);
  return S_ISDIR(info.st_mode) ? FileError("read", file, EISDIR) : absl::OkStatus();
}

}  // namespace

struct HttpSocket::Verdict {
  int error = X509_V_OK;
  std::string names;
  std::string not_before;
  std::string not_after;
};

absl::StatusOr<std::shared_ptr<SSL_CTX>> MakeTlsContext(const TlsFiles& files) {
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
  if (context == nullptr) return Internal("cannot use TLS: ", identity::OpenSslError());
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  ERR_clear_error();
  if (files.cert.empty() != files.key.empty()) {
    return InvalidArgument(
        "a client's certificate and its key are given together: --cert FILE --key FILE");
  }
  for (const std::string* file : {&files.ca, &files.cert, &files.key})
    RETURN_IF_ERROR(CheckReadable(*file));
  if (files.ca.empty()) {
    SSL_CTX_set_default_verify_paths(context.get());
  } else if (SSL_CTX_load_verify_file(context.get(), files.ca.c_str()) != 1) {
    return InvalidArgument("cannot read a CA's certificate from ", files.ca, ": ",
                           identity::OpenSslError());
  }
  if (!files.cert.empty()) {
    if (SSL_CTX_use_certificate_chain_file(context.get(), files.cert.c_str()) != 1) {
      return InvalidArgument("cannot read a certificate from ", files.cert, ": ",
                             identity::OpenSslError());
    }
    // No password is asked for at the terminal.
    SSL_CTX_set_default_passwd_cb(context.get(), [](char*, int, int, void*) { return -1; });
    if (SSL_CTX_use_PrivateKey_file(context.get(), files.key.c_str(), SSL_FILETYPE_PEM) != 1) {
      return InvalidArgument("cannot use the key in ", files.key, " with ", files.cert, ": ",
                             identity::OpenSslError());
    }
  }
  return context;
}

HttpSocket::HttpSocket(const SocketOptions& options, int fd)
    : options_(options), fd_(fd), verdict_(new Verdict) {}

HttpSocket::~HttpSocket() {
  SSL_free(ssl_);
  ::close(fd_);
}

absl::StatusOr<std::unique_ptr<HttpSocket>> HttpSocket::Connect(const SocketOptions& options) {
  ASSIGN_OR_RETURN(const int fd, ConnectAny(options));
  auto out = std::unique_ptr<HttpSocket>(new HttpSocket(options, fd));
  if (options.tls != nullptr) RETURN_IF_ERROR(out->Handshake());
  return out;
}

absl::Status HttpSocket::Handshake() {
  ssl_ = SSL_new(options_.tls.get());
  if (ssl_ == nullptr) return Internal("cannot use TLS: ", identity::OpenSslError());
  const std::string& name = options_.tls_name.empty() ? options_.host : options_.tls_name;
  const bool address = IsAddress(name);
  const int named = address ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl_), name.c_str())
                            : SSL_set1_host(ssl_, name.c_str());
  if (named != 1)
    // Otherwise any name would be accepted.
    return Internal("cannot use TLS: ", identity::OpenSslError());
  if (!address) SSL_set_tlsext_host_name(ssl_, name.c_str());
  SSL_set_app_data(ssl_, verdict_.get());
  // Keeps what was wrong and with which certificate. The verdict stays OpenSSL's.
  SSL_set_verify(ssl_, SSL_VERIFY_PEER, [](int good, X509_STORE_CTX* context) {
    const auto* ssl = static_cast<SSL*>(
        X509_STORE_CTX_get_ex_data(context, SSL_get_ex_data_X509_STORE_CTX_idx()));
    auto* verdict = static_cast<Verdict*>(SSL_get_app_data(ssl));
    X509* const certificate = X509_STORE_CTX_get_current_cert(context);
    if (good == 0 && verdict->error == X509_V_OK && certificate != nullptr) {
      verdict->error = X509_STORE_CTX_get_error(context);
      verdict->names = NamesOf(certificate);
      verdict->not_before = TimeText(X509_get0_notBefore(certificate));
      verdict->not_after = TimeText(X509_get0_notAfter(certificate));
    }
    return good;
  });
  SSL_set_fd(ssl_, fd_);
  while (true) {
    ERR_clear_error();
    const NoSigpipe guard;
    const int result = SSL_connect(ssl_);
    if (result == 1) return absl::OkStatus();
    RETURN_IF_ERROR(WaitForTls(result, options_.connect_timeout_ms));
  }
}

absl::Status HttpSocket::WaitForTls(int result, int timeout_ms) {
  switch (SSL_get_error(ssl_, result)) {
    case SSL_ERROR_WANT_READ:
      return WaitFor(fd_, POLLIN, timeout_ms, options_.stop);
    case SSL_ERROR_WANT_WRITE:
      return WaitFor(fd_, POLLOUT, timeout_ms, options_.stop);
    default:
      return TlsError();
  }
}

absl::Status HttpSocket::TlsError() const {
  const std::string pool = absl::StrCat("the pool at ", options_.url);
  const Verdict& v = *verdict_;
  const int reason = ERR_GET_REASON(ERR_peek_error());
  const std::string words = identity::OpenSslError();
  switch (v.error) {
    case X509_V_OK:
      break;
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return absl::UnauthenticatedError(
          absl::StrCat("the certificate of ", pool, " has expired (", v.not_after,
                       ")\n  Compare the clocks of both machines with: date"));
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return absl::UnauthenticatedError(
          absl::StrCat("the certificate of ", pool, " is not valid yet (from ", v.not_before,
                       ")\n  Compare the clocks of both machines with: date"));
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return absl::UnauthenticatedError(
          absl::StrCat("the certificate of ", pool, " is for ", v.names, ", not for ",
                       options_.tls_name.empty() ? options_.host : options_.tls_name,
                       "\n  Use one of those names in --url."));
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      return absl::UnauthenticatedError(absl::StrCat(
          "the certificate of ", pool, " is not signed by ",
          options_.files.ca.empty() ? std::string("a CA that this machine knows")
                                    : "the CA in " + options_.files.ca,
          options_.files.ca.empty()
              ? "\n  Give the cluster's CA: --ca FILE (or LANYARD_CA)."
              : "\n  Is it the CA of another cluster, or somebody else at that address?"));
    default:
      return absl::UnauthenticatedError(absl::StrCat(
          "the certificate of ", pool, " is not valid: ", X509_verify_cert_error_string(v.error)));
  }
  if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST ||
      reason == SSL_R_PACKET_LENGTH_TOO_LONG) {
    return FailedPrecondition(pool,
                              " does not speak TLS\n  Is its URL http:// instead of https://?");
  }
  if (reason >= SSL_AD_REASON_OFFSET && reason != SSL_AD_REASON_OFFSET + SSL_AD_PROTOCOL_VERSION) {
    return absl::UnauthenticatedError(absl::StrCat(
        pool, " refused this client",
        options_.files.cert.empty() ? "" : "'s certificate (" + options_.files.cert + ")", ": ",
        words));
  }
  return Unavailable("cannot speak TLS with ", pool, ": ", words, "\n  Look at its log.");
}

absl::Status HttpSocket::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    if (ssl_ != nullptr) {
      const NoSigpipe guard;
      ERR_clear_error();
      const int n =
          SSL_write(ssl_, bytes.data(), static_cast<int>(std::min<size_t>(bytes.size(), 1 << 20)));
      if (n > 0) {
        bytes.remove_prefix(static_cast<size_t>(n));
        continue;
      }
      const int error = SSL_get_error(ssl_, n);
      if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) return absl::OkStatus();
      RETURN_IF_ERROR(WaitForTls(n, options_.silence_timeout_ms));
      continue;
    }
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n >= 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      RETURN_IF_ERROR(WaitFor(fd_, POLLOUT, options_.silence_timeout_ms, options_.stop));
    } else if (errno != EINTR) {
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> HttpSocket::Receive(char* to, size_t bytes) {
  while (true) {
    if (ssl_ == nullptr) {
      RETURN_IF_ERROR(WaitFor(fd_, POLLIN, options_.silence_timeout_ms, options_.stop));
      const ssize_t n = ::recv(fd_, to, bytes, 0);
      if (n >= 0) return static_cast<size_t>(n);
      if (errno != EAGAIN && errno != EINTR) return size_t{0};
      continue;
    }
    const NoSigpipe guard;
    ERR_clear_error();
    const int n = SSL_read(ssl_, to, static_cast<int>(bytes));
    if (n > 0) return static_cast<size_t>(n);
    const int error = SSL_get_error(ssl_, n);
    if (error == SSL_ERROR_ZERO_RETURN || error == SSL_ERROR_SYSCALL) return size_t{0};
    if (error == SSL_ERROR_SSL &&
        ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
      ERR_clear_error();
      return size_t{0};
    }
    // In TLS 1.3 the server's refusal of a certificate comes here.
    RETURN_IF_ERROR(WaitForTls(n, options_.silence_timeout_ms));
  }
}

}  // namespace lanyard::cli
