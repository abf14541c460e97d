// What `lanyard doctor` looked at, without any judgement: doctor_gather.h fills it and
// doctor_checks.h judges it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "identity/authority.h"
#include "identity/peer.h"

namespace lanyard::cli {

// A folder with a node's key and certificate.
struct IdentityFacts {
  std::string folder;
  // A coordinator's own: there is a key alone, since it makes its certificate at every start.
  bool coordinators = false;
  // A join was begun and is not finished: there is a key, and nothing else. The next one uses it.
  bool begun = false;
  uint32_t key_mode = 0;
  // PermissionDenied: this user may not read it; otherwise what is wrong with key, certificate or
  // CA.
  absl::Status status;
  std::optional<identity::Peer> self;
};

struct CardFacts {
  std::string name;
  std::optional<uint64_t> free_bytes;
  std::optional<uint64_t> total_bytes;
};

struct WeightFacts {
  uint64_t parts = 0;
  uint64_t bytes = 0;
  uint64_t unfinished = 0;           // downloads that were cut off
  bool hashed = false;               // every part was read (--deep)
  std::vector<std::string> damaged;  // parts that do not match their digest, or are empty
  absl::Status status;  // why the folder could not be read; NotFound: it does not exist yet
};

struct MachineFacts {
  identity::UnixTime now = 0;
  uint64_t total_bytes = 0;  // memory of the machine
  uint64_t available_bytes = 0;
  std::string state_dir;
  uint64_t disk_free_bytes = 0;  // free bytes there, or in the next folder above that exists
  std::string isa;               // ops::IsaName
  int processors = 0;
  bool has_nvidia_card = false;  // there is one on the PCI bus, whatever its driver says
  absl::Status driver;           // of opening the CUDA driver
  std::string driver_version;
  std::vector<CardFacts> cards;
  WeightFacts weights;
  std::vector<IdentityFacts> identities;
};

struct CoordinatorFacts {
  std::string url;      // of the HTTP front; empty: this machine knows of none
  absl::Status access;  // whether address, folder and files that were named can be used at all
  absl::Status name;    // whether the name in it is known
  std::vector<std::string> addresses;
  absl::Status port;  // whether the port answers; see net::Reach
  double connect_ms = 0;
  absl::Status https;  // whether it is the one that we trust
  // An older cluster: the CA that its HTTPS clients trust has no name constraints. Known to
  // administrators.
  bool unconstrained_ca = false;
  absl::Status admin;        // whether we may ask as administrator; Unimplemented: not asked
  std::string join_address;  // where machines join; empty: not known here
  absl::Status join_port;
  absl::Status join_tls;  // whether the other side has the CA that this machine knows
};

// The answer of GET /admin/v1/doctor (web/doctor_handler.h), and this machine's clock when it came:
// the coordinator reads its own clock as the last thing.
struct PoolFacts {
  nlohmann::ordered_json answer;
  int64_t received_unix_ms = 0;
  // The same for every node of a cluster.
  int64_t certificate_life_s = identity::kNodeCertificateSeconds;
};

}  // namespace lanyard::cli
