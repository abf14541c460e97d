#!/usr/bin/env python3
"""A worker is killed, stopped or told to go in the middle of an answer: the stream goes on after a pause, with the same text."""
import os
import signal
import threading
import time
import unittest

import pool
from pool import Pool

# Upper bounds for a busy machine; docs/benchmarks.md has what was measured on a quiet one.
PAUSE_AFTER_A_KILL = 5.0
DEAD_AFTER = 5.0
TOKENS = 300


class LostWorker(unittest.TestCase):
    def stream(self, p, disturb, after=10):
        """A long answer, disturbed once that many tokens are here: its text, and the longest pause between two events."""
        text, pause, last, tokens = [], 0.0, None, 0
        for event in p.stream("Tell me a very long story.", max_tokens=TOKENS, ignore_eos=True, temperature=0.8, seed=7):
            now = time.monotonic()
            if last is not None:
                pause = max(pause, now - last)
            last = now
            if event == "[DONE]":
                return "".join(text), pause
            self.assertNotIn("error", event)
            for choice in event["choices"]:
                text.append(choice.get("delta", choice).get("content") or "")
            tokens += 1
            if tokens == after and disturb:
                disturb()
        self.fail(f"the stream ended without [DONE] after {tokens} events")

    def test_each_worker_killed_once(self):
        with Pool(3, context=1024) as p:
            undisturbed, _ = self.stream(p, None)
            self.assertGreater(len(undisturbed), TOKENS)
            for worker in ("w1", "w2", "w3"):
                with self.subTest(worker=worker):
                    p.wait_ready()
                    pid = p.pid(worker)
                    text, pause = self.stream(p, lambda: os.kill(pid, signal.SIGKILL))
                    print(f"{worker} killed: a pause of {pause * 1000:.0f} ms", flush=True)
                    self.assertEqual(text, undisturbed)
                    self.assertLess(pause, PAUSE_AFTER_A_KILL)

    def test_what_comes_meanwhile_waits(self):
        with Pool(2, context=512) as p:
            before = p.chat("What is a lanyard?", max_tokens=20)
            pid = p.pid("w1")
            answers = []
            waiters = [threading.Thread(target=lambda: answers.append(p.chat("What is a lanyard?", max_tokens=20))) for _ in range(3)]

            def disturb():
                os.kill(pid, signal.SIGKILL)
                for waiter in waiters:
                    waiter.start()
            self.stream(p, disturb)
            for waiter in waiters:
                waiter.join(60)
            self.assertEqual(answers, [before] * 3)

    def test_a_stall_is_no_loss(self):
        with Pool(2, context=1024) as p:
            undisturbed, _ = self.stream(p, None)
            epoch = p.get("/admin/v1/status")["epoch"]
            pid = p.pid("w2")

            def stall():
                os.kill(pid, signal.SIGSTOP)
                threading.Timer(2.5, os.kill, (pid, signal.SIGCONT)).start()
            text, pause = self.stream(p, stall)
            print(f"w2 stopped for 2.5 s: a pause of {pause * 1000:.0f} ms", flush=True)
            self.assertEqual(text, undisturbed)
            self.assertEqual(p.get("/admin/v1/status")["epoch"], epoch)

    def test_one_that_stops_for_good_is_left_behind(self):
        with Pool(2, context=1024) as p:
            undisturbed, _ = self.stream(p, None)
            pid = p.pid("w2")
            try:
                text, pause = self.stream(p, lambda: os.kill(pid, signal.SIGSTOP))
                print(f"w2 stopped: a pause of {pause * 1000:.0f} ms", flush=True)
                self.assertEqual(text, undisturbed)
                self.assertLess(pause, DEAD_AFTER + PAUSE_AFTER_A_KILL)
            finally:
                os.kill(pid, signal.SIGCONT)
            # What the thawed worker still had is refused, and the pool answers as before.
            self.assertEqual(self.stream(p, None)[0], undisturbed)

    def test_one_that_is_told_to_go_is_not_waited_for(self):
        with Pool(2, context=1024) as p:
            undisturbed, _ = self.stream(p, None)
            pid = p.pid("w1")
            text, pause = self.stream(p, lambda: os.kill(pid, signal.SIGTERM))
            print(f"w1 left: a pause of {pause * 1000:.0f} ms", flush=True)
            self.assertEqual(text, undisturbed)
            self.assertLess(pause, PAUSE_AFTER_A_KILL)

    def test_a_client_that_leaves_frees_its_place(self):
        with Pool(2, context=512, users=1) as p:
            for _ in range(3):
                events = p.stream("Tell me a very long story.", max_tokens=400, ignore_eos=True)
                next(events)
                next(events)
                events.close()
            end = time.monotonic() + 10
            while p.get("/admin/v1/status")["requests"]:
                self.assertLess(time.monotonic(), end, "cancelled requests are still there")
                time.sleep(0.05)
            self.assertTrue(p.chat("Hello!", max_tokens=4))


if __name__ == "__main__":
    pool.main()
