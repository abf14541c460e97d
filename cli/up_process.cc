#include "cli/up_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <thread>
#include <utility>

#include "base/log.h"

namespace lanyard::cli {
namespace {

constexpr TimeNs kFirstPause = 250 * kMillisecond;
constexpr TimeNs kLongestPause = 10 * kSecond;
constexpr TimeNs kHealthyLife = 60 * kSecond;
constexpr size_t kMostComplaints = 20;  // that a terminal is shown of one log

// Runs after fork, so it makes only calls that are safe there.
[[noreturn]] void RunChild(const char* program, char* const* argv, int log_fd, pid_t parent) {
  ::setpgid(0, 0);  // Ctrl-C then goes to the parent alone, which stops the children in order
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(1);  // the parent died in between
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = ::open("/dev/null", O_RDONLY);
  if (null >= 0) ::dup2(null, STDIN_FILENO);
  ::dup2(log_fd, STDOUT_FILENO);
  ::dup2(log_fd, STDERR_FILENO);
  ::execv(program, argv);
  ::_exit(127);
}

}  // namespace

absl::Status Process::Start() {
  if (::access(spec_.program.c_str(), X_OK) != 0) {
    return NotFound("cannot run ", spec_.program, ": ", std::strerror(errno),
                    "; lanyard, lanyard-coordinator and lanyard-worker must lie in one directory");
  }
  const int log_fd =
      ::open(spec_.log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log_fd < 0)
    return Internal("cannot write the log ", spec_.log_path, ": ", std::strerror(errno));
  std::vector<char*> argv;
  argv.push_back(spec_.program.data());
  for (std::string& arg : spec_.args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) RunChild(spec_.program.c_str(), argv.data(), log_fd, parent);
  const int error = errno;
  ::close(log_fd);
  if (pid < 0) return Internal("cannot start ", spec_.name, ": ", std::strerror(error));
  pid_ = pid;
  return absl::OkStatus();
}

std::optional<std::string> Process::Poll() {
  if (pid_ <= 0) return std::nullopt;
  int state = 0;
  if (::waitpid(pid_, &state, WNOHANG) != pid_) return std::nullopt;
  pid_ = -1;
  exit_code_ = WIFEXITED(state) ? WEXITSTATUS(state) : -1;
  if (WIFEXITED(state)) return absl::StrCat("exit code ", WEXITSTATUS(state));
  return absl::StrCat("signal ", WTERMSIG(state), " (", ::strsignal(WTERMSIG(state)), ")");
}

void Process::Signal(int number) const {
  if (pid_ > 0) ::kill(pid_, number);
}

void StopAll(const std::vector<Process*>& processes, std::chrono::milliseconds grace) {
  const auto any_left = [&] {
    bool left = false;
    for (Process* p : processes) {
      p->Poll();
      left = left || p->running();
    }
    return left;
  };
  for (const Process* p : processes) p->Signal(SIGTERM);
  const auto end = std::chrono::steady_clock::now() + grace;
  while (any_left() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  for (const Process* p : processes) p->Signal(SIGKILL);
  while (any_left()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

std::string LastLines(const std::string& path, int lines) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return "";
  const auto size = static_cast<int64_t>(in.tellg());
  const int64_t start = std::max<int64_t>(0, size - 16 * 1024);
  in.seekg(start);
  std::string text(static_cast<size_t>(size - start), '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  size_t at = text.size();
  for (int i = 0; i < lines && at != std::string::npos && at > 0; ++i)
    at = text.rfind('\n', at - 1);
  return at == std::string::npos || at == 0 ? text : text.substr(at + 1);
}

std::string LastWords(const std::string& log_path) {
  std::string line = LastLines(log_path, 1);
  if (ParseLogLine(line).has_value()) return "";
  const std::string prefix = "error: ";
  return line.starts_with(prefix) ? line.substr(prefix.size()) : line;
}

std::vector<std::string> Complaints::Next() {
  std::vector<std::string> out;
  std::ifstream in(path_, std::ios::binary);
  if (!in.seekg(at_)) return out;
  std::string text((std::istreambuf_iterator<char>(in)), {});
  at_ += static_cast<int64_t>(text.size());
  text = std::exchange(rest_, "") + text;
  size_t begin = 0;
  for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string line = text.substr(begin, end - begin);
    const std::optional<LogLine> said = ParseLogLine(line);
    if (!said.has_value() || said->level < LogLevel::kWarning) continue;
    if (told_.size() < kMostComplaints && told_.insert(said->words).second)
      out.push_back(said->words);
  }
  rest_ = text.substr(begin);
  return out;
}

TimeNs BackOff::NextStart(TimeNs started, TimeNs ended) {
  if (ended - started >= kHealthyLife) failures_ = 0;
  const TimeNs pause = std::min(kLongestPause, kFirstPause << std::min(failures_, 10));
  ++failures_;
  return ended + pause;
}

}  // namespace lanyard::cli
