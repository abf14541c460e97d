#include "cli/doctor_gather.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <thread>

#include "base/environment.h"
#include "base/file.h"
#include "base/sha256.h"
#include "cli/admin_folder.h"
#include "cli/pool_json.h"
#include "engine/cuda/driver.h"
#include "engine/cuda/nvml.h"
#include "engine/ops/isa.h"
#include "identity/credential.h"
#include "net/join.h"
#include "net/reach.h"

namespace lanyard::cli {
namespace {

constexpr char kServiceState[] = "/var/lib/lanyard/worker";
constexpr char kServiceCoordinator[] = "/var/lib/lanyard/coordinator";
// Whose identity a folder holds.
enum class Owner : uint8_t { kWorker, kAdmin, kCoordinator };
struct IdentityPlace {
  std::string folder;
  Owner of;
};
constexpr int kReachMs = 3000;
constexpr int kJoinMs = 5000;

bool IsFolder(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Reads "MemTotal:   123 kB", in bytes.
uint64_t MemoryInfo(const char* key) {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    unsigned long long kib = 0;
    if (line.rfind(key, 0) == 0 &&
        std::sscanf(line.c_str() + std::strlen(key), ": %llu", &kib) == 1)
      return uint64_t{kib} << 10;
  }
  return 0;
}

uint64_t FreeDiskBytes(std::string folder) {
  struct statvfs fs {};
  while (statvfs(folder.c_str(), &fs) != 0) {
    const size_t slash = folder.rfind('/');
    if (slash == std::string::npos || folder == "/") return 0;
    folder = slash == 0 ? "/" : folder.substr(0, slash);
  }
  return uint64_t{fs.f_bavail} * fs.f_frsize;
}

std::vector<std::string> NamesIn(const std::string& folder, absl::Status* status) {
  std::vector<std::string> out;
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) {
    const std::string why = std::strerror(errno);
    *status = errno == ENOENT   ? NotFound(why)
              : errno == EACCES ? absl::PermissionDeniedError(why)
                                : Unavailable(why);
    return out;
  }
  while (const dirent* entry = readdir(dir)) out.emplace_back(entry->d_name);
  closedir(dir);
  std::sort(out.begin(), out.end());
  return out;
}

bool HashMatches(const std::string& path, const std::string& wanted) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> piece(size_t{1} << 20);
  Sha256 hash;
  while (file) {
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    hash.Update(
        {reinterpret_cast<const uint8_t*>(piece.data()), static_cast<size_t>(file.gcount())});
  }
  return file.eof() && hash.FinishHex() == wanted;
}

WeightFacts GatherWeights(const std::string& folder, bool deep) {
  WeightFacts out;
  out.hashed = deep;
  for (const std::string& name : NamesIn(folder, &out.status)) {
    struct stat info {};
    const std::string path = folder + "/" + name;
    if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    if (!IsSha256Hex(name)) {
      out.unfinished += name.size() > 5 && name.substr(name.size() - 5) == ".part" ? 1 : 0;
      continue;
    }
    ++out.parts;
    out.bytes += static_cast<uint64_t>(info.st_size);
    if (info.st_size == 0 || (deep && !HashMatches(path, name))) out.damaged.push_back(path);
  }
  return out;
}

bool IsFile(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

// It only reads: to open an identity as its daemon does would make what is missing.
IdentityFacts GatherIdentity(const IdentityPlace& where) {
  const std::string& folder = where.folder;
  IdentityFacts out;
  out.folder = folder;
  out.coordinators = where.of == Owner::kCoordinator;
  struct stat info {};
  if (stat((folder + "/node.key").c_str(), &info) == 0) out.key_mode = info.st_mode & 07777U;
  if (access((folder + "/node.key").c_str(), R_OK) != 0) {
    const std::string why = std::strerror(errno);
    out.status = errno == EACCES ? absl::PermissionDeniedError(why) : NotFound("node.key: ", why);
    return out;
  }
  out.status = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const identity::IdentityFolder identity,
                     identity::IdentityFolder::Open(folder));
    ASSIGN_OR_RETURN(const identity::KeyPair key, identity.Key());
    if (out.coordinators) return absl::OkStatus();
    out.begun =
        where.of == Owner::kAdmin && !IsFile(folder + "/node.crt") && !IsFile(folder + "/ca.crt");
    if (out.begun) return absl::OkStatus();
    ASSIGN_OR_RETURN(const auto joined, identity.Load());
    if (!joined.has_value()) return NotFound("it holds a key and no certificate");
    ASSIGN_OR_RETURN(out.self, identity::PeerOfPem(joined->certificate_pem));
    return identity::Credential::Make(key, joined->certificate_pem, joined->ca_pem,
                                      identity::WallNow())
        .status();
  }();
  return out;
}

// The PCI bus tells this also where no driver is loaded: vendor 0x10de, class 0x03 (display).
bool HasNvidiaCard() {
  absl::Status ignored;
  const std::string bus = "/sys/bus/pci/devices";
  for (const std::string& name : NamesIn(bus, &ignored)) {
    std::string vendor, kind;
    std::ifstream(absl::StrCat(bus, "/", name, "/vendor")) >> vendor;
    std::ifstream(absl::StrCat(bus, "/", name, "/class")) >> kind;
    if (vendor == "0x10de" && kind.rfind("0x03", 0) == 0) return true;
  }
  return false;
}

void GatherCards(MachineFacts* out) {
  out->has_nvidia_card = HasNvidiaCard();
  const auto driver = cuda::Driver::Open();
  out->driver = driver.status();
  if (!driver.ok()) return;
  const auto nvml = cuda::Nvml::Open();
  out->driver_version = nvml->driver_version();
  for (const cuda::DeviceInfo& device : (*driver)->devices()) {
    const auto numbers = nvml->Card(device.pci_id);
    out->cards.push_back({absl::StrCat("cuda:", device.ordinal, " ", device.name),
                          numbers ? numbers->free_bytes : std::nullopt, device.total_bytes});
  }
}

// The coordinator that this machine joined, by its worker's identity; otherwise the one that its
// administrator joined.
std::optional<identity::IdentityFolder::Joined> JoinedOf(const MachineFacts& machine) {
  for (const IdentityFacts& facts : machine.identities) {
    if (!facts.self || facts.self->role == identity::Role::kCoordinator) continue;
    const auto folder = identity::IdentityFolder::Open(facts.folder);
    if (!folder.ok()) continue;
    const auto joined = folder->Load();
    if (joined.ok() && joined->has_value() && !(*joined)->coordinator.empty()) return **joined;
  }
  return std::nullopt;
}

void LookAtJoinPort(const identity::IdentityFolder::Joined& joined, CoordinatorFacts* out) {
  out->join_address = joined.coordinator;
  out->join_port = net::Reach(joined.coordinator, kReachMs).status();
  if (!out->join_port.ok()) return;
  const identity::X509Ptr ca = identity::X509FromPem(joined.ca_pem);
  if (ca == nullptr) {
    out->join_tls = InvalidArgument("the cluster's CA on this machine is not PEM");
    return;
  }
  net::JoinOptions greet;
  greet.address = joined.coordinator;
  greet.ca_fingerprint = identity::FingerprintOf(ca.get());
  greet.greet_only = true;
  greet.timeout_ms = kJoinMs;
  out->join_tls = net::Join(greet).status();
}

// Makes "pc1:8080" of "https://pc1:8080".
std::string HostPortOf(const std::string& url) {
  const size_t scheme = url.find("://");
  std::string out = scheme == std::string::npos ? url : url.substr(scheme + 3);
  const size_t bracket = out.find(']');
  if (out.find(':', bracket == std::string::npos ? 0 : bracket) == std::string::npos) {
    out += url.rfind("https://", 0) == 0 ? ":443" : ":80";
  }
  return out;
}

void AskPool(const HttpClient& client, const std::string& node, const MachineFacts& machine,
             CoordinatorFacts* out, std::optional<PoolFacts>* pool) {
  const std::string path =
      node.empty() ? "/admin/v1/doctor" : "/admin/v1/doctor/" + EscapeForPath(node);
  const auto answer = GetJson(client, path);
  const int64_t received = UnixMs();
  out->admin = answer.status();
  if (!answer.ok()) return;
  PoolFacts& facts = pool->emplace();
  facts.answer = *answer;
  facts.received_unix_ms = received;
  for (const IdentityFacts& own : machine.identities) {
    if (own.self) facts.certificate_life_s = identity::LifeSeconds(*own.self);
  }
}

}  // namespace

MachineFacts GatherMachine(const GatherOptions& options) {
  MachineFacts out;
  out.now = identity::WallNow();
  out.total_bytes = MemoryInfo("MemTotal");
  out.available_bytes = MemoryInfo("MemAvailable");
  out.state_dir = !options.state_dir.empty() ? options.state_dir
                  : IsFolder(kServiceState)  ? kServiceState
                                             : StateHome();
  out.disk_free_bytes = FreeDiskBytes(out.state_dir);
  out.isa = ops::IsaName(ops::BestIsa());
  out.processors = static_cast<int>(std::thread::hardware_concurrency());
  GatherCards(&out);
  out.weights = GatherWeights(out.state_dir + "/weights", options.deep);
  std::vector<IdentityPlace> places = {{out.state_dir + "/identity", Owner::kWorker}};
  if (!options.admin.empty()) {
    places.push_back({options.admin, Owner::kAdmin});
  } else {
    places.push_back({OwnAdminFolder(), Owner::kAdmin});
    for (const std::string& state :
         {StateHome() + "/coordinator", std::string(kServiceCoordinator)}) {
      places.push_back({state + "/identity", Owner::kCoordinator});
      places.push_back({state + "/admin", Owner::kAdmin});
    }
  }
  for (const IdentityPlace& place : places) {
    if (IsFolder(place.folder)) out.identities.push_back(GatherIdentity(place));
  }
  return out;
}

CoordinatorFacts GatherCoordinator(const HttpClient::Options& http, const MachineFacts& machine,
                                   const std::string& node, std::optional<PoolFacts>* pool) {
  CoordinatorFacts out;
  const auto joined = JoinedOf(machine);
  if (joined.has_value()) LookAtJoinPort(*joined, &out);
  HttpClient::Options options = http;
  const absl::Status found = FindPool(&options);
  if (found.ok() && options.url.empty()) return out;
  const auto client = found.ok() ? HttpClient::Create(options) : found;
  if (!client.ok()) {
    out.url = http.url.empty() ? "the pool" : http.url;
    out.access = client.status();
    return out;
  }
  out.url = client->url();
  out.admin = absl::UnimplementedError("not asked");
  const std::string address = HostPortOf(out.url);
  std::string host, port;
  net::SplitAddress(address, &host, &port);
  const auto addresses = net::ResolveHost(host);
  out.name = addresses.status();
  if (!addresses.ok()) return out;
  out.addresses = *addresses;
  const auto reached = net::Reach(address, kReachMs);
  out.port = reached.status();
  if (!reached.ok()) return out;
  out.connect_ms = static_cast<double>(reached->connect_ns) / 1e6;
  const auto health = client->Get("/health");
  out.https = health.ok() ? StatusOfReply(*health) : health.status();
  if (out.https.ok()) AskPool(*client, node, machine, &out, pool);
  if (!out.https.ok() || !out.admin.ok()) return out;
  if (const auto info = GetJson(*client, "/admin/v1/https"); info.ok()) {
    out.unconstrained_ca = !Text(*info, "ca").empty() && info->contains("constrained") &&
                           (*info)["constrained"] == false;
  }
  return out;
}

}  // namespace lanyard::cli
