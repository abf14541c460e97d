// Bugs that the simulator plants to prove that its checker would catch them. All of them are false
// outside tests/sim.
#pragma once

namespace lanyard::coordinator {

struct PlantedBugs {
  bool forget_free_on_cancel = false;  // a cancelled sequence never frees its blocks
  bool trim_too_early = false;      // a sliding window loses a block that its next row still sees
  bool keep_kv_on_preempt = false;  // a preempted sequence believes that its KV is still there
  bool foreign_page = false;        // a beginning is taken for the same when it only looks alike
  bool keep_over_epochs = false;    // what was read stays when its pipeline, and its KV, is gone
  bool share_blocks = false;        // a block is handed out while another sequence holds it
  // Results are taken as they come, whether or not earlier frames were lost.
  bool commit_out_of_order = false;
  bool accept_stale_results = false;  // results of an older epoch, step or worker count
  bool forget_lost_worker = false;    // requests of a lost worker are left to hang
  // A run-ahead row names the step before the one that draws its token.
  bool name_wrong_step = false;
  bool repeat_after_preempt = false;  // text that was already sent is sent again after a replay
};

}  // namespace lanyard::coordinator
