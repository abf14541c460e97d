#include "web/gate.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "base/api_key.h"
#include "web/errors.h"

namespace lanyard::web {
namespace {

constexpr char kOverflow[] = "*";

Response TooManyFailures() {
  Response response = ErrorResponse(
      429, "Too many wrong API keys from your address; wait a second.", "too_many_failures");
  response.headers.emplace_back("Retry-After", "1");
  return response;
}

Gate::Verdict Refuse(Response response) { return {.caller = {}, .refused = std::move(response)}; }

// Returns the key of "Bearer KEY"; empty for another scheme.
std::string_view BearerOf(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (!absl::StartsWithIgnoreCase(AbslView(authorization), AbslView(kScheme))) return "";
  authorization.remove_prefix(kScheme.size());
  return StdView(absl::StripAsciiWhitespace(AbslView(authorization)));
}

}  // namespace

double FailureLimiter::Left(const Bucket& bucket, TimeNs now) const {
  return std::min(burst_,
                  bucket.left + static_cast<double>(now - bucket.at) / kSecond * per_second_);
}

bool FailureLimiter::IsBlocked(const std::string& who, TimeNs now) {
  auto it = buckets_.find(who);
  if (it == buckets_.end() && buckets_.size() >= kMaxBuckets) it = buckets_.find(kOverflow);
  return it != buckets_.end() && Left(it->second, now) < 1;
}

void FailureLimiter::Failed(const std::string& who, TimeNs now) {
  if (buckets_.size() >= kMaxBuckets && now - swept_ >= kSecond) {
    swept_ = now;
    std::erase_if(buckets_, [&](const auto& b) { return Left(b.second, now) >= burst_; });
  }
  const bool full = buckets_.size() >= kMaxBuckets && buckets_.find(who) == buckets_.end();
  auto [it, added] = buckets_.try_emplace(full ? kOverflow : who, Bucket{burst_, now});
  it->second = {std::max(0.0, Left(it->second, now) - 1), now};
}

Gate::Verdict Gate::CheckKey(std::string_view presented, std::string_view client, TimeNs now) {
  // Failures with a key that exists count for that key, and all others together: a client that
  // guesses at an address does not keep others there from using a true key.
  const auto text = ApiKeyText::Parse(presented);
  const bool known = options_.keys != nullptr && text.ok() && options_.keys->IsLive(text->id);
  const std::string who = absl::StrCat(AbslView(client), "/", known ? text->id : "");
  if (failures_.IsBlocked(who, now)) return Refuse(TooManyFailures());
  const absl::StatusOr<std::string> id =
      options_.keys != nullptr ? options_.keys->Check(presented)
                               : absl::UnauthenticatedError("The API key is not valid.");
  if (id.ok()) return {.caller = {Caller::Kind::kUser, *id, ""}, .refused = {}};
  failures_.Failed(who, now);
  return Refuse(ToResponse(id.status()));
}

Gate::Verdict Gate::Enter(const Credentials& c, std::optional<Access> access, TimeNs now) {
  if (options_.open) return {.caller = {Caller::Kind::kAdmin, "", "open"}, .refused = {}};
  if (access == Access::kPublic) return {};
  Verdict verdict;
  if (!c.peer_certificate_pem.empty() && options_.admin_of) {
    if (const auto admin = options_.admin_of(std::string(c.peer_certificate_pem)); admin.ok()) {
      verdict.caller = {Caller::Kind::kAdmin, "", *admin};
    }
  }
  if (verdict.caller.kind == Caller::Kind::kNobody) {
    if (c.authorization.empty() && c.x_api_key.empty()) {
      return Refuse(ToResponse(
          absl::UnauthenticatedError("This needs an API key: 'Authorization: Bearer KEY'. An "
                                     "administrator makes one with: lanyard key create NAME")));
    }
    verdict =
        CheckKey(c.authorization.empty() ? c.x_api_key : BearerOf(c.authorization), c.client, now);
    if (verdict.refused.has_value()) return verdict;
  }
  if (access == Access::kAdmin && verdict.caller.kind != Caller::Kind::kAdmin) {
    verdict.refused = ToResponse(
        absl::PermissionDeniedError("This is for administrators: it takes an administrator's "
                                    "certificate, and no API key will do."));
  }
  return verdict;
}

bool Gate::StillMay(const Caller& caller, std::string_view peer_certificate_pem) const {
  if (options_.open) return true;
  switch (caller.kind) {
    case Caller::Kind::kNobody:
      return true;  // a public route
    case Caller::Kind::kUser:
      return options_.keys != nullptr && options_.keys->IsLive(caller.key_id);
    case Caller::Kind::kAdmin:
      return options_.admin_of && options_.admin_of(std::string(peer_certificate_pem)).ok();
  }
  return false;
}

}  // namespace lanyard::web
