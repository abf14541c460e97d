#include "coordinator/state/migrations.h"

namespace lanyard::coordinator {
namespace {

// Times are seconds since 1970.
constexpr const char* kMigrations[] = {
    // 1: API keys (access/key_ring.h). A name is taken while its key is not revoked.
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
};

}  // namespace

std::span<const char* const> Migrations() { return kMigrations; }

}  // namespace lanyard::coordinator
