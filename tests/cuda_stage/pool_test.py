#!/usr/bin/env python3
"""The unmodified worker on interpreted cards (tests/fake_cuda): a mixed pool gives the processor's text, and a worker whose card
is lost goes on without it."""
import os
import pathlib
import shutil
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import pool  # noqa: E402
from pool import Pool  # noqa: E402

QUESTION = "Hi"  # every token costs an interpreted card about a second
TOKENS = 4


class CardPools(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="lanyard-cards-")
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        os.environ["LANYARD_CUDA_LIBRARY"] = str(pool.BIN / "libfakecuda.so")

    def patient_chat(self, p):
        """A worker that is lost ends its requests with 503; they are asked again."""
        end = time.monotonic() + 60
        while True:
            try:
                return p.chat(QUESTION, temperature=0, max_tokens=TOKENS)
            except pool.HttpError as error:
                if error.status != 503 or time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def ask(self, cards, workers, **flags):
        """The answer, and what the workers logged of their cards."""
        report = pathlib.Path(self.dir) / "report"
        report.unlink(missing_ok=True)
        os.environ["LANYARD_FAKE_CUDA"] = cards
        os.environ["LANYARD_FAKE_CUDA_REPORT"] = str(report)
        with Pool(workers, context=256, users=1, **flags) as p:
            pids = {n["name"]: n["pid"] for n in p.get("/admin/v1/status")["nodes"]}
            text = self.patient_chat(p)
            self.assertEqual(pids, {n["name"]: n["pid"] for n in p.get("/admin/v1/status")["nodes"]}, "none crashed")
            logs = "".join(path.read_text() for path in sorted(pathlib.Path(p.state).glob("logs/w*.log")))
        self.assertEqual(report.read_text() if report.exists() else "", "")
        return text, [line for line in logs.splitlines() if "cuda:" in line]

    def test_text_is_the_processors(self):
        expected, lines = self.ask("devices=1", 1, devices="cpu")
        self.assertTrue(expected)
        self.assertEqual(lines, [])
        for name, cards, workers, flags in [
                ("one worker without and one with a card", "devices=1,memory=512MiB,cc=8.6", 2,
                 {"devices": ["cpu", "cuda:0"]}),
                ("two cards and RAM in one worker", "devices=2,memory=512MiB,cc=7.5/6.1", 1,
                 {"devices": "cuda:0,cuda:1", "vram": "60MiB"})]:
            with self.subTest(name):
                text, lines = self.ask(cards, workers, **flags)
                self.assertTrue(any(": layers [" in line for line in lines), lines)
                self.assertEqual(text, expected)

    def test_fast_attention_is_for_cards_that_have_it(self):
        card = "devices=1,memory=512MiB,cc=8.6"
        whole, lines = self.ask(card, 2, devices=["cpu", "cuda:0"], attention="fast")
        self.assertTrue(whole)
        self.assertTrue(any("cuda:0: layers [0, 30) and the head" in line for line in lines), lines)
        # Over the cards of two workers: the same bits.
        cut, lines = self.ask("devices=2,memory=512MiB,cc=8.6", 2, devices=["cuda:0", "cuda:1"], attention="fast")
        self.assertEqual(sum(": layers [" in line for line in lines), 2, lines)
        self.assertEqual(cut, whole)
        for devices, cards, words in [("cpu", card, "none of the 0 cards of 1 machine is one"),
                                      ("cuda:0", "devices=1,memory=512MiB,cc=7.5", "none of the 1 card of 1 machine is one"),
                                      ("cuda:0", "devices=1,memory=512MiB,cc=8.6", "w1's processor has no fast attention")]:
            with self.subTest(cards), self.assertRaises(pool.Refused) as refused:
                small = {"vram": "60MiB"} if "processor" in words else {}
                self.ask(cards, 1, devices=devices, attention="fast", **small)
            self.assertEqual(refused.exception.code, 1)
            self.assertIn(words, refused.exception.stderr)
            self.assertIn("--attention exact", refused.exception.stderr)

    def test_a_worker_that_lost_its_card_goes_on_without(self):
        expected, _ = self.ask("devices=1", 1, devices="cpu")
        # Each process loses it in the middle of its work; the worker joins again without it.
        text, lines = self.ask("devices=1,memory=512MiB,lose_at_work=900,checks=0", 1, devices="cuda:0")
        self.assertTrue(any("lost" in line or "CUDA_ERROR" in line for line in lines), lines)
        self.assertEqual(text, expected)


if __name__ == "__main__":
    pool.main()
