#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <gtest/gtest.h>

#include <random>

#include "model/testing/gguf_writer.h"
#include "net/convert_control.h"
#include "net/convert_stage.h"
#include "net/frame_scan.h"
#include "net/limits.h"
#include "net/status_codes.h"
#include "net/testing_util.h"

namespace lanyard::net {
namespace {

v1::StepFrame SampleProto() {
  v1::StepFrame proto;
  EXPECT_TRUE(ToProto(testing::SampleFrame(), &proto).ok());
  return proto;
}

model::Manifest TinyManifest() {
  const std::vector<uint8_t> bytes = model::testing::TinyLlama().Build();
  auto file = model::GgufFile::Parse(bytes);
  EXPECT_TRUE(file.ok()) << file.status();
  auto manifest = model::BuildManifest(**file, true);
  EXPECT_TRUE(manifest.ok()) << manifest.status();
  return *std::move(manifest);
}

TEST(ConvertStage, FrameRoundTrip) {
  const stage::StepFrame in = testing::SampleFrame();
  const auto out = FromProto(SampleProto());
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->plan, in.plan);
  EXPECT_EQ(out->epoch, in.epoch);
  EXPECT_EQ(out->stage, in.stage);
  EXPECT_EQ(out->numerics, in.numerics);
  EXPECT_EQ(out->batch.step, in.batch.step);
  EXPECT_EQ(out->batch.frame, in.batch.frame);
  EXPECT_EQ(out->batch.n_frames, in.batch.n_frames);
  EXPECT_EQ(out->hidden.data, in.hidden.data);
  EXPECT_EQ(out->hidden.rows, in.hidden.rows);
  EXPECT_EQ(out->hidden.cols, in.hidden.cols);
  ASSERT_EQ(out->batch.runs.size(), 2u);
  EXPECT_EQ(out->batch.runs[0].tables[1].first, 2u);
  EXPECT_EQ(out->batch.runs[0].tables[0].blocks, in.batch.runs[0].tables[0].blocks);
  const stage::OutputRequest& output = out->batch.runs[1].outputs[0];
  EXPECT_EQ(output.sample.seed, 0xfeedfacecafef00d);
  EXPECT_EQ(output.sample.top_k, 40u);
  EXPECT_FLOAT_EQ(output.sample.min_p, 0.05f);
  EXPECT_EQ(output.want, (std::vector<int32_t>{1, 2, 99}));
  EXPECT_EQ(output.top, 5u);
  EXPECT_EQ(out->batch.runs[0].token_of, StepId());
  EXPECT_EQ(out->batch.runs[1].token_of, in.batch.runs[1].token_of);
}

TEST(ConvertStage, AttentionForms) {
  for (const auto form : {stage::AttentionForm::kExact, stage::AttentionForm::kFast}) {
    stage::NumericsId in;
    in.attention = form;
    v1::NumericsId proto;
    ToProto(in, &proto);
    const auto out = FromProto(proto);
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_EQ(*out, in);
  }
  // A sender that does not know of forms.
  v1::NumericsId old;
  old.set_version(kNumericsVersion);
  ASSERT_TRUE(FromProto(old).ok());
  EXPECT_EQ(FromProto(old)->attention, stage::AttentionForm::kExact);
}

TEST(ConvertStage, RefusesEachHostileField) {
  const auto refuses = [](const std::function<void(v1::StepFrame&)>& spoil) {
    v1::StepFrame proto = SampleProto();
    spoil(proto);
    return absl::IsInvalidArgument(FromProto(proto).status());
  };
  EXPECT_FALSE(refuses([](v1::StepFrame&) {}));
  EXPECT_TRUE(refuses([](v1::StepFrame& f) { f.set_hidden_type(static_cast<v1::WireType>(7)); }));
  EXPECT_TRUE(
      refuses([](v1::StepFrame& f) { f.mutable_numerics()->set_kv(static_cast<v1::KvType>(-1)); }));
  for (const int form : {2, -1}) {
    EXPECT_TRUE(refuses([=](v1::StepFrame& f) {
      f.mutable_numerics()->set_attention(static_cast<v1::AttentionForm>(form));
    })) << form;
  }
  EXPECT_TRUE(refuses([](v1::StepFrame& f) { f.set_hidden_rows(4); }));
  EXPECT_TRUE(refuses([](v1::StepFrame& f) { f.set_hidden_rows(0xffffffff); }));
  EXPECT_TRUE(refuses([](v1::StepFrame& f) { f.set_hidden_cols(0xffffffff); }));
  EXPECT_TRUE(refuses([](v1::StepFrame& f) { f.mutable_hidden()->pop_back(); }));
  EXPECT_TRUE(refuses([](v1::StepFrame& f) { f.set_n_frames(0); }));
  EXPECT_TRUE(refuses([](v1::StepFrame& f) { f.set_frame(3); }));
  EXPECT_TRUE(refuses([](v1::StepFrame& f) { f.clear_runs(); }));
  EXPECT_TRUE(refuses([](v1::StepFrame& f) { f.mutable_runs(0)->set_n_rows(0); }));
  EXPECT_TRUE(refuses([](v1::StepFrame& f) { f.mutable_runs(0)->set_n_rows(0xffffffff); }));
  EXPECT_TRUE(refuses([](v1::StepFrame& f) { f.mutable_runs(0)->add_tokens(1); }));
  EXPECT_TRUE(refuses([](v1::StepFrame& f) {
    for (int i = 0; i <= kMaxRuns; ++i) f.add_runs();
  }));
  EXPECT_TRUE(refuses([](v1::StepFrame& f) {
    for (int i = 0; i <= kMaxGroups; ++i) f.mutable_runs(0)->add_tables();
  }));
  EXPECT_TRUE(refuses([](v1::StepFrame& f) { f.mutable_runs(1)->add_outputs(); }));
  const auto sample = [](v1::StepFrame& f) {
    return f.mutable_runs(1)->mutable_outputs(0)->mutable_sample();
  };
  EXPECT_TRUE(refuses([&](v1::StepFrame& f) { sample(f)->set_temperature(NAN); }));
  EXPECT_TRUE(refuses([&](v1::StepFrame& f) { sample(f)->set_temperature(-1); }));
  EXPECT_TRUE(refuses(
      [&](v1::StepFrame& f) { sample(f)->set_temperature(stage::kMaxTemperature + 0.1f); }));
  EXPECT_TRUE(refuses([&](v1::StepFrame& f) { sample(f)->set_top_p(0); }));
  EXPECT_TRUE(refuses([&](v1::StepFrame& f) { sample(f)->set_min_p(INFINITY); }));
  EXPECT_TRUE(refuses(
      [&](v1::StepFrame& f) { f.mutable_runs(1)->mutable_outputs(0)->set_top(kMaxTop + 1); }));
}

TEST(ConvertStage, FrameTooLargeIsRefusedBeforeItIsSent) {
  stage::StepFrame frame = testing::SampleFrame();
  frame.hidden.data.resize(kMaxFrameBytes + 1);
  v1::StepFrame proto;
  EXPECT_TRUE(absl::IsInvalidArgument(ToProto(frame, &proto)));
}

// Flipped bytes of a serialised frame parse or not, convert or not, and never crash (run with the
// address sanitiser).
TEST(ConvertStage, FlippedBytesNeverCrash) {
  const std::string good = SampleProto().SerializeAsString();
  std::mt19937 random(1);
  int converted = 0;
  int refused = 0;
  for (int i = 0; i < 30000; ++i) {
    std::string bytes = good;
    const int flips = 1 + static_cast<int>(random() % 4);
    for (int k = 0; k < flips; ++k) bytes[random() % bytes.size()] = static_cast<char>(random());
    if (random() % 8 == 0) bytes.resize(random() % bytes.size());
    v1::StepFrame proto;
    if (!proto.ParseFromString(bytes)) continue;
    const auto frame = FromProto(proto);
    if (!frame.ok()) {
      ++refused;
      continue;
    }
    ++converted;
    EXPECT_LE(frame->batch.TotalRows(), stage::kMaxFrameRows);
    EXPECT_LE(frame->hidden.data.size(), kMaxFrameBytes);
  }
  EXPECT_GT(converted, 100);
  EXPECT_GT(refused, 100);
}

absl::Status Scan(const std::string& bytes) {
  google::protobuf::io::ArrayInputStream stream(bytes.data(), static_cast<int>(bytes.size()),
                                                7);  // many slices
  return ScanFrameMessage(&stream);
}

TEST(FrameScan, ValidPassesAndBombsDoNot) {
  v1::FrameMessage message;
  *message.mutable_frame() = SampleProto();
  EXPECT_TRUE(Scan(message.SerializeAsString()).ok()) << Scan(message.SerializeAsString());
  message.mutable_frame()->set_hidden(std::string(kMaxFrameBytes, 'x'));
  EXPECT_TRUE(Scan(message.SerializeAsString()).ok());
  EXPECT_TRUE(Scan("").ok());
  v1::FrameMessage ping;
  ping.mutable_ping()->set_payload(std::string(300000, 'x'));
  EXPECT_TRUE(Scan(ping.SerializeAsString()).ok());

  v1::FrameMessage runs;
  for (int i = 0; i <= kMaxFrameSubmessages; ++i) runs.mutable_frame()->add_runs();
  EXPECT_TRUE(absl::IsInvalidArgument(Scan(runs.SerializeAsString())));
  v1::FrameMessage tables;
  for (int i = 0; i <= kMaxFrameSubmessages; ++i) {
    if (i % 1000 == 0) tables.mutable_frame()->add_runs();
    tables.mutable_frame()->mutable_runs(i / 1000)->add_tables();
  }
  EXPECT_TRUE(absl::IsInvalidArgument(Scan(tables.SerializeAsString())));
  v1::FrameMessage blocks;
  v1::BlockTable* table = blocks.mutable_frame()->add_runs()->add_tables();
  for (int i = 0; i < 5 << 20; ++i) table->add_blocks(1);
  EXPECT_TRUE(absl::IsInvalidArgument(Scan(blocks.SerializeAsString())));
  ping.mutable_ping()->set_payload(std::string(kMaxFrameMessageBytes, 'x'));
  EXPECT_TRUE(absl::IsInvalidArgument(Scan(ping.SerializeAsString())));
}

TEST(FrameScan, FlippedAndCutBytesNeverCrash) {
  v1::FrameMessage message;
  *message.mutable_frame() = SampleProto();
  const std::string good = message.SerializeAsString();
  std::mt19937 random(2);
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = good;
    bytes[random() % bytes.size()] = static_cast<char>(random());
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    v1::FrameMessage parsed;
    const absl::Status scan = Scan(bytes);
    // Nothing that is a valid frame is refused.
    if (parsed.ParseFromString(bytes) && parsed.has_frame() && FromProto(parsed.frame()).ok()) {
      EXPECT_TRUE(scan.ok()) << scan;
    }
  }
}

TEST(ConvertStage, ResultRoundTripAndWorkerFromStream) {
  stage::StepResult in;
  in.plan = PlanId(1);
  in.epoch = Epoch(2);
  in.step = StepId(3);
  in.frame = 4;
  in.stage = 5;
  in.worker = "liar";
  in.status = absl::ResourceExhaustedError("no\nroom \x01\xff here \xc3\xa9");
  in.tokens.push_back({SeqId(8), 9, 10, -0.5f, 3.25f, {{4, 1.5f}, {3, 1.0f}}, {0.25f, -7.0f}});
  v1::StepResult proto;
  ToProto(in, &proto);
  std::string bytes;
  ASSERT_TRUE(proto.SerializeToString(&bytes));
  v1::StepResult parsed;
  ASSERT_TRUE(parsed.ParseFromString(bytes));  // fails on text that is not UTF-8
  const auto out = FromProto(parsed, "w1");
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(out->worker, "w1");
  EXPECT_EQ(out->status, absl::ResourceExhaustedError("no room ?? here \xc3\xa9"));
  ASSERT_EQ(out->tokens.size(), 1u);
  EXPECT_EQ(out->tokens[0].top, in.tokens[0].top);
  EXPECT_EQ(out->tokens[0].want, in.tokens[0].want);
  EXPECT_EQ(out->tokens[0].lse, 3.25f);
  EXPECT_EQ(out->frame, 4u);

  in.tokens[0].status = absl::InternalError("not finite");
  v1::StepResult with_error;
  ToProto(in, &with_error);
  EXPECT_EQ(FromProto(with_error, "w1")->tokens[0].status, absl::InternalError("not finite"));
}

TEST(ConvertControl, EveryWorkerEventRoundTrips) {
  WorkerHello hello{"w1",
                    kVersion,
                    kProtocolVersion,
                    "127.0.0.1:1234",
                    1000,
                    10,
                    2,
                    1.5,
                    "avx2",
                    77,
                    {{"cuda", "cuda:0", "a card", 5000, 20}, {"cuda", "cuda:1", "", 7, 1}}};
  const std::vector<WorkerEvent> events = {
      hello,
      Heartbeat{5, 0.5, 6},
      LoadProgress{PlanId(1), 2, 3},
      StageReady{PlanId(1), Epoch(2), 3, 4, 5, 6},
      StageFailed{PlanId(1), Epoch(2), absl::DataLossError("x"), "w2", LoadCause::kBadWeights},
      Leaving{"bye"},
      DevicesChanged{{{"cuda", "cuda:1", "", 7, 1}}}};
  for (size_t i = 0; i < events.size(); ++i) {
    v1::WorkerMessage proto;
    ToProto(events[i], &proto);
    const auto out = FromProto(proto);
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_EQ(out->index(), i);
    v1::WorkerMessage again;
    ToProto(*out, &again);
    EXPECT_EQ(again.SerializeAsString(), proto.SerializeAsString());
  }
  EXPECT_FALSE(FromProto(v1::WorkerMessage()).ok());
}

TEST(ConvertControl, HelloIsChecked) {
  const auto refuses = [](const std::function<void(WorkerHello&)>& spoil) {
    WorkerHello hello{"w1",   kVersion, kProtocolVersion, "127.0.0.1:1234", 1000, 10, 2, 1.5,
                      "avx2", 77};
    spoil(hello);
    v1::WorkerMessage proto;
    ToProto(WorkerEvent(hello), &proto);
    return !FromProto(proto).ok();
  };
  EXPECT_FALSE(refuses([](WorkerHello&) {}));
  EXPECT_TRUE(refuses([](WorkerHello& h) { h.name = "../w"; }));
  EXPECT_TRUE(refuses([](WorkerHello& h) { h.name = ""; }));
  EXPECT_TRUE(refuses([](WorkerHello& h) { h.name = std::string(65, 'a'); }));
  EXPECT_TRUE(refuses([](WorkerHello& h) { h.stage_address = "no port"; }));
  EXPECT_TRUE(refuses([](WorkerHello& h) { h.stage_address = "h:99999"; }));
  EXPECT_TRUE(refuses([](WorkerHello& h) { h.speed = NAN; }));
  EXPECT_TRUE(refuses([](WorkerHello& h) { h.threads = 0; }));
  const DeviceHello card{"cuda", "cuda:0", "", 1, 1};
  for (const bool fast : {false, true}) {
    WorkerHello hello{"w1",   kVersion, kProtocolVersion, "127.0.0.1:1234", 1000, 10, 2, 1.5,
                      "avx2", 77};
    hello.devices = {{"cuda", "cuda:0", "", 1, 1, fast}};
    v1::WorkerMessage proto;
    ToProto(WorkerEvent(hello), &proto);
    EXPECT_EQ(std::get<WorkerHello>(*FromProto(proto)).devices.at(0).fast_attention, fast);
  }
  EXPECT_FALSE(refuses([&](WorkerHello& h) { h.devices = {card}; }));
  EXPECT_TRUE(refuses([&](WorkerHello& h) { h.devices = {card, card}; }));
  EXPECT_TRUE(refuses([&](WorkerHello& h) { h.devices.assign(65, card); }));
  EXPECT_TRUE(refuses([](WorkerHello& h) { h.devices = {{"cuda", "cpu", "", 1, 1}}; }));
  EXPECT_TRUE(refuses([](WorkerHello& h) { h.devices = {{"cuda", "cuda:0", "", 1, -1}}; }));
  // Another protocol is refused by its number later (versions.h), whatever else the hello says.
  EXPECT_FALSE(refuses([](WorkerHello& h) { h.protocol = 99, h.threads = 0; }));
  EXPECT_FALSE(refuses([](WorkerHello& h) { h.version = "9.0.0"; }));
}

TEST(ConvertControl, AssignmentRoundTripAndChecks) {
  Assignment in;
  in.manifest = std::make_shared<const model::Manifest>(TinyManifest());
  in.spec.plan = PlanId(3);
  in.spec.epoch = Epoch(4);
  in.spec.n_stages = 2;
  in.spec.layers = {0, 1};
  in.spec.embeds = true;
  in.spec.group_blocks = {16};
  in.spec.max_context = 128;
  in.next_worker = "w2";
  in.next_address = "127.0.0.1:99";
  in.mode = AssignMode::kBeside;
  v1::Assign proto;
  ToProto(in, &proto);
  const auto out = FromProto(proto);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->manifest->digest, in.manifest->digest);
  EXPECT_EQ(out->spec.layers, in.spec.layers);
  EXPECT_EQ(out->next_address, in.next_address);
  EXPECT_EQ(out->mode, in.mode);

  const auto refuses = [&](const std::function<void(v1::Assign&)>& spoil) {
    v1::Assign bad = proto;
    spoil(bad);
    return !FromProto(bad).ok();
  };
  EXPECT_TRUE(refuses([](v1::Assign& a) { a.mutable_spec()->set_layer_end(3); }));
  EXPECT_TRUE(refuses([](v1::Assign& a) { a.mutable_spec()->set_layer_begin(2); }));
  EXPECT_TRUE(refuses([](v1::Assign& a) { a.mutable_spec()->set_samples(true); }));
  EXPECT_TRUE(refuses([](v1::Assign& a) { a.mutable_spec()->add_group_blocks(1); }));
  EXPECT_TRUE(refuses([](v1::Assign& a) { a.set_next_address("x"); }));
  EXPECT_TRUE(refuses([](v1::Assign& a) { a.set_mode(static_cast<v1::AssignMode>(3)); }));
  EXPECT_TRUE(
      refuses([](v1::Assign& a) { a.mutable_manifest()->mutable_shape()->set_family("gpt9"); }));
  EXPECT_TRUE(refuses(
      [](v1::Assign& a) { a.mutable_manifest()->mutable_shape()->set_attention_scale(0.3f); }));
  EXPECT_TRUE(refuses(
      [](v1::Assign& a) { a.mutable_manifest()->mutable_parts(0)->set_sha256("../../etc"); }));
  const auto tensor = [](v1::Assign& a) {
    return a.mutable_manifest()->mutable_parts(0)->mutable_tensors(0);
  };
  EXPECT_TRUE(refuses([&](v1::Assign& a) { tensor(a)->set_type(99); }));
  EXPECT_TRUE(refuses([&](v1::Assign& a) { tensor(a)->set_dims(0, 1ull << 62); }));
}

TEST(StatusCodes, EveryCodeGoesThereAndBack) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "text");
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
    EXPECT_EQ(FromWireCode(ToWireCode(status), "text"), status);
  }
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
  EXPECT_TRUE(absl::IsUnknown(FromWireCode(99, "x")));
  EXPECT_EQ(CleanText(std::string(10000, 'a')).size(), kMaxTextBytes);
  EXPECT_EQ(CleanText("a\xe2\x82 b\xed\xa0\x80"), "a?? b???");
}

}  // namespace
}  // namespace lanyard::net
