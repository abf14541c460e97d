// What `lanyard doctor` looked at, and nothing of what it means: doctor_gather.h fills it,
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
  uint32_t key_mode = 0;
  absl::Status status;  // PermissionDenied: not this user's to read; else what is wrong with key,
                        // certificate or CA
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
  std::vector<std::string> damaged;  // do not match their digest, or are empty
  absl::Status status;  // why the folder could not be read; NotFound: there is none yet
};

struct MachineFacts {
  identity::UnixTime now = 0;
  uint64_t total_bytes = 0;  // of memory
  uint64_t available_bytes = 0;
  std::string state_dir;
  uint64_t disk_free_bytes = 0;  // there, or in the next folder above that exists
  std::string isa;               // ops::IsaName
  int processors = 0;
  bool has_nvidia_card = false;  // on the PCI bus, whatever its driver says
  absl::Status driver;           // of the CUDA driver
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
  absl::Status port;  // whether it answers; see net::Reach
  double connect_ms = 0;
  absl::Status https;        // whether it is the one that we trust
  // An older cluster: the CA that its HTTPS clients trust has no name constraints. Known to
  // administrators.
  bool unconstrained_ca = false;
  absl::Status admin;        // whether we may ask as administrator; Unimplemented: not asked
  std::string join_address;  // where machines join; empty: not known here
  absl::Status join_port;
  absl::Status join_tls;  // whether it has the CA that this machine knows
};

// The answer of GET /admin/v1/doctor (web/doctor_handler.h), and this machine's clock when it came:
// the coordinator reads its own last of all.
struct PoolFacts {
  nlohmann::ordered_json answer;
  int64_t received_unix_ms = 0;
  int64_t certificate_life_s =
      identity::kNodeCertificateSeconds;  // the same for every node of a cluster
};

}  // namespace lanyard::cli
