#include "tests/fake_cuda/config.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "absl/strings/str_split.h"
#include "base/size.h"

namespace lanyard::fake_cuda {
namespace {

absl::StatusOr<uint64_t> Number(std::string_view key, std::string_view text, uint64_t limit) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value > limit) {
    return InvalidArgument("LANYARD_FAKE_CUDA: ", AbslView(key), " of \"", AbslView(text),
                           "\", at most ", limit);
  }
  return value;
}

// "8.6" -> 86
absl::StatusOr<uint64_t> Capability(std::string_view key, std::string_view text) {
  std::string digits(text);
  digits.erase(std::remove(digits.begin(), digits.end(), '.'), digits.end());
  return Number(key, digits, 200);
}

// One value a card, into a field by `set`.
template <typename Parse, typename Set>
absl::Status EachCard(std::vector<CardConfig>& cards, std::string_view text, Parse parse, Set set) {
  const std::vector<std::string> parts = absl::StrSplit(AbslView(text), '/');
  for (size_t i = 0; i < cards.size(); ++i) {
    ASSIGN_OR_RETURN(const uint64_t value, parse(parts[std::min(i, parts.size() - 1)]));
    set(cards[i], value);
  }
  return absl::OkStatus();
}

absl::Status SetCards(Config& config, std::string_view key, std::string_view value, bool& known) {
  known = true;
  const auto size = [](std::string_view text) { return ParseSize(text); };
  const auto capability = [&](std::string_view text) { return Capability(key, text); };
  const auto small = [&](std::string_view text) { return Number(key, text, 1000); };
  if (key == "memory") {
    return EachCard(config.cards, value, size,
                    [](CardConfig& c, uint64_t v) { c.memory_bytes = v; });
  }
  if (key == "others") {
    return EachCard(config.cards, value, size,
                    [](CardConfig& c, uint64_t v) { c.others_bytes = v; });
  }
  if (key == "cc") {
    return EachCard(config.cards, value, capability,
                    [](CardConfig& c, uint64_t v) { c.cc = static_cast<int>(v); });
  }
  if (key == "sms") {
    return EachCard(config.cards, value, small,
                    [](CardConfig& c, uint64_t v) { c.sm_count = static_cast<int>(v); });
  }
  if (key == "integrated") {
    return EachCard(config.cards, value, small,
                    [](CardConfig& c, uint64_t v) { c.integrated = v != 0; });
  }
  if (key == "graph_bytes") {
    return EachCard(config.cards, value, size,
                    [](CardConfig& c, uint64_t v) { c.graph_bytes = v; });
  }
  known = false;
  return absl::OkStatus();
}

absl::Status SetNumber(Config& config, std::string_view key, std::string_view value) {
  constexpr uint64_t kMax = ~uint64_t{0};
  const std::map<std::string_view, uint64_t*> counters = {
      {"seed", &config.seed},
      {"fail_alloc", &config.fail_alloc},
      {"fail_alloc_from", &config.fail_alloc_from},
      {"fail_host_alloc", &config.fail_host_alloc},
      {"lose_at", &config.lose_at},
      {"lose_at_work", &config.lose_at_work},
  };
  if (const auto found = counters.find(key); found != counters.end()) {
    ASSIGN_OR_RETURN(*found->second, Number(key, value, kMax));
    return absl::OkStatus();
  }
  const std::map<std::string_view, bool*> switches = {
      {"peer", &config.peer}, {"checks", &config.checks}, {"strict_reads", &config.strict_reads}};
  if (const auto found = switches.find(key); found != switches.end()) {
    ASSIGN_OR_RETURN(const uint64_t on, Number(key, value, 1));
    *found->second = on == 1;
    return absl::OkStatus();
  }
  const std::map<std::string_view, int*> numbers = {{"driver", &config.driver},
                                                    {"lose_code", &config.lose_code},
                                                    {"lose_device", &config.lose_device}};
  if (const auto found = numbers.find(key); found != numbers.end()) {
    ASSIGN_OR_RETURN(const uint64_t number, Number(key, value, 100000));
    *found->second = static_cast<int>(number);
    return absl::OkStatus();
  }
  return InvalidArgument("LANYARD_FAKE_CUDA: unknown key \"", AbslView(key), "\"");
}

}  // namespace

absl::StatusOr<Config> ParseConfig(std::string_view text) {
  Config config;
  std::vector<std::pair<std::string, std::string>> pairs;
  for (absl::string_view part : absl::StrSplit(AbslView(text), ',', absl::SkipWhitespace())) {
    std::vector<std::string> pair = absl::StrSplit(part, absl::MaxSplits('=', 1));
    if (pair.size() != 2)
      return InvalidArgument("LANYARD_FAKE_CUDA: \"", part, "\" is no key=value");
    pairs.emplace_back(pair[0], pair[1]);
  }
  for (const auto& [key, value] : pairs) {
    if (key != "devices") continue;
    ASSIGN_OR_RETURN(const uint64_t devices, Number(key, value, 16));
    config.devices = static_cast<int>(devices);
  }
  config.cards.resize(config.devices);
  for (const auto& [key, value] : pairs) {
    if (key == "devices") continue;
    bool known = false;
    RETURN_IF_ERROR(SetCards(config, key, value, known));
    if (known) continue;
    if (key == "order") {
      if (value != "random" && value != "eager")
        return InvalidArgument("LANYARD_FAKE_CUDA: order=", value);
      config.order = value == "random" ? Order::kRandom : Order::kEager;
      continue;
    }
    RETURN_IF_ERROR(SetNumber(config, key, value));
  }
  return config;
}

}  // namespace lanyard::fake_cuda
