"""The bugs that the simulator must see: name, file of the product, and each change as (old text, new text).

PLANTED in a new text becomes the switch of its bug, false unless the test sets it. Changes are made one after the other, so that an
old text may stand in what an earlier bug left.

Not seen yet within 400 lives, and so not here: a StageReady of an earlier epoch that counts, a release of another plan that is obeyed,
and the end of a failed attempt to reach the next stage that counts as the end of the link. Unit tests hold the last two
(worker/machine_test.cc)."""

ALL = []


def bug(name, file, *changes):
    ALL.append((name, file, changes))


# --- The life of a plan, and what is committed of it ---------------------------------------------------------------------
bug("DoubleCommit", "coordinator/deployment.cc",  # a result that came is committed, and handed on, twice
    ("      Do(PoolAction::Token{std::move(update)});",
     "      if (PLANTED && frame.step.value % 7 == 0) Do(PoolAction::Token{update});\n      Do(PoolAction::Token{std::move(update)});"))
ROLLOUT = "coordinator/cluster/rollout.cc"
bug("UseAnEpochTwice", ROLLOUT,
    ("epoch_ = Epoch(epoch_.value + 1);", "if (!PLANTED || epoch_.value < 2) epoch_ = Epoch(epoch_.value + 1);"))
bug("ForgetRelease", ROLLOUT,  # a worker that has no layers any more is not told
    ("actions.release.push_back(", "if (!PLANTED) actions.release.push_back("))

# --- The worker's machine -------------------------------------------------------------------------------------------------
MACHINE = "worker/machine.cc"
bug("ObeyAnOldSession", MACHINE,  # what an earlier connection brought is obeyed
    ("session == SessionId() || session == session_", "PLANTED || session == SessionId() || session == session_"))
bug("ObeyAnOldAssignment", MACHINE,
    ("if (spec.epoch < epoch_) {", "if (spec.epoch < epoch_ && !PLANTED) {"))
bug("RepeatAnAssignment", MACHINE,  # a message that comes twice is obeyed twice
    ("if (spec.epoch == epoch_) return;", "if (spec.epoch == epoch_ && !PLANTED) return;"))
bug("ReadyBeforeLoaded", MACHINE,
    ("  Do(MachineAction::Load{std::move(assignment)});",
     "  if (PLANTED) Send(net::StageReady{spec.plan, spec.epoch, 1, 1, 1, 0});\n  Do(MachineAction::Load{std::move(assignment)});"))
bug("ReadyWithoutAStage", MACHINE,  # the stage did not start
    ("  if (!event.status.ok()) {\n    FailStage(event.status);", "  if (!event.status.ok() && !PLANTED) {\n    FailStage(event.status);"))
bug("TakeAnOldLoad", MACHINE,  # the outcome of a load that was replaced is put to work
    ("stage_ != StageState::kLoading || !duty_.Is(event.plan, event.epoch)) return;\n  if (event.status.ok() && event.next",
     "stage_ != StageState::kLoading || (!PLANTED && !duty_.Is(event.plan, event.epoch))) return;\n"
     "  if (event.status.ok() && event.next"))
bug("StageKeptOnRelease", MACHINE,
    ("  StopStage();\n  stage_ = StageState::kNone;\n  doing_", "  if (!PLANTED) StopStage();\n  stage_ = StageState::kNone;\n  doing_"))
bug("KvKeptAfterRelease", MACHINE,
    ("  Do(MachineAction::ExpectNothing{});\n  Do(MachineAction::Unload{});",
     "  Do(MachineAction::ExpectNothing{});\n  if (!PLANTED) Do(MachineAction::Unload{});"))
bug("NoResultsAfterALoss", MACHINE,  # the stream of results is not opened again
    ("  results_at_ = now + kFirstBackoffMs", "  if (!PLANTED) results_at_ = now + kFirstBackoffMs"))
bug("NoResultsAfterAWelcome", MACHINE,
    ("  Do(MachineAction::OpenResults{event.session});", "  if (!PLANTED) Do(MachineAction::OpenResults{event.session});"))
bug("LostResultsForgotten", MACHINE,  # the stage goes on although results may be lost
    ("  if (!Runs()) return;\n", "  if (!Runs() || PLANTED) return;\n"))
bug("ForgottenAbort", MACHINE,  # the stage of a lost session runs on
    ("  StopStage();\n  Do(MachineAction::ExpectNothing{});\n  Do(MachineAction::CancelLoad{});",
     "  if (!PLANTED) StopStage();\n  Do(MachineAction::ExpectNothing{});\n  Do(MachineAction::CancelLoad{});"))
bug("GateLeftOpen", MACHINE,  # streams of a lost session are accepted
    ("  Do(MachineAction::ExpectNothing{});\n  Do(MachineAction::CancelLoad{});",
     "  if (!PLANTED) Do(MachineAction::ExpectNothing{});\n  Do(MachineAction::CancelLoad{});"))
bug("GateClosedToANewEpoch", MACHINE,
    ("  Do(MachineAction::Expect{spec.plan", "  if (!PLANTED) Do(MachineAction::Expect{spec.plan"))
bug("DeadStageRuns", MACHINE,  # a stage whose card is gone goes on, and heartbeats say that all is well
    ("  if (!Runs() || !duty_.Is(event.plan, event.epoch)) return;", "  if (PLANTED || !Runs() || !duty_.Is(event.plan, event.epoch)) return;"))
bug("BrokenLinkIgnored", MACHINE,
    ("if (!Runs() || duty_.next != event.next) return;", "if (PLANTED || !Runs() || duty_.next != event.next) return;"))
bug("SilenceIgnored", MACHINE,
    ("if (now - heard_ > kDead) {", "if (now - heard_ > kDead && !PLANTED) {"))
bug("HeartbeatForgotten", MACHINE,  # while a stage runs
    ("    Do(MachineAction::Beat{});", "    if (!PLANTED || !Runs()) Do(MachineAction::Beat{});"))
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
bug("AcceptAnyStream", "worker/frame_gate.cc",
    ("  if (from.epoch == epoch_ &&", "  if (PLANTED) return absl::OkStatus();\n  if (from.epoch == epoch_ &&"))
