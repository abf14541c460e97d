#include "coordinator/access/nodes.h"

#include <SQLiteCpp/SQLiteCpp.h>

#include "base/log.h"
#include "identity/key_pair.h"

namespace lanyard::coordinator {
namespace {

using identity::Role;
using identity::RoleName;
using identity::UnixTime;

absl::Status Denied(const std::string& why) { return absl::PermissionDeniedError(why); }

constexpr char kNewTokenHint[] = "; make a new one with `lanyard token create` on the coordinator";

TokenInfo ReadToken(SQLite::Statement& row) {
  TokenInfo out;
  out.id = row.getColumn("id").getString();
  out.role = static_cast<Role>(row.getColumn("role").getInt());
  out.created_unix_s = row.getColumn("created_unix_s").getInt64();
  out.expires_unix_s = row.getColumn("expires_unix_s").getInt64();
  out.uses = row.getColumn("uses").getUInt();
  out.used = row.getColumn("used").getUInt();
  return out;
}

absl::Status CheckToken(SQLite::Database& db, const net::JoinRequest& request, UnixTime now) {
  SQLite::Statement find(db, "SELECT * FROM join_tokens WHERE id = ?");
  find.bind(1, request.token_id);
  const bool known = find.executeStep();
  const std::string hash =
      known ? find.getColumn("secret_sha256").getString() : std::string(64, '0');
  if (!identity::EqualSecretHash(hash, identity::SecretHash(request.token_secret)) || !known) {
    return Denied(absl::StrCat("the join token is not known here: it was withdrawn, or altered",
                               kNewTokenHint));
  }
  const TokenInfo token = ReadToken(find);
  if (now >= token.expires_unix_s) {
    return Denied(absl::StrCat("the join token expired ", now - token.expires_unix_s, " s ago",
                               kNewTokenHint));
  }
  if (token.used >= token.uses) {
    return Denied(absl::StrCat("the join token was used already (", token.used, " of ", token.uses,
                               " uses)", kNewTokenHint));
  }
  if (token.role != request.role) {
    return Denied(absl::StrCat("the join token is for the role ", RoleName(token.role), ", not ",
                               RoleName(request.role),
                               "; make one with `lanyard token create --role ",
                               RoleName(request.role), "` on the coordinator"));
  }
  return absl::OkStatus();
}

// Uses the token once, in the transaction that makes the node.
absl::Status UseToken(SQLite::Database& db, const net::JoinRequest& request, UnixTime now) {
  RETURN_IF_ERROR(CheckToken(db, request, now));
  SQLite::Statement use(db, "UPDATE join_tokens SET used = used + 1 WHERE id = ?");
  use.bind(1, request.token_id);
  use.exec();
  return absl::OkStatus();
}

void WriteNode(SQLite::Database& db, const NodeInfo& node) {
  SQLite::Statement write(db, R"sql(
    INSERT INTO nodes (id, name, role, joined_unix_s, certificate_ends_unix_s, from_address)
    VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET certificate_ends_unix_s = excluded.certificate_ends_unix_s,
                                   from_address = excluded.from_address)sql");
  write.bind(1, node.id);
  write.bind(2, node.name);
  write.bind(3, static_cast<int>(node.role));
  write.bind(4, node.joined_unix_s);
  write.bind(5, node.certificate_ends_unix_s);
  write.bind(6, node.from);
  write.exec();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Nodes>> Nodes::Open(Store* store,
                                                   const identity::Authority* authority,
                                                   Clock clock, int64_t life_seconds) {
  if (!clock) clock = identity::WallNow;
  auto nodes = std::unique_ptr<Nodes>(new Nodes(store, authority, std::move(clock), life_seconds));
  std::map<std::string, NodeInfo> read;
  RETURN_IF_ERROR(store->Read([&](SQLite::Database& db) {
    SQLite::Statement row(db, "SELECT * FROM nodes");
    while (row.executeStep()) {
      NodeInfo node;
      node.id = row.getColumn("id").getString();
      node.name = row.getColumn("name").getString();
      node.role = static_cast<Role>(row.getColumn("role").getInt());
      node.joined_unix_s = row.getColumn("joined_unix_s").getInt64();
      node.certificate_ends_unix_s = row.getColumn("certificate_ends_unix_s").getInt64();
      node.from = row.getColumn("from_address").getString();
      const SQLite::Column revoked = row.getColumn("revoked_unix_s");
      if (!revoked.isNull()) node.revoked_unix_s = revoked.getInt64();
      const SQLite::Column drained = row.getColumn("drained_unix_s");
      if (!drained.isNull()) node.drained_unix_s = drained.getInt64();
      read[node.id] = std::move(node);
    }
    return absl::OkStatus();
  }));
  MutexLock lock(&nodes->mu_);
  nodes->nodes_ = std::move(read);
  return nodes;
}

absl::Status Nodes::Check(const identity::Peer& peer) const {
  MutexLock lock(&mu_);
  const auto it = nodes_.find(peer.node);
  if (it == nodes_.end() || it->second.role != peer.role) {
    return Denied(absl::StrCat(
        RoleName(peer.role), " '", peer.name, "' (node ", peer.node,
        ") is not in this cluster's list: ",
        "was the coordinator's state restored from an older copy? Let it join again with a token"));
  }
  if (it->second.revoked_unix_s.has_value()) {
    return Denied(
        absl::StrCat(RoleName(peer.role), " '", peer.name, "' (node ", peer.node, ") was revoked"));
  }
  if (clock_() > it->second.certificate_ends_unix_s) {
    return absl::UnauthenticatedError(
        absl::StrCat("the certificate of '", peer.name, "' ran out and was not renewed"));
  }
  return absl::OkStatus();
}

absl::StatusOr<NewToken> Nodes::CreateToken(const TokenRequest& request) {
  if (request.role != Role::kWorker && request.role != Role::kAdmin) {
    return InvalidArgument("a token lets a worker or an admin in, not a ", RoleName(request.role));
  }
  if (request.ttl_seconds < 1 || request.ttl_seconds > kMaxTokenSeconds) {
    return InvalidArgument("a token for ", request.ttl_seconds, " s; it may live 1 s to 7 days");
  }
  if (request.uses < 1 || request.uses > kMaxTokenUses) {
    return InvalidArgument("a token for ", request.uses, " uses; 1 to ", kMaxTokenUses,
                           " make sense");
  }
  ASSIGN_OR_RETURN(const identity::JoinToken token,
                   identity::JoinToken::Make(authority_.fingerprint()));
  const UnixTime now = clock_();
  NewToken out{{token.id, request.role, now, now + request.ttl_seconds, request.uses, 0},
               token.Encode()};
  RETURN_IF_ERROR(store_.Write([&](SQLite::Database& db) {
    SQLite::Statement old(db, "DELETE FROM join_tokens WHERE expires_unix_s < ?");
    old.bind(1, now - kMaxTokenSeconds);  // until then "expired" is said instead of "unknown"
    old.exec();
    SQLite::Statement add(
        db,
        "INSERT INTO join_tokens (id, secret_sha256, role, created_unix_s, expires_unix_s, uses) "
        "VALUES (?, ?, ?, ?, ?, ?)");
    add.bind(1, token.id);
    add.bind(2, identity::SecretHash(token.secret));
    add.bind(3, static_cast<int>(request.role));
    add.bind(4, now);
    add.bind(5, out.info.expires_unix_s);
    add.bind(6, request.uses);
    add.exec();
    return absl::OkStatus();
  }));
  return out;
}

absl::StatusOr<std::vector<TokenInfo>> Nodes::ListTokens() {
  return store_.Read([&](SQLite::Database& db) -> absl::StatusOr<std::vector<TokenInfo>> {
    std::vector<TokenInfo> out;
    SQLite::Statement row(db,
                          "SELECT * FROM join_tokens WHERE expires_unix_s > ? AND used < uses "
                          "ORDER BY created_unix_s, id");
    row.bind(1, clock_());
    while (row.executeStep()) out.push_back(ReadToken(row));
    return out;
  });
}

absl::Status Nodes::RevokeToken(const std::string& id) {
  return store_.Write([&](SQLite::Database& db) -> absl::Status {
    SQLite::Statement remove(db, "DELETE FROM join_tokens WHERE id = ?");
    remove.bind(1, id);
    return remove.exec() == 1 ? absl::OkStatus() : NotFound("there is no join token ", id);
  });
}

absl::StatusOr<net::JoinReply> Nodes::Enrol(const net::JoinRequest& request) {
  return Admit(request, true);
}

absl::StatusOr<net::JoinReply> Nodes::EnrolLocal(const net::JoinRequest& request) {
  ASSIGN_OR_RETURN(const identity::PkeyPtr key, identity::PublicKeyOfRequest(request.request_pem));
  const std::string id = identity::NodeIdOf(key.get());
  std::string before;  // the node whose folder is gone: its key no longer exists
  {
    MutexLock lock(&mu_);
    for (const auto& [other, node] : nodes_) {
      const bool same = node.role == request.role && node.name == request.name &&
                        !node.revoked_unix_s.has_value();
      if (same && other != id) before = other;
    }
  }
  if (!before.empty()) RETURN_IF_ERROR(Revoke(before));
  return Admit(request, false);
}

bool Nodes::IsMember(const std::string& id) const {
  MutexLock lock(&mu_);
  const auto it = nodes_.find(id);
  return it != nodes_.end() && !it->second.revoked_unix_s.has_value();
}

// Decides what the node is, or would be. Whether its token is good is asked later.
absl::StatusOr<NodeInfo> Nodes::Decide(const net::JoinRequest& request,
                                       const std::string& id) const {
  MutexLock lock(&mu_);
  const auto it = nodes_.find(id);
  if (it != nodes_.end()) {
    if (it->second.revoked_unix_s.has_value()) {
      return Denied(absl::StrCat(
          "this machine ('", it->second.name, "', node ", id,
          ") was revoked; its key gets no certificate. ",
          "If it may come back, remove its identity folder and join with a new token"));
    }
    return it->second;
  }
  if (request.name.empty()) {
    return Denied(absl::StrCat(
        "node ", id,
        " is not a member of this cluster; join with a token (`lanyard token create`)"));
  }
  if (identity::IsNodeId(request.name)) {
    return InvalidArgument("the name '", request.name,
                           "' looks like a node's id; give another --name");
  }
  for (const auto& [other, node] : nodes_) {
    if (node.role == request.role && node.name == request.name &&
        !node.revoked_unix_s.has_value()) {
      return absl::AlreadyExistsError(absl::StrCat(
          "the name '", request.name, "' belongs to node ", other, " (joined from ", node.from,
          "): give this machine another --name, or revoke that node first"));
    }
  }
  NodeInfo node;
  node.id = id;
  node.name = request.name;
  node.role = request.role;
  node.joined_unix_s = clock_();
  return node;
}

absl::StatusOr<net::JoinReply> Nodes::Admit(const net::JoinRequest& request, bool needs_token) {
  ASSIGN_OR_RETURN(const identity::PkeyPtr key, identity::PublicKeyOfRequest(request.request_pem));
  MutexLock change(&change_mu_);
  const std::string id = identity::NodeIdOf(key.get());
  const UnixTime now = clock_();
  // A member's key renews whatever token it shows: the reply to its token may have been lost on the
  // way.
  const bool joins = needs_token && !request.token_id.empty() && !IsMember(id);
  if (joins) {
    // This is checked first: without a token a stranger must not learn which names are taken.
    RETURN_IF_ERROR(
        store_.Read([&](SQLite::Database& db) { return CheckToken(db, request, now); }));
  }
  net::JoinRequest asked = request;
  if (needs_token && !joins) asked.name.clear();
  ASSIGN_OR_RETURN(NodeInfo node, Decide(asked, id));
  node.certificate_ends_unix_s = now + life_seconds_;
  node.from = request.from;
  net::JoinReply reply;
  reply.name = node.name;
  identity::IssueRequest issue{.role = node.role, .name = node.name};
  issue.lifetime_seconds = life_seconds_;
  ASSIGN_OR_RETURN(reply.certificate_pem, authority_.Issue(key.get(), issue, now));
  RETURN_IF_ERROR(store_.Write([&](SQLite::Database& db) -> absl::Status {
    if (joins) RETURN_IF_ERROR(UseToken(db, request, now));
    WriteNode(db, node);
    return absl::OkStatus();
  }));
  if (joins)
    LogInfo(RoleName(node.role), " '", node.name, "' joined from ", request.from, " as node ",
            node.id);
  MutexLock lock(&mu_);
  nodes_[node.id] = std::move(node);
  return reply;
}

absl::StatusOr<std::vector<NodeInfo>> Nodes::List() const {
  std::vector<NodeInfo> out;
  MutexLock lock(&mu_);
  for (const auto& [id, node] : nodes_) out.push_back(node);
  return out;
}

absl::StatusOr<NodeInfo> Nodes::Find(const std::string& name_or_id) const {
  MutexLock lock(&mu_);
  auto it = nodes_.find(name_or_id);
  const bool by_id = it != nodes_.end();
  for (auto other = nodes_.begin(); !by_id && other != nodes_.end(); ++other) {
    if (other->second.name != name_or_id || other->second.revoked_unix_s.has_value()) continue;
    if (it != nodes_.end()) {
      return FailedPrecondition(
          "two nodes are called '", name_or_id, "': ", RoleName(it->second.role), " ", it->first,
          " and ", RoleName(other->second.role), " ", other->first, "; name one by its id");
    }
    it = other;
  }
  if (it == nodes_.end())
    return NotFound("there is no node '", name_or_id, "'; `lanyard node list` shows them");
  return it->second;
}

absl::StatusOr<NodeInfo> Nodes::SetDrained(const std::string& name_or_id, bool drained) {
  MutexLock change(&change_mu_);
  ASSIGN_OR_RETURN(NodeInfo node, Find(name_or_id));
  if (node.role != Role::kWorker)
    return InvalidArgument("'", node.name, "' is no worker: there is nothing to drain");
  if (node.revoked_unix_s.has_value())
    return FailedPrecondition("node ", node.id, " ('", node.name, "') was revoked");
  if (node.drained_unix_s.has_value() == drained) return node;
  node.drained_unix_s = drained ? std::optional<int64_t>(clock_()) : std::nullopt;
  RETURN_IF_ERROR(store_.Write([&](SQLite::Database& db) {
    SQLite::Statement write(db, "UPDATE nodes SET drained_unix_s = ? WHERE id = ?");
    if (drained) write.bind(1, *node.drained_unix_s);
    write.bind(2, node.id);
    write.exec();
    return absl::OkStatus();
  }));
  MutexLock lock(&mu_);
  nodes_[node.id] = node;
  return node;
}

std::vector<std::string> Nodes::DrainedWorkers() const {
  std::vector<std::string> out;
  MutexLock lock(&mu_);
  for (const auto& [id, node] : nodes_) {
    if (node.drained_unix_s.has_value() && !node.revoked_unix_s.has_value())
      out.push_back(node.name);
  }
  return out;
}

absl::StatusOr<NodeInfo> Nodes::Revoke(const std::string& name_or_id) {
  MutexLock change(&change_mu_);
  ASSIGN_OR_RETURN(NodeInfo node, Find(name_or_id));
  if (node.revoked_unix_s.has_value())
    return FailedPrecondition("node ", node.id, " ('", node.name, "') was revoked already");
  node.revoked_unix_s = clock_();
  RETURN_IF_ERROR(store_.Write([&](SQLite::Database& db) {
    SQLite::Statement revoke(db, "UPDATE nodes SET revoked_unix_s = ? WHERE id = ?");
    revoke.bind(1, *node.revoked_unix_s);
    revoke.bind(2, node.id);
    revoke.exec();
    return absl::OkStatus();
  }));
  LogWarning(RoleName(node.role), " '", node.name, "' (node ", node.id, ") was revoked");
  MutexLock lock(&mu_);
  nodes_[node.id] = node;
  return node;
}

std::vector<std::string> Nodes::RevokedIds() const {
  std::vector<std::string> out;
  const UnixTime now = clock_();
  MutexLock lock(&mu_);
  for (const auto& [id, node] : nodes_) {
    if (node.revoked_unix_s.has_value() &&
        node.certificate_ends_unix_s + identity::kClockToleranceSeconds > now)
      out.push_back(id);
  }
  return out;
}

}  // namespace lanyard::coordinator
