#!/usr/bin/env python3
"""The answer does not depend on how many workers computed it, nor on who else asked at the same time."""
import concurrent.futures
import os
import shutil
import tempfile
import unittest

import pool
from pool import Pool

PROMPTS = [
    "What is a lanyard?",
    "Count from one to ten in words.",
    "Write a short poem about the sea.",
    "Explain in two sentences what a bridge is. " * 12,
    "Hello!",
    "List three fruits.",
    "Name the planets of the solar system.",
    "Why is the sky blue? Be brief.",
]


def settings(i):
    """Half greedy, half drawn: a draw is a function of (seed, position)."""
    return {"temperature": 0} if i % 2 == 0 else {"temperature": 0.8, "top_p": 0.95, "seed": 1000 + i}


class Answers(unittest.TestCase):
    def test_same_text_with_1_2_and_3_workers_alone_and_together(self):
        reference = None
        for workers in (1, 2, 3):
            with Pool(workers, context=1024, users=8) as p, self.subTest(workers=workers):
                self.assertEqual(len(p.ready["workers"]), workers)
                self.check_cut(p.ready["workers"])
                alone = [p.chat(q, **settings(i)) for i, q in enumerate(PROMPTS)]
                self.assertTrue(all(alone))
                if reference is None:
                    reference = alone
                self.assertEqual(alone, reference)
                with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as threads:
                    together = list(threads.map(lambda iq: p.chat(iq[1], **settings(iq[0])), enumerate(PROMPTS)))
                self.assertEqual(together, reference)
                streamed = "".join(e["choices"][0]["delta"].get("content") or "" for e in p.stream(PROMPTS[2])
                                   if isinstance(e, dict) and e["choices"])
                self.assertEqual(streamed, reference[2])

    def check_cut(self, workers):
        """Every layer on exactly one worker; the first embeds, the last samples."""
        layers = [w["layers"] for w in workers]
        self.assertEqual(layers[0][0], 0)
        for before, after in zip(layers, layers[1:]):
            if after is not None:
                self.assertEqual(after[0], before[1] + 1)
        self.assertEqual([w["embeds"] for w in workers], [i == 0 for i in range(len(workers))])
        self.assertEqual([w["samples"] for w in workers], [i == len(workers) - 1 for i in range(len(workers))])
        for w in workers:
            os.kill(w["pid"], 0)  # it is there

    def test_a_second_start_fetches_nothing(self):
        state = tempfile.mkdtemp(prefix="lanyard-e2e-")
        self.addCleanup(shutil.rmtree, state, ignore_errors=True)
        fetched = []
        for _ in range(2):
            with Pool(2, state=state, context=512) as p:
                fetched.append(sum(n["fetched_bytes"] for n in p.get("/admin/v1/status")["nodes"]))
                self.assertTrue(p.chat("Hello!", max_tokens=4))
        self.assertGreater(fetched[0], 90_000_000)
        self.assertEqual(fetched[1], 0)

    def test_everything_stops_with_it(self):
        with Pool(2, context=512) as p:
            pids = [w["pid"] for w in p.ready["workers"]] + [p.ready["pids"]["coordinator"]]
        for pid in pids:
            with self.assertRaises(ProcessLookupError):
                os.kill(pid, 0)
        self.assertEqual(p.process.returncode, 0)


if __name__ == "__main__":
    pool.main()
