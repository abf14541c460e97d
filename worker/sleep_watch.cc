#include "worker/sleep_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <thread>

#include "base/clock.h"
#include "base/log.h"

namespace lanyard::worker {
namespace {

constexpr char kLogind[] = "org.freedesktop.login1";
constexpr char kPath[] = "/org/freedesktop/login1";
constexpr char kManager[] = "org.freedesktop.login1.Manager";
constexpr int kLookAgainMs = 15'000;  // for a bus that is not there, or is there again

class Bus final : public SleepWatch {
 public:
  explicit Bus(SleepCalls calls) : calls_(std::move(calls)), stop_fd_(::eventfd(0, EFD_CLOEXEC)) {
    thread_ = std::thread([this] { Loop(); });
  }
  ~Bus() override {
    stopping_ = true;
    const uint64_t one = 1;
    if (::write(stop_fd_, &one, sizeof one) < 0) LogWarning("eventfd: ", std::strerror(errno));
    thread_.join();
    ::close(stop_fd_);
  }

 private:
  // Nothing here waits for the bus but poll, which the end of this object interrupts: a bus may
  // hang.
  void Loop() {
    while (!stopping_) {
      bool open = Open() >= 0;
      while (open && !stopping_) open = Turn() && !failed_;
      Close();
      if (!stopping_) WaitFor(-1, 0, kLookAgainMs);
    }
  }

  // An error is below 0, here and below, as sd-bus has it.
  int Open() {
    failed_ = false;
    if (const int r = sd_bus_open_system(&bus_); r < 0) return r;
    const int matched = sd_bus_match_signal_async(
        bus_, nullptr, kLogind, kPath, kManager, "PrepareForSleep", &Bus::OnPrepare, nullptr, this);
    return matched < 0 ? matched : Inhibit();
  }

  // Asks for a lock that lets logind wait for this worker.
  int Inhibit() {
    return sd_bus_call_method_async(bus_, nullptr, kLogind, kPath, kManager, "Inhibit",
                                    &Bus::OnInhibited, this, "ssss", "sleep", "Lanyard",
                                    "The worker leaves its pool first.", "delay");
  }

  static int OnInhibited(sd_bus_message* reply, void* self, sd_bus_error* /*error*/) {
    static_cast<Bus*>(self)->Inhibited(reply);
    return 0;
  }

  void Inhibited(sd_bus_message* reply) {
    int lock = -1;
    if (sd_bus_message_is_method_error(reply, nullptr) == 0 &&
        sd_bus_message_read(reply, "h", &lock) >= 0) {
      Unlock();
      lock_ = ::fcntl(lock, F_DUPFD_CLOEXEC, 3);
      return;
    }
    // Machines without logind are many, and nothing is wrong with them. Where it gives no lock, the
    // worker begins to leave when the machine begins to sleep, and may not come to the end of it.
    const sd_bus_error* error = sd_bus_message_get_error(reply);
    LogDebug("sleep is not held up: ",
             error != nullptr && error->message != nullptr ? error->message : "no lock");
    failed_ =
        sd_bus_message_is_method_error(reply, SD_BUS_ERROR_ACCESS_DENIED) == 0 &&
        sd_bus_message_is_method_error(reply, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED) == 0;
  }

  // False: the bus is gone.
  bool Turn() {
    const int r = sd_bus_process(bus_, nullptr);
    if (r != 0) return r > 0;
    const int events = sd_bus_get_events(bus_);
    uint64_t until_us = UINT64_MAX;
    if (events < 0 || sd_bus_get_timeout(bus_, &until_us) < 0) return false;
    int wait_ms = -1;
    if (until_us != UINT64_MAX) {  // of the monotonic clock
      const auto left = static_cast<int64_t>(until_us) - MonotonicNow() / 1000;
      wait_ms = static_cast<int>(std::clamp<int64_t>(left / 1000 + 1, 0, kLookAgainMs));
    }
    WaitFor(sd_bus_get_fd(bus_), static_cast<short>(events), wait_ms);
    return true;
  }

  void WaitFor(int fd, short events, int wait_ms) {
    pollfd fds[] = {{stop_fd_, POLLIN, 0}, {fd, events, 0}};
    ::poll(fds, 2, wait_ms);
  }

  static int OnPrepare(sd_bus_message* message, void* self, sd_bus_error* /*error*/) {
    int sleeps = 0;
    if (sd_bus_message_read(message, "b", &sleeps) >= 0) static_cast<Bus*>(self)->Told(sleeps != 0);
    return 0;
  }

  void Told(bool sleeps) {
    asleep_ = sleeps;
    if (sleeps) {
      calls_.before();
      Unlock();
    } else {
      calls_.after();
      failed_ = lock_ < 0 && Inhibit() < 0;
    }
  }

  void Unlock() {
    if (lock_ >= 0) ::close(lock_);
    lock_ = -1;
  }

  void Close() {
    Unlock();
    bus_ = sd_bus_close_unref(bus_);
    // Whoever would have told of it is gone.
    if (asleep_) calls_.after();
    asleep_ = false;
  }

  const SleepCalls calls_;
  const int stop_fd_;
  std::atomic<bool> stopping_ = false;
  // The thread's.
  sd_bus* bus_ = nullptr;
  int lock_ = -1;
  bool asleep_ = false;
  bool failed_ = false;  // the bus is there, and nobody on it gives locks
  std::thread thread_;
};

}  // namespace

std::unique_ptr<SleepWatch> SleepWatch::Start(SleepCalls calls) {
  return std::make_unique<Bus>(std::move(calls));
}

}  // namespace lanyard::worker
