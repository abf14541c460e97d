// `lanyard gpu-check`: what this machine's NVIDIA cards are, whether the kernels compile for them
// and give the CPU's bits, and how fast they are. It writes one report file for a person who has a
// card; the file says nothing about the machine or its user.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/clock.h"
#include "base/size.h"
#include "base/version.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/pool_json.h"
#include "cli/table.h"
#include "engine/cuda/driver.h"
#include "engine/cuda/nvml.h"
#include "engine/cuda/op_checks.h"
#include "engine/cuda/probe.h"
#include "engine/ops/cuda/ptx_image.h"

namespace lanyard::cli {
namespace {

using nlohmann::json;

struct GpuCheckOptions {
  std::string out = "lanyard-gpu-check.json";
  int card = -1;
  bool small = false;
  bool no_probe = false;
  bool json = false;
};

// Gives null where NVML says nothing.
template <typename T>
json Maybe(const std::optional<T>& value) {
  return value.has_value() ? json(*value) : json(nullptr);
}

json DeviceJson(const cuda::DeviceInfo& d) {
  return {{"ordinal", d.ordinal},
          {"name", d.name},
          {"compute_capability", absl::StrCat(d.cc_major, ".", d.cc_minor)},
          {"total_bytes", d.total_bytes},
          {"multiprocessors", d.sm_count},
          {"clock_khz", d.clock_khz},
          {"memory_clock_khz", d.memory_clock_khz},
          {"memory_bus_bits", d.memory_bus_bits},
          {"l2_bytes", d.l2_bytes},
          {"shared_per_block_bytes", d.shared_per_block_bytes},
          {"shared_per_multiprocessor_bytes", d.shared_per_sm_bytes},
          {"registers_per_multiprocessor", d.registers_per_sm},
          {"threads_per_multiprocessor", d.threads_per_sm},
          {"copy_engines", d.copy_engines},
          {"integrated", d.integrated}};
}

// Says of other programs only how many there are and how much they use, never which they are.
json NvmlJson(const std::optional<cuda::CardNumbers>& n) {
  if (!n.has_value()) return nullptr;
  uint64_t process_bytes = 0;
  size_t graphics = 0;
  for (const cuda::CardProcess& process : n->processes) {
    process_bytes += process.bytes.value_or(0);
    graphics += process.graphics ? 1 : 0;
  }
  return {{"total_bytes", Maybe(n->total_bytes)}, {"used_bytes", Maybe(n->used_bytes)},
          {"gpu_percent", Maybe(n->gpu_percent)}, {"memory_percent", Maybe(n->memory_percent)},
          {"celsius", Maybe(n->celsius)},         {"watts", Maybe(n->watts)},
          {"watts_limit", Maybe(n->watts_limit)}, {"sm_mhz", Maybe(n->sm_mhz)},
          {"memory_mhz", Maybe(n->memory_mhz)},   {"pcie_generation", Maybe(n->pcie_generation)},
          {"pcie_lanes", Maybe(n->pcie_lanes)},   {"processes", n->processes.size()},
          {"graphics_processes", graphics},       {"process_bytes", process_bytes}};
}

// Lists the kernels that a level's PTX defines.
std::vector<std::string> KernelNames(int level) {
  std::vector<std::string> names;
  for (const ops::cuda::PtxFile& file : ops::cuda::PtxImages(level)) {
    constexpr std::string_view kEntry = ".entry ";
    for (size_t at = file.text.find(kEntry); at != std::string_view::npos;
         at = file.text.find(kEntry, at + 1)) {
      const size_t begin = at + kEntry.size();
      names.emplace_back(file.text.substr(begin, file.text.find_first_of("( \n", begin) - begin));
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

json KernelsJson(cuda::Module& module) {
  json kernels = json::array();
  for (const std::string& name : KernelNames(module.level())) {
    const auto info = module.Info(name);
    if (!info.ok()) {
      kernels.push_back({{"name", name}, {"error", Str(info.status().message())}});
      continue;
    }
    kernels.push_back({{"name", name},
                       {"registers", info->registers},
                       {"local_bytes", info->local_bytes},
                       {"shared_bytes", info->shared_bytes},
                       {"max_threads", info->max_threads}});
  }
  return kernels;
}

json ChecksJson(const std::vector<cuda::OpCheck>& checks) {
  json out = json::array();
  for (const cuda::OpCheck& c : checks) {
    json line = {{"op", c.op},         {"variant", c.variant},     {"ok", c.ok()},
                 {"values", c.values}, {"different", c.different}, {"seconds", c.seconds}};
    if (!c.first.empty()) line["first"] = c.first;
    if (!c.error.empty()) line["error"] = c.error;
    if (!c.skipped.empty()) line["skipped"] = c.skipped;
    out.push_back(std::move(line));
  }
  return out;
}

json ProbeJson(const cuda::CardProbe& p, const cuda::DeviceInfo& d) {
  json out = {{"read_bytes_per_second", p.read_bytes_per_second},
              {"copy_bytes_per_second", p.copy_bytes_per_second},
              {"int8_dp4a_ops_per_second", p.int8_dp4a_ops_per_second},
              {"int8_mma_ops_per_second", p.int8_mma_ops_per_second},
              {"f16_mma_ops_per_second", p.f16_mma_ops_per_second},
              {"f32_fma_ops_per_second", p.f32_fma_ops_per_second},
              {"to_device_bytes_per_second", p.to_device_bytes_per_second},
              {"to_host_bytes_per_second", p.to_host_bytes_per_second},
              {"launch_seconds", p.launch_seconds}};
  // It is twice the clock, since memory sends at both edges.
  const double peak = 2e3 * d.memory_clock_khz * d.memory_bus_bits / 8;
  if (peak > 0) {
    out["memory_peak_bytes_per_second"] = peak;
    out["read_share_of_peak"] = p.read_bytes_per_second / peak;
  }
  return out;
}

// Finds out about one card that these kernels are for. `failed` is set when it does not do what it
// should.
json CheckCard(const std::shared_ptr<const cuda::Driver>& driver, const cuda::DeviceInfo& device,
               const GpuCheckOptions& o, bool* failed) {
  json report = {{"device", DeviceJson(device)}};
  const auto fail = [&](const char* what, const absl::Status& status) {
    report["error"] = absl::StrCat(what, ": ", status.message());
    *failed = true;
    return report;
  };
  const auto context = cuda::Context::Create(driver, device.ordinal);
  if (!context.ok()) return fail("context", context.status());
  if (const auto memory = (*context)->Memory(); memory.ok())
    report["free_bytes"] = memory->free_bytes;
  const TimeNs begin = MonotonicNow();
  const auto module = cuda::Module::LoadShipped(*context);
  if (!module.ok()) return fail("kernels", module.status());
  report["kernels_level"] = (*module)->level();
  report["kernels_load_seconds"] = static_cast<double>(MonotonicNow() - begin) * 1e-9;
  report["kernels"] = KernelsJson(**module);
  cuda::OpCheckOptions test;
  test.small = o.small;
  size_t wrong = 0;
  std::vector<cuda::OpCheck> done;
  test.progress = [&](const cuda::OpCheck& check) {
    wrong += check.ok() ? 0 : 1;
    done.push_back(check);
    if (check.ok() || o.json) return;
    std::fprintf(stderr, "cuda:%d %s (%s): %s\n", device.ordinal, check.op.c_str(),
                 check.variant.c_str(),
                 check.error.empty() ? check.first.c_str() : check.error.c_str());
  };
  const auto checks = cuda::RunOpChecks(*module, test);
  report["checks"] = ChecksJson(done);
  report["checks_failed"] = wrong;
  if (!checks.ok()) return fail("checks", checks.status());
  *failed = *failed || wrong > 0;
  if (Interrupted() || o.no_probe) return report;
  cuda::ProbeOptions probe;
  if (o.small) {
    probe.buffer_bytes = 1 << 20;
    probe.repeats = 1;
    probe.loops = 4;
  }
  const auto rates = cuda::ProbeCard(*module, probe);
  if (!rates.ok()) return fail("probe", rates.status());
  report["probe"] = ProbeJson(*rates, device);
  return report;
}

void PrintChecks(const json& card) {
  size_t run = 0;
  std::string skipped;
  for (const json& check : card["checks"]) {
    if (check.contains("skipped")) {
      skipped = check["skipped"];
    } else {
      ++run;
    }
  }
  std::printf("  checks   %zu of %zu equal to the CPU, bit for bit%s\n",
              run - card["checks_failed"].get<size_t>(), run,
              skipped.empty() ? " (attention's fast form: near it)" : "");
  if (!skipped.empty())
    std::printf("  skipped  %zu checks: %s\n", card["checks"].size() - run, skipped.c_str());
}

void PrintCard(const json& card) {
  const json& d = card["device"];
  std::printf("cuda:%d  %s, compute capability %s, %s\n", d["ordinal"].get<int>(),
              d["name"].get<std::string>().c_str(),
              d["compute_capability"].get<std::string>().c_str(),
              FormatSize(d["total_bytes"].get<uint64_t>()).c_str());
  if (card.contains("skipped")) {
    std::printf("  skipped  %s\n", card["skipped"].get<std::string>().c_str());
    return;
  }
  if (card.contains("error")) {
    std::printf("  failed   %s\n", card["error"].get<std::string>().c_str());
    return;
  }
  std::printf("  kernels  %zu of level %d, ready in %.1f s\n", card["kernels"].size(),
              card["kernels_level"].get<int>(), card["kernels_load_seconds"].get<double>());
  PrintChecks(card);
  if (!card.contains("probe")) return;
  const json& p = card["probe"];
  const auto giga = [&](const char* key) { return p[key].get<double>() * 1e-9; };
  std::printf(
      "  memory   %.0f GB/s read, %.0f GB/s copied; PCIe %.1f GB/s there, %.1f GB/s back; a launch "
      "%.1f us\n",
      giga("read_bytes_per_second"), giga("copy_bytes_per_second"),
      giga("to_device_bytes_per_second"), giga("to_host_bytes_per_second"),
      p["launch_seconds"].get<double>() * 1e6);
  std::printf(
      "  rates    int8 %.1f T/s (dp4a), %.1f T/s (tensor cores); f16 %.1f T/s; f32 %.1f T/s\n",
      giga("int8_dp4a_ops_per_second") * 1e-3, giga("int8_mma_ops_per_second") * 1e-3,
      giga("f16_mma_ops_per_second") * 1e-3, giga("f32_fma_ops_per_second") * 1e-3);
}

absl::Status WriteReport(const std::string& path, const json& report) {
  std::ofstream file(path, std::ios::trunc);
  file << report.dump(2, ' ', false, json::error_handler_t::replace) << "\n";
  file.flush();
  if (!file)
    return absl::InternalError(
        absl::StrCat("cannot write ", path, "; choose another file with --out"));
  return absl::OkStatus();
}

int Run(const GpuCheckOptions& o) {
  CatchInterrupts();
  const auto driver = cuda::Driver::Open();
  if (!driver.ok()) return Fail(driver.status());
  const auto nvml = cuda::Nvml::Open();
  json report = {{"report", "lanyard gpu-check"},
                 {"version", kVersion},
                 {"numerics_version", kNumericsVersion},
                 {"driver_cuda", (*driver)->version()},
                 {"driver", nvml->driver_version()},
                 {"nvml", nvml->present()},
                 {"small", o.small},
                 {"kernels_levels", ops::cuda::PtxLevels()},
                 {"cards", json::array()}};
  bool failed = false;
  bool found = false;
  size_t checked = 0;
  for (const cuda::DeviceInfo& device : (*driver)->devices()) {
    if (o.card >= 0 && o.card != device.ordinal) continue;
    found = true;
    const auto numbers = nvml->Card(device.pci_id);
    json card;
    // A card that is too old is no fault of the others, and gets no context.
    if (const absl::Status fit = cuda::Module::LevelFor(device).status(); fit.ok()) {
      card = CheckCard(*driver, device, o, &failed);
      ++checked;
    } else {
      card = {{"device", DeviceJson(device)}, {"skipped", Str(fit.message())}};
    }
    card["nvml"] = NvmlJson(numbers);
    if (!o.json) PrintCard(card);
    report["cards"].push_back(std::move(card));
    if (Interrupted()) return kInterrupted;
  }
  if (!found)
    return Fail(
        NotFound("no card cuda:", o.card, "; the driver sees ", (*driver)->devices().size()));
  failed = failed || checked == 0;
  report["ok"] = !failed;
  if (const absl::Status written = WriteReport(o.out, report); !written.ok()) return Fail(written);
  if (o.json) {
    std::printf("%s\n", OneLine(report).c_str());
  } else {
    std::printf("%s; the report is in %s\n", failed ? "FAILED" : "ok", o.out.c_str());
  }
  return failed ? kFailed : kOk;
}

}  // namespace

void RegisterGpuCheck(CLI::App& app) {
  auto o = std::make_shared<GpuCheckOptions>();
  CLI::App* command = AddCommand(
      app, "gpu-check", "Check this machine's NVIDIA cards: facts, kernels, bits, rates",
      "  lanyard gpu-check\n  lanyard gpu-check --card 0 --json\n"
      "JSON: report version driver driver_cuda nvml kernels_levels ok "
      "cards[device free_bytes kernels[] checks[] checks_failed probe nvml error skipped].\n"
      "Cards that are too old for the kernels are skipped.\n"
      "Exit codes: 0 all well, 1 a check failed, a card was lost or none is new enough, "
      "5 no driver or no card.",
      [o] { return Run(*o); });
  command->add_option("--out", o->out, "File for the report")->capture_default_str();
  command
      ->add_option("--card", o->card,
                   "Only this card, as the driver numbers them (default: every card)")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--small", o->small, "Few and small shapes");
  command->add_flag("--no-probe", o->no_probe, "Do not measure rates");
  command->add_flag("--json", o->json, "Print the report instead of a summary");
}

}  // namespace lanyard::cli
