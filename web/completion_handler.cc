#include "web/completion_handler.h"

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "base/status.h"
#include "web/errors.h"
#include "web/openai_format.h"
#include "web/openai_request.h"

namespace lanyard::web {
namespace {

using coordinator::FinishReason;
using coordinator::Generator;
using coordinator::TokenLogprob;
using coordinator::TokenSink;
using coordinator::Usage;

int64_t UnixNow() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Sends the answer token by token, as server-sent events.
class StreamSink : public TokenSink {
 public:
  StreamSink(const AnswerInfo& info, std::shared_ptr<ResponseWriter> writer)
      : writer_(std::move(writer)), format_(info) {}

  // Sends the headers and the chunk with the role: when the request was accepted, or with the first
  // text if that is earlier.
  void Open() {
    MutexLock lock(&mu_);
    OpenLocked();
  }
  void OnText(std::string text, std::vector<TokenLogprob> logprobs) override {
    MutexLock lock(&mu_);
    OpenLocked();
    writer_->Write(format_.Text(text, logprobs));
  }
  void OnDone(FinishReason reason, Usage usage) override {
    MutexLock lock(&mu_);
    OpenLocked();
    writer_->Write(format_.Last(reason, usage));
    writer_->End();
  }
  void OnError(const absl::Status& status, Usage) override {
    MutexLock lock(&mu_);
    OpenLocked();
    writer_->Write(SseEvent(ToErrorJson(status)));
    writer_->End();
  }
  bool Abandoned() override { return writer_->Gone(); }

 private:
  void OpenLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (open_) return;
    open_ = true;
    writer_->BeginStream();
    if (std::string first = format_.First(); !first.empty()) writer_->Write(std::move(first));
  }

  Mutex mu_;  // needed since Open is called from the handler's thread
  const std::shared_ptr<ResponseWriter> writer_;
  AnswerFormat format_ ABSL_GUARDED_BY(mu_);
  bool open_ ABSL_GUARDED_BY(mu_) = false;
};

// Sends the whole answer at its end. All calls come from the pool's thread.
class WholeSink : public TokenSink {
 public:
  WholeSink(const AnswerInfo& info, std::shared_ptr<ResponseWriter> writer)
      : writer_(std::move(writer)), format_(info) {}

  void OnText(std::string text, std::vector<TokenLogprob> logprobs) override {
    text_ += text;
    for (TokenLogprob& lp : logprobs) logprobs_.push_back(std::move(lp));
  }
  void OnDone(FinishReason reason, Usage usage) override {
    Response response;
    response.body = format_.Whole(text_, logprobs_, reason, usage);
    writer_->Send(std::move(response));
  }
  void OnError(const absl::Status& status, Usage) override { writer_->Send(ToResponse(status)); }
  bool Abandoned() override { return writer_->Gone(); }

 private:
  const std::shared_ptr<ResponseWriter> writer_;
  AnswerFormat format_;
  std::string text_;
  std::vector<TokenLogprob> logprobs_;
};

AnswerInfo MakeInfo(const Generator& generator, const CompletionRequest& request,
                    const std::string& request_id) {
  const coordinator::ModelIdentity model = generator.Model();
  AnswerInfo info;
  info.id = (request.chat ? "chatcmpl-" : "cmpl-") + request_id;
  info.created_unix_s = UnixNow();
  info.model = model.id;
  info.system_fingerprint = model.numerics + "-" + model.digest.substr(0, 12);
  info.chat = request.chat;
  info.include_usage = request.include_usage;
  info.logprobs = request.generate.logprobs;
  return info;
}

void Handle(Generator* generator, absl::StatusOr<CompletionRequest> parsed, const Request& request,
            std::shared_ptr<ResponseWriter> writer) {
  if (!parsed.ok()) return writer->Send(ToResponse(parsed.status()));
  parsed->generate.request_id = request.request_id;
  parsed->generate.caller = NameOf(request.caller);
  const AnswerInfo info = MakeInfo(*generator, *parsed, request.request_id);
  std::shared_ptr<StreamSink> stream;
  std::shared_ptr<TokenSink> sink;
  if (parsed->stream) {
    sink = stream = std::make_shared<StreamSink>(info, writer);
  } else {
    sink = std::make_shared<WholeSink>(info, writer);
  }
  const absl::StatusOr<SeqId> id = generator->Start(parsed->generate, sink);
  if (!id.ok()) return writer->Send(ToResponse(id.status()));
  writer->OnGone([generator, id = *id] { generator->Cancel(id); });
  if (stream != nullptr) stream->Open();
}

}  // namespace

void HandleChatCompletion(Generator* generator, Request& request,
                          std::shared_ptr<ResponseWriter> writer) {
  absl::StatusOr<CompletionRequest> parsed = ParseChatRequest(request.body);
  std::string().swap(request.body);
  Handle(generator, std::move(parsed), request, std::move(writer));
}

void HandleTextCompletion(Generator* generator, Request& request,
                          std::shared_ptr<ResponseWriter> writer) {
  absl::StatusOr<CompletionRequest> parsed = ParseTextRequest(request.body);
  std::string().swap(request.body);
  Handle(generator, std::move(parsed), request, std::move(writer));
}

}  // namespace lanyard::web
