#!/usr/bin/env python3
"""A model that no worker may hold whole."""
import concurrent.futures
import unittest

import pool
from pool import Pool, Refused, high_water_bytes

MIB = 1 << 20


class Memory(unittest.TestCase):
    def test_three_workers_of_88_mib(self):
        limit = 88 * MIB
        self.assertGreater(pool.MODEL.stat().st_size, limit)
        with Pool(3, memory_per_worker="88MiB") as p:
            context = p.ready["context"]
            self.assertGreaterEqual(context, 256)
            print(f"context {context}", flush=True)
            # Fill the KV: a prompt as long as the context allows, and several users at once.
            prompt = list(range(1000, 1000 + context - 40))
            self.assertEqual(p.complete(prompt, max_tokens=32, ignore_eos=True)["usage"]["completion_tokens"], 32)
            with concurrent.futures.ThreadPoolExecutor(8) as threads:
                texts = list(threads.map(lambda _: p.chat("What is a lanyard?", max_tokens=64), range(8)))
            self.assertEqual(len(set(texts)), 1)
            for w in p.ready["workers"]:
                used = high_water_bytes(w["pid"])
                print(f"{w['name']}: {used / MIB:.1f} of 88 MiB", flush=True)
                self.assertLessEqual(used, limit, w["name"])
        with Pool(1) as p:
            self.assertEqual(p.chat("What is a lanyard?", max_tokens=64), texts[0])

    def test_no_cut_fits(self):
        with self.assertRaises(Refused) as refused:
            Pool(3, memory_per_worker="48MiB")
        self.assertEqual(refused.exception.code, 1)
        text = refused.exception.stderr
        for said in ("no cut fits", "weights", "KV", "MiB", "would fit with", "for each worker"):
            self.assertIn(said, text)


if __name__ == "__main__":
    pool.main()
