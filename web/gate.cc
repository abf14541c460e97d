#include "web/gate.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "base/api_key.h"
#include "web/errors.h"

namespace lanyard::web {
namespace {

constexpr char kOverflow[] = "*";
constexpr size_t kMaxKeys = 4;  // of one request

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

// Distinct, in the order in which they are tried. More than kMaxKeys would be guesses.
std::vector<std::string_view> PresentedKeys(const Credentials& c) {
  std::vector<std::string_view> keys;
  const auto add = [&](std::string_view key) {
    if (!key.empty() && keys.size() < kMaxKeys &&
        std::find(keys.begin(), keys.end(), key) == keys.end())
      keys.push_back(key);
  };
  for (const std::string_view authorization : c.authorization) add(BearerOf(authorization));
  for (const std::string_view key : c.api_keys) add(key);
  return keys;
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

std::string Gate::BucketOf(std::string_view presented, std::string_view client) const {
  // Failures with a key that exists count for that key, all others together: whoever guesses at an
  // address keeps nobody else there from using a true key.
  const auto text = ApiKeyText::Parse(presented);
  const bool known = options_.keys != nullptr && text.ok() && options_.keys->IsLive(text->id);
  return absl::StrCat(AbslView(client), "/", known ? text->id : "");
}

Gate::Verdict Gate::CheckKeys(const std::vector<std::string_view>& presented,
                              std::string_view client, TimeNs now) {
  std::vector<std::string> wrong;
  absl::Status why;
  for (const std::string_view key : presented) {
    std::string bucket = BucketOf(key, client);
    if (failures_.IsBlocked(bucket, now)) continue;
    const absl::StatusOr<std::string> id =
        options_.keys != nullptr ? options_.keys->Check(key) : NotAnApiKey();
    // Wrong ones beside a right one count for nothing: the answer does not tell that they are.
    if (id.ok()) return {.caller = {Caller::Kind::kUser, *id, ""}, .refused = {}};
    why = id.status();
    wrong.push_back(std::move(bucket));
  }
  if (wrong.empty()) return Refuse(TooManyFailures());
  for (const std::string& bucket : wrong) failures_.Failed(bucket, now);
  return Refuse(ToResponse(why));
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
    const std::vector<std::string_view> keys = PresentedKeys(c);
    if (keys.empty()) {
      return Refuse(ToResponse(
          absl::UnauthenticatedError("This needs an API key: 'Authorization: Bearer KEY'. An "
                                     "administrator makes one with: lanyard key create NAME")));
    }
    verdict = CheckKeys(keys, c.client, now);
    if (verdict.refused.has_value()) return verdict;
  }
  if (access == Access::kAdmin && verdict.caller.kind != Caller::Kind::kAdmin) {
    verdict.refused = ToResponse(absl::PermissionDeniedError(
        "This is for administrators: it takes an administrator's certificate, and no API key "
        "will do. On the coordinator's machine `lanyard` finds one when neither --url nor "
        "LANYARD_URL is given, and --admin FOLDER names one. For another machine `lanyard token "
        "create --role admin` prints, there, a token for `lanyard join`."));
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
