#!/usr/bin/env python3
"""A worker is killed or hangs in the middle of an answer: a typed error names it, and the pool serves again."""
import os
import signal
import time
import unittest

import pool
from pool import Pool

NOTICED_WITHIN = 2.0


class LostWorker(unittest.TestCase):
    def lose(self, p, worker, sig):
        """Starts a long answer, sends `sig` to the worker after some tokens; returns the error and how long it took."""
        pid = p.pid(worker)
        tokens, hit = 0, None
        for event in p.stream("Tell me a very long story.", max_tokens=900, ignore_eos=True):
            if isinstance(event, dict) and "error" in event:
                return event["error"], time.monotonic() - hit
            self.assertNotEqual(event, "[DONE]", "the answer ended as if nothing had happened")
            tokens += 1
            if tokens == 10:
                hit = time.monotonic()
                os.kill(pid, sig)
        self.fail(f"the stream ended without an error after {tokens} events")

    def test_each_worker_killed_once(self):
        with Pool(3, context=1024) as p:
            before = p.chat("What is a lanyard?")
            for worker in ("w1", "w2", "w3"):
                with self.subTest(worker=worker):
                    error, seconds = self.lose(p, worker, signal.SIGKILL)
                    print(f"{worker}: {seconds * 1000:.0f} ms: {error['message']}", flush=True)
                    self.assertLess(seconds, NOTICED_WITHIN)
                    self.assertIn(worker, error["message"])
                    self.assertTrue(error["type"])
                    p.wait_ready()
                    self.assertEqual(p.chat("What is a lanyard?"), before)

    def test_a_hung_worker_is_noticed(self):
        with Pool(2, context=1024) as p:
            before = p.chat("What is a lanyard?")
            pid = p.pid("w2")
            error, seconds = self.lose(p, "w2", signal.SIGSTOP)
            print(f"w2 stopped: {seconds * 1000:.0f} ms: {error['message']}", flush=True)
            os.kill(pid, signal.SIGCONT)
            self.assertLess(seconds, NOTICED_WITHIN)
            self.assertIn("w2", error["message"])
            p.wait_ready()
            self.assertEqual(p.chat("What is a lanyard?"), before)

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
