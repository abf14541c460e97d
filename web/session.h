// One connection to the HTTP server: it reads requests, asks the Gate, hands them to handlers, and
// writes their answers.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <future>
#include <memory>
#include <string>
#include <unordered_set>

#include "web/address.h"
#include "web/exchange.h"
#include "web/gate.h"
#include "web/http_server.h"
#include "web/large_bodies.h"
#include "web/places.h"
#include "web/router.h"
#include "web/transport.h"
#include "web/wire.h"

namespace lanyard::web {

// What all connections share. Only the I/O thread uses it, unless a field says otherwise. `io` is
// destroyed first and ends the sessions.
struct ServerCore {
  ServerCore(const ServerOptions& o, Router r, HostPolicy h);

  const ServerOptions options;
  const Router router;  // may be used by any thread
  const HostPolicy hosts;
  Gate gate;
  std::unordered_set<Session*> sessions;
  Guests strangers;  // those that have shown no right to be here yet; they make room first
  Guests idle;       // those that have, and hold no place now
  Shares shares;     // of the others: those that are given completions
  LargeBodies large_bodies;
  size_t lingering = 0;  // refused connections that still read their refusal
  std::atomic<size_t> n_sessions{0};
  bool stopping = false;
  std::promise<void> drained;  // set when the server stops and the last session has gone
  asio::io_context io{1};
  // By Lane: who asks for much holds up neither /health nor administrators.
  asio::thread_pool completions, queries, control;
  asio::thread_pool& HandlersOf(Lane lane);
};

// It lives on the I/O thread; the coroutine Run holds it alive.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(ServerCore* server, tcp::socket socket, const std::string& client);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // `refuse` means that there is no room: the session says so and closes.
  asio::awaitable<void> Run(bool refuse);
  // Closes the connection to make room for others; no answer is lost.
  void Drop();
  // Ends the answer that is being made if its caller may no longer have it.
  void CheckCaller();
  // The server stops: a complete answer may still be sent, everything else ends now.
  void Shutdown();

 private:
  struct Head;  // the part of a request before its body

  // Returns false when the connection is to be closed.
  asio::awaitable<bool> StartTls();
  asio::awaitable<bool> ServeOne(bool first);
  asio::awaitable<bool> ReadHead(bool first, Head* head);
  asio::awaitable<bool> ReadBody(Head* head);
  // Waits for a place among the large bodies, which the head then holds.
  asio::awaitable<bool> EnterLarge(Head* head);
  asio::awaitable<bool> Answer(std::shared_ptr<Exchange> exchange, const Reply& reply);
  asio::awaitable<void> Refuse(const Response& response, Reply reply);
  asio::awaitable<bool> SendNow(const Response& response, const Reply& reply);
  asio::awaitable<bool> WriteAll(const std::string& bytes);
  asio::awaitable<bool> FillBuffer(size_t bytes);
  asio::awaitable<void> Linger();
  // Each: empty, or why the request goes no further.
  std::optional<Response> Screen(Head* head);
  std::optional<Response> ScreenTarget(Head* head);
  std::optional<Response> ScreenCaller(Head* head);
  asio::awaitable<bool> AwaitRequest(bool first);
  std::shared_ptr<Exchange> Dispatch(Head* head);
  std::optional<Response> TakePlace(Head* head);
  // What the connection counts as. Of these it is in one list at most.
  enum class Rank { kStranger, kIdle, kBusy };
  void SetRank(Rank rank);
  void LeaveShare();
  void OnWake();
  void Watch(std::shared_ptr<Exchange> exchange);
  bool PeerClosed();

  ServerCore& server_;
  const ServerLimits& limits_;
  const std::string client_;  // ClientGroup
  Transport transport_;
  std::string buffer_;                  // bytes that were read and not parsed
  asio::steady_timer wake_;             // cancelled when Answer has something to do
  std::shared_ptr<Exchange> exchange_;  // while an answer is being made
  Caller caller_;                       // the caller of that answer
  Rank rank_ = Rank::kBusy;
  std::optional<Guests::Place> guest_;  // in the list of its rank
  std::optional<std::string> share_;    // whose place among the completions it holds
  bool poll_peer_ = false;              // waiting bytes hide the peer's close from the reactor
  bool shut_ = false;
};

}  // namespace lanyard::web
