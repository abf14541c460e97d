#include "coordinator/state/migrations.h"

namespace lanyard::coordinator {
namespace {

// Times are seconds since 1970.
constexpr const char* kMigrations[] = {
    // 1: API keys (access/key_ring.h). A name is taken as long as its key is not revoked.
    R"sql(
      CREATE TABLE api_keys (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        secret_sha256 BLOB NOT NULL CHECK (length(secret_sha256) = 32),
        created_unix_s INTEGER NOT NULL,
        expires_unix_s INTEGER,
        last_used_unix_s INTEGER,
        revoked_unix_s INTEGER
      ) STRICT, WITHOUT ROWID;
      CREATE UNIQUE INDEX api_keys_name ON api_keys (name) WHERE revoked_unix_s IS NULL;
    )sql",
    // 2: nodes and join tokens (access/nodes.h). Roles are identity::Role; a secret is kept as its
    // SHA-256 in hex.
    R"sql(
      CREATE TABLE nodes (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        role INTEGER NOT NULL,
        joined_unix_s INTEGER NOT NULL,
        certificate_ends_unix_s INTEGER NOT NULL,
        from_address TEXT NOT NULL,
        revoked_unix_s INTEGER
      ) STRICT, WITHOUT ROWID;
      CREATE UNIQUE INDEX nodes_name ON nodes (role, name) WHERE revoked_unix_s IS NULL;
      CREATE TABLE join_tokens (
        id TEXT PRIMARY KEY,
        secret_sha256 TEXT NOT NULL CHECK (length(secret_sha256) = 64),
        role INTEGER NOT NULL,
        created_unix_s INTEGER NOT NULL,
        expires_unix_s INTEGER NOT NULL,
        uses INTEGER NOT NULL CHECK (uses > 0),
        used INTEGER NOT NULL DEFAULT 0 CHECK (used <= uses)
      ) STRICT, WITHOUT ROWID;
    )sql",
    // 3: since when a worker has been drained (access/nodes.h).
    R"sql(
      ALTER TABLE nodes ADD COLUMN drained_unix_s INTEGER;
    )sql",
};

}  // namespace

std::span<const char* const> Migrations() { return kMigrations; }

}  // namespace lanyard::coordinator
