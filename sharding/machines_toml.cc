#include "sharding/machines_toml.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <optional>

#include "absl/strings/numbers.h"
#include "base/nearest.h"
#include "base/size.h"

namespace lanyard::sharding {
namespace {

// A limit for hand-written files: a larger one cannot be right.
constexpr size_t kMaxTextBytes = 1 << 20;

std::string Where(const toml::node& node) {
  return absl::StrCat("line ", node.source().begin.line, ": ");
}

// One table of the file. It remembers the words for its errors.
class Table {
 public:
  Table(const toml::table& table, std::string name) : table_(table), name_(std::move(name)) {}

  absl::Status OnlyKeys(const std::vector<std::string_view>& known) const {
    for (const auto& [key, value] : table_) {
      const std::string_view k = key.str();
      if (std::find(known.begin(), known.end(), k) != known.end()) continue;
      return InvalidArgument(Where(value), name_, " has no key \"", AbslView(k),
                             "\"; did you mean \"", Nearest(k, {known.begin(), known.end()}),
                             "\"?");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Text(std::string_view key) const {
    const toml::node* node = table_.get(key);
    if (node == nullptr) return InvalidArgument(Where(table_), name_, " needs ", AbslView(key));
    const auto value = node->value<std::string>();
    if (!node->is_string() || value->empty()) {
      return InvalidArgument(Where(*node), AbslView(key),
                             " must be a text in quotes that is not empty");
    }
    return *value;
  }

  // A text that names one of the machines.
  absl::Status OneOf(std::string_view key, const std::vector<MachineProfile>& machines) const {
    const toml::node* node = table_.get(key);
    const auto name = node == nullptr ? std::nullopt : node->value<std::string>();
    std::string known;
    for (const MachineProfile& machine : machines) {
      if (name == machine.name) return absl::OkStatus();
      absl::StrAppend(&known, known.empty() ? "" : ", ", machine.name);
    }
    return InvalidArgument(Where(node == nullptr ? table_ : *node), name_, " names ",
                           name.value_or(""), ", and there is no such [[machine]]; there is ",
                           known.empty() ? "none" : known);
  }

  absl::Status Number(std::string_view key, double least, double* out) const {
    const toml::node* node = table_.get(key);
    if (node == nullptr) return absl::OkStatus();
    const auto value = node->value<double>();
    if (!node->is_number() || !std::isfinite(*value) || *value < least) {
      return InvalidArgument(Where(*node), AbslView(key), " must be a number of at least ", least);
    }
    *out = *value;
    return absl::OkStatus();
  }

  absl::Status Flag(std::string_view key, bool* out) const {
    const toml::node* node = table_.get(key);
    if (node == nullptr) return absl::OkStatus();
    if (!node->is_boolean()) {
      return InvalidArgument(Where(*node), AbslView(key), " must be true or false");
    }
    *out = *node->value<bool>();
    return absl::OkStatus();
  }

  // The value is a size in quotes, or whole bytes.
  absl::StatusOr<uint64_t> Size(std::string_view key) const {
    const toml::node* node = table_.get(key);
    if (node == nullptr) return InvalidArgument(Where(table_), name_, " needs ", AbslView(key));
    if (node->is_integer() && *node->value<int64_t>() >= 0) {
      return static_cast<uint64_t>(*node->value<int64_t>());
    }
    const auto text = node->is_string() ? node->value<std::string>() : std::nullopt;
    if (!text)
      return InvalidArgument(Where(*node), AbslView(key), " must be a size such as \"8GiB\"");
    const auto size = ParseSize(*text);
    return size.ok() ? size
                     : Annotate(size.status(), absl::StrCat("line ", node->source().begin.line));
  }

  bool Has(std::string_view key) const { return table_.contains(key); }

  absl::Status Bandwidth(double* out) const {
    const toml::node* node = table_.get("bandwidth");
    if (node == nullptr) return absl::OkStatus();
    if (!node->is_string()) return Number("bandwidth", 1, out);
    const std::string text = *node->value<std::string>();
    const size_t unit_at = std::min(text.find_first_not_of("0123456789."), text.size());
    std::string unit = text.substr(unit_at);
    std::transform(unit.begin(), unit.end(), unit.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    double number = 0;
    const double factor = unit == "gbit" ? 1e9 : unit == "mbit" ? 1e6 : unit == "kbit" ? 1e3 : 0;
    if (factor == 0 || !absl::SimpleAtod(text.substr(0, unit_at), &number) || !(number > 0)) {
      return InvalidArgument(Where(*node), "bandwidth \"", text,
                             "\" is none; write 100Mbit or 2.5Gbit");
    }
    *out = number * factor;
    return absl::OkStatus();
  }

  // Calls fn for every table of an array of tables, which may be absent.
  template <typename Fn>
  absl::Status Each(std::string_view key, const std::string& name, const Fn& fn) const {
    const toml::node* node = table_.get(key);
    if (node == nullptr) return absl::OkStatus();
    const toml::array* array = node->as_array();
    if (array == nullptr)
      return InvalidArgument(Where(*node), "write ", name, ", in double brackets");
    for (const toml::node& element : *array) {
      if (!element.is_table())
        return InvalidArgument(Where(element), "write ", name, ", in double brackets");
      RETURN_IF_ERROR(fn(Table(*element.as_table(), name)));
    }
    return absl::OkStatus();
  }

 private:
  const toml::table& table_;
  std::string name_;
};

absl::StatusOr<DeviceProfile> ReadDevice(const Table& t) {
  RETURN_IF_ERROR(t.OnlyKeys({"kind", "name", "memory", "speed", "fast_attention"}));
  DeviceProfile d;
  ASSIGN_OR_RETURN(d.kind, t.Text("kind"));
  if (d.kind != "cuda")
    return InvalidArgument("device kind \"", d.kind, "\" is unknown; \"cuda\" is known");
  ASSIGN_OR_RETURN(d.name, t.Text("name"));
  ASSIGN_OR_RETURN(d.memory_bytes, t.Size("memory"));
  RETURN_IF_ERROR(t.Number("speed", 1e-6, &d.speed));
  RETURN_IF_ERROR(t.Flag("fast_attention", &d.fast_attention));
  return d;
}

absl::StatusOr<MachineProfile> ReadMachine(const Table& t) {
  RETURN_IF_ERROR(t.OnlyKeys({"name", "memory", "speed", "threads", "base", "device"}));
  MachineProfile m;
  ASSIGN_OR_RETURN(m.name, t.Text("name"));
  ASSIGN_OR_RETURN(m.memory_bytes, t.Size("memory"));
  m.base_bytes = kWorkerBaseBytes;
  if (t.Has("base")) {
    ASSIGN_OR_RETURN(m.base_bytes, t.Size("base"));
  }
  RETURN_IF_ERROR(t.Number("speed", 1e-6, &m.speed));
  double threads = 1;
  RETURN_IF_ERROR(t.Number("threads", 1, &threads));
  m.threads = static_cast<uint32_t>(std::min(threads, 4096.0));
  RETURN_IF_ERROR(t.Each("device", "[[machine.device]]", [&](const Table& device) -> absl::Status {
    ASSIGN_OR_RETURN(DeviceProfile d, ReadDevice(device));
    m.devices.push_back(std::move(d));
    return absl::OkStatus();
  }));
  return m;
}

absl::StatusOr<LinkProfile> ReadLink(const Table& t, const std::vector<MachineProfile>& machines) {
  RETURN_IF_ERROR(t.OnlyKeys({"a", "b", "rtt_us", "bandwidth"}));
  LinkProfile link;
  ASSIGN_OR_RETURN(link.a, t.Text("a"));
  ASSIGN_OR_RETURN(link.b, t.Text("b"));
  RETURN_IF_ERROR(t.Number("rtt_us", 0, &link.rtt_us));
  RETURN_IF_ERROR(t.Bandwidth(&link.bandwidth_bps));
  RETURN_IF_ERROR(t.OneOf("a", machines));
  RETURN_IF_ERROR(t.OneOf("b", machines));
  return link;
}

// Debian's library throws; no exception leaves this function.
absl::StatusOr<toml::table> ParseToml(std::string_view text) {
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& e) {
    return InvalidArgument("line ", e.source().begin.line, ": ", AbslView(e.description()));
  }
}

}  // namespace

absl::StatusOr<MachinesFile> ParseMachinesToml(std::string_view text) {
  if (text.size() > kMaxTextBytes) {
    return InvalidArgument("machines file: ", text.size(), " bytes is more than ", kMaxTextBytes);
  }
  ASSIGN_OR_RETURN(const toml::table table, ParseToml(text));
  const Table root(table, "the file");
  RETURN_IF_ERROR(root.OnlyKeys({"machine", "link"}));
  MachinesFile file;
  RETURN_IF_ERROR(root.Each("machine", "[[machine]]", [&](const Table& t) -> absl::Status {
    ASSIGN_OR_RETURN(MachineProfile m, ReadMachine(t));
    file.machines.push_back(std::move(m));
    return absl::OkStatus();
  }));
  RETURN_IF_ERROR(root.Each("link", "[[link]]", [&](const Table& t) -> absl::Status {
    ASSIGN_OR_RETURN(LinkProfile link, ReadLink(t, file.machines));
    file.links.push_back(std::move(link));
    return absl::OkStatus();
  }));
  if (file.machines.empty()) return InvalidArgument("there is no [[machine]] in it");
  return file;
}

}  // namespace lanyard::sharding
