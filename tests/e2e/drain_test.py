#!/usr/bin/env python3
"""Draining a worker in the middle of an answer: the answer is whole and right, the worker has no layers and can be killed,
comes back when it may, stays out over restarts, and a worker that is needed is refused with the arithmetic."""
import json
import signal
import threading
import time
import unittest

import cluster
import pool
from cluster import Cluster, Stream

PROMPT = "Tell me a very long story."


def node(c, name):
    return next(n for n in c.status()["nodes"] if n["name"] == name)


class Draining(unittest.TestCase):
    def drain_amid_an_answer(self, c, key, max_tokens, name):
        """Drains `name` while an answer runs and another waits; returns the first one, ended."""
        right = Stream(c, key, PROMPT, max_tokens)
        right.join(120)
        self.assertTrue(right.done, right.error)
        answer = Stream(c, key, PROMPT, max_tokens)
        answer.wait_tokens(10)
        start = time.monotonic()
        drained = threading.Thread(target=lambda: c.cli("node", "drain", name, "--wait", 90))
        drained.start()
        time.sleep(0.2)
        later = Stream(c, key, PROMPT, 24)  # comes while it is draining
        drained.join(100)
        took = time.monotonic() - start
        self.assertFalse(node(c, name)["has_stage"])
        self.assertEqual(node(c, name)["state"], "drained")
        answer.join(120)
        later.join(120)
        print(f"drained in {took:.1f} s; longest pause of the answer {answer.longest_gap:.1f} s of {answer.tokens} tokens; "
              f"{cluster.load()}", flush=True)
        self.assertTrue(answer.done and later.done, (answer.error, later.error))
        self.assertEqual(answer.text, right.text)
        self.assertEqual(later.text, right.text[:len(later.text)])
        return took

    def test_amid_answers(self):
        with Cluster(workers=2, context=2048) as c:
            c.wait_ready(2)
            key = c.cli("key", "create", "anna").strip()
            # It ends before the layers move.
            self.drain_amid_an_answer(c, key, 60, "w2")
            c.wait_ready(1)
            self.assertIn("'w2' is drained", c.coordinator.text())
            self.assertIn("drained", next(line for line in c.cli("node", "list").splitlines() if line.startswith("w2 ")))
            # Killing it disturbs nobody.
            epoch = c.status()["epoch"]
            answer = Stream(c, key, PROMPT, 60)
            answer.wait_tokens(5)
            c.workers["w2"].stop(signal.SIGKILL)
            answer.join(60)
            self.assertTrue(answer.done, answer.error)
            self.assertEqual(c.status()["epoch"], epoch)
            # The coordinator's next life knows it, and does not wait for it nor plan it in.
            c.coordinator.stop()
            c.start_coordinator(2)
            c.wait_ready(1)
            c.workers["w2"] = c.worker("w2-again", "w2")
            c.workers["w2"].wait_text("joined")
            time.sleep(3)
            self.assertEqual(node(c, "w2")["state"], "drained")
            self.assertFalse(node(c, "w2")["has_stage"])
            # Taken back, it is planned in at the first quiet moment: --workers 2 asks for both.
            c.cli("node", "drain", "--disable", "w2")
            c.wait_ready(2, seconds=120)

    def test_a_long_answer_is_carried_over(self):
        with Cluster(workers=2, context=4096) as c:
            c.wait_ready(2)
            key = c.cli("key", "create", "anna").strip()
            self.drain_amid_an_answer(c, key, 1500, "w1")

    def test_who_is_needed_stays(self):
        with Cluster(workers=2, memory="130MiB") as c:
            c.wait_ready(2)
            key = c.cli("key", "create", "anna").strip()
            before = c.complete(PROMPT, key)
            out = pool.lanyard("node", "drain", "w2", "--admin", c.admin)
            said = out.stderr.decode()
            print(said.strip(), flush=True)
            self.assertEqual(out.returncode, 1)
            self.assertIn("'w2' is needed", said)
            self.assertIn("MiB", said)
            self.assertEqual(c.complete(PROMPT, key), before)
            self.assertEqual(node(c, "w2")["state"], "ready")
            self.assertIsNone(next(m for m in json.loads(c.cli("node", "list", "--json"))["members"]
                                   if m["name"] == "w2")["drained_unix_s"])
            # Not there, not a worker.
            self.assertEqual(pool.lanyard("node", "drain", "w9", "--admin", c.admin).returncode, 5)


if __name__ == "__main__":
    pool.main()
