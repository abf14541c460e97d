#!/usr/bin/env python3
"""Workers are killed, stopped and told to go under eight users who never stop asking: no answer is lost, every text is that of
an undisturbed run. Long form, 500 faults: ./dev soak kills."""
import collections
import contextlib
import http.client
import json
import os
import random
import signal
import threading
import time
import unittest

import pool
from cluster import LONG
from pool import Pool

FAULTS = int(os.environ.get("LANYARD_KILLS", "500" if LONG else "8"))
USERS = 8
SEED = int(os.environ.get("LANYARD_KILLS_SEED", "1"))
# An answer that takes longer than this was lost, however it looks.
ANSWER_S = 120


def questions():
    """Requests of every kind: greedy and sampled, with stop strings, short and long, with beginnings in common."""
    story = "The keeper wrote down the weather, the ships and the visitors of every day. " * 12
    sampled = {"temperature": 0.9, "top_p": 0.95}
    return [
        {"prompt": "Once upon a time", "max_tokens": 60, "temperature": 0},
        {"prompt": "The sea is", "max_tokens": 120, "seed": 3, "ignore_eos": True} | sampled,
        {"prompt": story + "The keeper", "max_tokens": 40, "temperature": 0, "ignore_eos": True},
        {"prompt": story + "On Monday", "max_tokens": 80, "seed": 5, "ignore_eos": True} | sampled,
        {"prompt": story + "On Monday", "max_tokens": 80, "seed": 6, "stop": ["the", "\n"]} | sampled,
        {"prompt": story * 2 + "So", "max_tokens": 30, "seed": 7, "logprobs": 2} | sampled,
        {"prompt": "A list: 1, 2, 3,", "max_tokens": 90, "temperature": 0, "stop": ["9", "zz"]},
        {"prompt": "Hi", "max_tokens": 1, "temperature": 0},
    ]


class Kills(unittest.TestCase):
    def ask(self, p, question):
        """The text of a streamed answer and its longest pause; raises if it ends otherwise than well."""
        body = {"model": p.ready["model"], "stream": True} | question
        start = last = time.monotonic()
        text, pause, reason = [], 0.0, None
        connection, response = p.request("POST", "/v1/completions", body, timeout=ANSWER_S)
        with connection:
            if response.status != 200:
                raise AssertionError(f"{response.status}: {response.read().decode()}")
            for line in response:
                if line == b"data: [DONE]\n":
                    return "".join(text) + f" [{reason}]", pause
                if not line.startswith(b"data: "):
                    continue
                now, event = time.monotonic(), json.loads(line[6:])
                if "error" in event:
                    raise AssertionError(f"after {now - start:.1f} s: {event}")
                pause, last = max(pause, now - last), now
                for choice in event["choices"]:
                    text.append(choice["text"])
                    reason = choice["finish_reason"] or reason
        raise AssertionError(f"the stream ended bare after {time.monotonic() - start:.1f} s")

    def user(self, p, index, expected, stop, results):
        rng = random.Random(SEED * 1000 + index)
        while not stop.is_set():
            i = rng.randrange(len(expected))
            try:
                text, pause = self.ask(p, questions()[i])
                results.append((i, text == expected[i], pause, text))
            except (AssertionError, OSError, ValueError, http.client.HTTPException) as error:
                results.append((i, None, 0.0, repr(error)))
                if sum(1 for r in list(results) if r[1] is None) > 20:
                    return  # enough to see

    def fault(self, p, rng):
        """One fault; returns its name."""
        nodes = []
        while not nodes:  # all of them may be gone, just when the pool still counted as ready
            nodes = [n for n in p.get("/admin/v1/status")["nodes"] if n["state"] != "lost"]
        node = rng.choice(nodes)
        kind = rng.choice(["kill", "kill", "kill", "stall", "stall", "hang", "leave"])
        with contextlib.suppress(ProcessLookupError):
            if kind == "kill":
                os.kill(node["pid"], signal.SIGKILL)
            elif kind == "leave":
                os.kill(node["pid"], signal.SIGTERM)
            else:  # hang: longer than the pool waits
                os.kill(node["pid"], signal.SIGSTOP)
                time.sleep(rng.uniform(5.5, 7) if kind == "hang" else rng.uniform(0.2, 3))
                os.kill(node["pid"], signal.SIGCONT)
        return kind

    def test_no_answer_is_lost(self):
        rng = random.Random(SEED)
        with Pool(3, context=1024, users=4) as p:
            expected = [self.ask(p, question)[0] for question in questions()]
            stop, results, kinds = threading.Event(), [], collections.Counter()
            users = [threading.Thread(target=self.user, args=(p, i, expected, stop, results)) for i in range(USERS)]
            for user in users:
                user.start()
            start = time.monotonic()
            try:
                for _ in range(FAULTS):
                    p.wait_ready(60)
                    # It may come in the middle of everything, also while the last one's worker comes back.
                    time.sleep(rng.choice([0.3, 1, 3]) * rng.random() + 0.5)
                    kinds[self.fault(p, rng)] += 1
                p.wait_ready(60)
                time.sleep(2)
            finally:
                stop.set()
                for user in users:
                    user.join(ANSWER_S + 10)
            wrong = [r for r in results if r[1] is False]
            lost = [r for r in results if r[1] is None]
            pauses = sorted(r[2] for r in results if r[1])
            print(f"{FAULTS} faults ({dict(kinds)}) in {time.monotonic() - start:.0f} s: {len(results)} answers, "
                  f"{len(wrong)} wrong, {len(lost)} lost; longest pause of an answer p50 {pauses[len(pauses) // 2]:.2f} s, "
                  f"p99 {pauses[len(pauses) * 99 // 100]:.2f} s, max {pauses[-1]:.2f} s", flush=True)
            self.assertEqual([], [(i, text, expected[i]) for i, _, _, text in wrong][:3])
            self.assertEqual([], lost[:5])
            self.assertFalse(any(user.is_alive() for user in users), "an answer never came")
            self.assertGreater(len(results), FAULTS)
            self.assertEqual([], p.get("/admin/v1/status")["requests"])


if __name__ == "__main__":
    pool.main()
