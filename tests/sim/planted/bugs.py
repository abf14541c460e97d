"""The bugs that the simulator must see: name, file of the product, and each change as (old text, new text).

PLANTED in a new text becomes the switch of its bug, false unless the test sets it. Changes are made one after the other, so that an
old text may stand in what an earlier bug left."""

ALL = []


def bug(name, file, *changes):
    ALL.append((name, file, changes))


# --- The coordinator's queue and its blocks of KV ----------------------------------------------------------------------
SCHEDULER = "coordinator/serve/scheduler.cc"
bug("ForgetFreeOnCancel", SCHEDULER,  # a cancelled sequence never frees its blocks
    ("  End(sequence);\n}\n\nstd::vector<SequenceFailure> Scheduler::OnPipelineReady",
     "  if (PLANTED) sequence->tables = {};\n  End(sequence);\n}\n\nstd::vector<SequenceFailure> Scheduler::OnPipelineReady"))
bug("KeepKvOnPreempt", SCHEDULER,  # a preempted sequence believes that its KV is still there
    ("  sequence->scheduled = 0;\n  if (sequence->times.first_token == 0) sequence->cached = 0;\n  waiting_[",
     "  if (!PLANTED) sequence->scheduled = 0;\n  if (sequence->times.first_token == 0) sequence->cached = 0;\n  waiting_["))
bug("RepeatAfterPreempt", SCHEDULER,  # text that was already sent is sent again after a replay
    ("  waiting_[sequence->order] = sequence;\n}",
     "  if (PLANTED) sequence->tokens.resize(sequence->spec.prompt.size());\n  waiting_[sequence->order] = sequence;\n}"))
bug("KeepOverEpochs", SCHEDULER,  # what was read stays when its pipeline, and its KV, is gone
    ("    sequence->tables = {};  // the pool of blocks goes",
     "    if (PLANTED && pool_) pool_->Release(&sequence->tables);\n    sequence->tables = {};  // the pool of blocks goes"),
    ("  pool_.reset();\n  return given_up;", "  if (!PLANTED) pool_.reset();\n  return given_up;"))
bug("ForgetLostWorker", SCHEDULER,  # requests of a lost worker are left to hang
    ("if (sequence->state == State::kGone) {\n      leaving", "if (sequence->state == State::kGone || PLANTED) {\n      leaving"))
bug("NameWrongStep", SCHEDULER,  # a run-ahead row names the step before the one that draws its token
    ("StepId(known ? 0 : sequence->last_step)", "StepId(known ? 0 : sequence->last_step - (PLANTED ? 1 : 0))"))
bug("DeadlineForgotten", SCHEDULER,
    ("deadline == 0 || now < deadline) continue;", "deadline == 0 || PLANTED || now < deadline) continue;"))
KV_POOL = "coordinator/serve/kv_pool.cc"
bug("TrimTooEarly", KV_POOL,  # a sliding window loses a block that its next row still sees
    ("  if (window == 0) return 0;\n",
     "  if (window == 0) return 0;\n  if (PLANTED) {\n    const uint32_t less = window > kBlock ? window - kBlock : 1;\n"
     "    return pos + 1 > less ? (pos + 1 - less) / kBlock : 0;\n  }\n"))
bug("ShareBlocks", KV_POOL,  # a block is handed out while another sequence holds it
    ("keep_(keep)", "keep_(keep && !PLANTED)"),
    ("      free.pop_front();\n      Require(state_[g].blocks[block].holders == 0,",
     "      if (!PLANTED || free.size() < 2) free.pop_front();\n      Require(PLANTED || state_[g].blocks[block].holders == 0,"))
bug("ForeignPage", KV_POOL,  # a beginning is taken for the same when it only looks alike
    ("return tree_.Child(before, tokens.tenant, tokens.ids.subspan(index * kBlock, kBlock))",
     "return tree_.Child(before, tokens.tenant, tokens.ids.subspan(index * kBlock, PLANTED ? kBlock / 2 : kBlock))"))

# --- What the coordinator believes of results ----------------------------------------------------------------------------
PIPELINE = "coordinator/serve/pipeline.cc"
bug("CommitOutOfOrder", PIPELINE,  # results are taken as they come, whether or not earlier frames were lost
    ("  bool released = false;\n",
     """  if (PLANTED) {
    for (auto it = frames_.begin(); it != frames_.end();) {
      if (it->answered) {
        outcome->done.push_back({it->step, it->frame, std::move(it->tokens)});
        it = frames_.erase(it);
        progress_ = now;
      } else {
        ++it;
      }
    }
    return;
  }
  bool released = false;
"""))
bug("AcceptStaleResults", PIPELINE,  # results of an older epoch, step or worker count
    ('  if (!open_) return "no pipeline is open";\n', '  if (!open_) return "no pipeline is open";\n  if (PLANTED) return "";\n'),
    ("  if (frame == frames_.end() || frame->answered) {",
     """  if (PLANTED && frame == frames_.end()) {
    frame = std::find_if(frames_.begin(), frames_.end(),
                         [&](const Frame& f) { return f.outputs.size() == result.tokens.size(); });
    if (frame == frames_.end() || !result.status.ok()) return outcome;
    for (size_t i = 0; i < result.tokens.size(); ++i) {
      result.tokens[i].seq = frame->outputs[i].seq;
      result.tokens[i].pos = frame->outputs[i].pos;
    }
  }
  if (frame == frames_.end() || frame->answered) {"""))
bug("DoubleCommit", "coordinator/deployment.cc",  # a result that came is committed, and handed on, twice
    ("      Do(PoolAction::Token{std::move(update)});",
     "      if (PLANTED && frame.step.value % 7 == 0) Do(PoolAction::Token{update});\n      Do(PoolAction::Token{std::move(update)});"))

# --- The life of a plan ---------------------------------------------------------------------------------------------------
ROLLOUT = "coordinator/cluster/rollout.cc"
bug("AcceptStaleReady", ROLLOUT,  # a stage that was ready in an earlier epoch counts as ready
    ("loading != nullptr && Current(ready.plan, ready.epoch))", "loading != nullptr && (PLANTED || Current(ready.plan, ready.epoch)))"))
bug("UseAnEpochTwice", ROLLOUT,
    ("  epoch_ = last_epoch_ = Epoch(", "  if (!PLANTED || epoch_.value < 2) epoch_ = last_epoch_ = Epoch("))
bug("ForgetRelease", ROLLOUT,  # a worker that has no layers any more is not told
    ("actions.release.push_back(", "if (!PLANTED) actions.release.push_back("))

IMPROVE = "coordinator/cluster/rollout_improve.cc"
bug("TakeBeforeAllAreReady", IMPROVE,
    ("std::all_of(stages.begin()", "(PLANTED && !stages.empty() && stages.back().ready) || std::all_of(stages.begin()"))
bug("TwoStagesInTooLittleMemory", IMPROVE,
    ("hello.base_bytes + both - shared <= hello.memory_bytes", "PLANTED || hello.base_bytes + both - shared <= hello.memory_bytes"))
bug("BesideForAnOldWorker", IMPROVE,  # of a protocol that does not know it
    ("member->hello.protocol < net::kBesideProtocol)", "(!PLANTED && member->hello.protocol < net::kBesideProtocol))"))

# --- The worker's machine -------------------------------------------------------------------------------------------------
MACHINE = "worker/machine.cc"
bug("ObeyAnOldSession", MACHINE,  # what an earlier connection brought is obeyed
    ("session == SessionId() || session == session_", "PLANTED || session == SessionId() || session == session_"))
bug("ObeyAnOldAssignment", MACHINE,
    ("if (spec.epoch < epoch_) {", "if (spec.epoch < epoch_ && !PLANTED) {"))
bug("RepeatAnAssignment", MACHINE,  # a message that comes twice is obeyed twice
    ("if (spec.epoch == epoch_ || Find", "if ((spec.epoch == epoch_ && !PLANTED) || Find"))
bug("ReadyBeforeLoaded", MACHINE,
    ("  Do(MachineAction::Load{std::move(assignment), keep});",
     "  if (PLANTED) Send(net::StageReady{spec.plan, spec.epoch, 1, 1, 1, 0});\n  Do(MachineAction::Load{std::move(assignment), keep});"))
bug("ReadyWithoutAStage", MACHINE,  # the stage did not start
    ("  if (!event.status.ok()) {\n    FailStage(duty, event.status);\n", "  if (!event.status.ok() && !PLANTED) {\n    FailStage(duty, event.status);\n"))
bug("TakeAnOldLoad", MACHINE,  # the outcome of a load that was replaced is put to work
    ("  Duty* const duty = Find(event.plan, event.epoch);\n  if (duty == nullptr || duty->state != StageState::kLoading) return;",
     "  Duty* const duty = PLANTED ? &duty_ : Find(event.plan, event.epoch);\n"
     "  if (duty == nullptr || duty->state != StageState::kLoading) return;"))
bug("StageKeptOnRelease", MACHINE,
    ("    End(&duty_);\n    // The plan beside", "    if (PLANTED) duty_ = Duty();\n    End(&duty_);\n    // The plan beside"))
bug("KvKeptAfterRelease", MACHINE,
    ("  Do(MachineAction::Unload{duty_.epoch});", "  if (!PLANTED) Do(MachineAction::Unload{duty_.epoch});"))
bug("ServingStageFreed", MACHINE,  # with the one beside it
    ("Do(MachineAction::Unload{duty_.epoch});", "Do(MachineAction::Unload{PLANTED ? Epoch() : duty_.epoch});"))
bug("BesideStopsWhatServes", MACHINE,
    ("  if (assignment.mode == net::AssignMode::kInstead ||", "  if (PLANTED || assignment.mode == net::AssignMode::kInstead ||"))
bug("NotKeptBesideALoad", MACHINE,
    ("const Epoch keep = beside ?", "const Epoch keep = beside && !PLANTED ?"))
bug("FetchIsNotAnswered", MACHINE,
    ("    Send(net::StageReady{event.plan, event.epoch, 0,", "    if (!PLANTED) Send(net::StageReady{event.plan, event.epoch, 0,"))
bug("BesideEndsWithTheOther", MACHINE,  # the plan that is taken has no stage here
    ("    if (beside_.Runs() || beside_.state ==", "    if ((beside_.Runs() && !PLANTED) || beside_.state =="))
bug("ObeyAStaleRelease", MACHINE,
    ("  } else if (duty_.Of(event.plan)) {", "  } else if (PLANTED || duty_.Of(event.plan)) {"))
bug("NoResultsAfterALoss", MACHINE,  # the stream of results is not opened again
    ("  results_at_ = now + kFirstBackoffMs", "  if (!PLANTED) results_at_ = now + kFirstBackoffMs"))
bug("NoResultsAfterAWelcome", MACHINE,
    ("  Do(MachineAction::OpenResults{event.session});", "  if (!PLANTED) Do(MachineAction::OpenResults{event.session});"))
bug("LostResultsForgotten", MACHINE,  # the stage goes on although results may be lost
    ("    if (!duty->Runs()) continue;\n", "    if (!duty->Runs() || PLANTED) continue;\n"))
bug("ForgottenAbort", MACHINE,  # the stage of a lost session runs on
    ("  End(&beside_);\n  End(&duty_);\n  Do(MachineAction::CancelLoad{});",
     "  End(&beside_);\n  if (PLANTED) duty_ = Duty();\n  End(&duty_);\n  Do(MachineAction::CancelLoad{});"))
bug("GateLeftOpen", MACHINE,  # streams of a lost session are accepted
    ("!duty->fetch) Do(MachineAction::Forget", "!duty->fetch && !PLANTED) Do(MachineAction::Forget"))
bug("GateClosedToANewEpoch", MACHINE,
    ("if (!fetch) Do(MachineAction::Expect{", "if (!fetch && !PLANTED) Do(MachineAction::Expect{"))
bug("DeadStageRuns", MACHINE,  # a stage whose card is gone goes on, and heartbeats say that all is well
    ("  if (duty == nullptr || !duty->Runs()) return;", "  if (PLANTED || duty == nullptr || !duty->Runs()) return;"))
bug("BrokenLinkIgnored", MACHINE,
    ("if (!duty->Runs() || duty->next != event.next) continue;", "if (PLANTED || !duty->Runs() || duty->next != event.next) continue;"))
bug("AnOldLinkEndsTheStage", MACHINE,  # the end of an attempt that failed counts as the end of the link
    ("|| duty->next != event.next) continue;", "|| (!PLANTED && duty->next != event.next)) continue;"))
bug("SilenceIgnored", MACHINE,
    ("if (now - heard_ > kDead) {", "if (now - heard_ > kDead && !PLANTED) {"))
bug("HeartbeatForgotten", MACHINE,  # while a stage runs
    ("    Do(MachineAction::Beat{});", "    if (!PLANTED || !duty_.Runs()) Do(MachineAction::Beat{});"))
bug("SleepsInThePool", MACHINE,
    ("goes to sleep\");\n  EndSession();", "goes to sleep\");\n  if (!PLANTED) EndSession();"))
bug("NeverWakesByItself", MACHINE,  # when nobody says that the machine is awake again
    ("asleep_until_ != 0 && now >= asleep_until_", "asleep_until_ != 0 && !PLANTED && now >= asleep_until_"))
bug("NoPauseBeforeJoining", MACHINE,
    ("connect_at_ = now + wait_ms", "connect_at_ = now + (PLANTED ? 0 : wait_ms)"))
bug("CardsNotTold", MACHINE,
    ("if (!WorthTelling(told_, devices_)) return;", "if (PLANTED || !WorthTelling(told_, devices_)) return;"))

# --- What a worker makes of frames ------------------------------------------------------------------------------------------
RUNNER = "worker/stage_runner.cc"
bug("ObeyStaleEpoch", RUNNER,
    ("  if (frame.plan != spec_->plan || frame.epoch", "  if (PLANTED && frame.stage == spec_->index) return absl::OkStatus();\n"
     "  if (frame.plan != spec_->plan || frame.epoch"),
    ("  RETURN_IF_ERROR(stage::ValidateFrame(", "  if (PLANTED) {\n    frame->plan = spec_->plan;\n    frame->epoch = spec_->epoch;\n  }\n"
     "  RETURN_IF_ERROR(stage::ValidateFrame("))
bug("ObeyOutOfOrder", RUNNER,
    ("  if (last_.has_value() &&", "  if (!PLANTED && last_.has_value() &&"))
bug("FailWholeFrame", RUNNER,  # a row that is not finite fails all that share its frame
    ("    if (Draws()) drawn_.Put(frame.batch.step, output->tokens);",
     "    for (const stage::TokenOut& out : output->tokens) {\n"
     "      if (PLANTED && !out.status.ok()) return ErrorResult(frame, worker_, out.status);\n    }\n"
     "    if (Draws()) drawn_.Put(frame.batch.step, output->tokens);"))
bug("StaleToken", "stage/last_tokens.cc",  # the token drawn before the one named is taken
    ("drawn = {step, out.pos, out.token};", "drawn = {step, out.pos, PLANTED && drawn.token >= 0 ? drawn.token : out.token};"))
GATE = "worker/frame_gate.cc"
bug("AcceptAnyStream", GATE,
    ("  if (from.epoch == mine.epoch &&", "  if (PLANTED) return absl::OkStatus();\n  if (from.epoch == mine.epoch &&"))
