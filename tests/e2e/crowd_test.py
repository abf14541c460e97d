#!/usr/bin/env python3
"""Many users with five keys, one of which takes what it can, while one of three workers is killed, one stopped and one slowed:
no wrong text, no lost answer, and the greedy key waits for itself. Long form, 200 users: ./dev soak crowd."""
import collections
import contextlib
import http.client
import json
import os
import random
import signal
import ssl
import threading
import time
import unittest

import pool
from cluster import LONG
from pool import Pool

KEYS = ("anna", "bert", "cleo", "dora")
USERS = 40 if LONG else 6  # of each key
TURNS = 4 if LONG else 2   # of each user
GREEDY = 40 if LONG else 12
ANSWER_S = 900 if LONG else 240
STORY = "The keeper wrote down the weather, the ships and the visitors of every day. " * 10


def prompt_of(key, user, turn):
    kind = (user + turn) % 4
    return [f"{key} {user} says", STORY + f"{key} {user}, turn {turn}:", "1, 2, 3,", f"{user} " + STORY * 2][kind]


class Crowd(unittest.TestCase):
    def setUp(self):
        self.pool = Pool(3, context=1024, users=16, http_open=False)
        self.addCleanup(self.pool.close)
        self.tls = ssl.create_default_context(cafile=self.pool.ready["ca"])
        self.keys = {}
        for name in (*KEYS, "greedy"):
            done = pool.lanyard("key", "create", name, "--admin", self.pool.ready["admin"])
            self.assertEqual(done.returncode, 0, done.stderr)
            self.keys[name] = done.stdout.decode().strip()

    def stream(self, key, prompt, max_tokens=24, until=None, **fields):
        """Text and seconds to the first token. Raises AssertionError with the status if the answer is refused."""
        body = {"model": self.pool.ready["model"], "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.8, "seed": 11,
                "ignore_eos": True, "stream": True} | fields
        connection = http.client.HTTPSConnection(*self.pool.address, timeout=ANSWER_S, context=self.tls)
        start, first, text, done = time.monotonic(), None, [], False
        with contextlib.closing(connection):
            connection.request("POST", "/v1/completions", json.dumps(body),
                               {"Authorization": "Bearer " + self.keys[key], "Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise AssertionError(f"{response.status} {response.headers.get('Retry-After')}: {response.read().decode()[:200]}")
            for line in response:
                if line == b"data: [DONE]\n":
                    done = True
                    break
                if not line.startswith(b"data: "):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise AssertionError(str(event))
                first = first or time.monotonic() - start
                text += [choice["text"] for choice in event["choices"]]
                if until and len(text) >= until:
                    return None, first
        if not done:
            raise AssertionError("the stream ended bare")
        return "".join(text), first

    def user(self, key, index, results):
        for turn in range(TURNS):
            prompt = prompt_of(key, index, turn)
            try:
                results[key].append((prompt, *self.stream(key, prompt), time.monotonic()))
            except (AssertionError, OSError, ValueError, http.client.HTTPException) as error:
                results[key].append((prompt, None, repr(error), time.monotonic()))

    def greedy(self, index, stop, counts):
        rng = random.Random(index)
        while not stop.is_set():
            try:
                long = f"{rng.random()} " + STORY * 4
                self.stream("greedy", long, max_tokens=200, until=rng.choice([None, 3, 30]), n=1)
                counts["answers"] += 1
            except AssertionError as error:
                counts[str(error)[:3]] += 1
                time.sleep(0.2)
            except (OSError, ValueError, http.client.HTTPException) as error:
                counts[type(error).__name__] += 1

    def faults(self, stop):
        """One worker is killed, one stopped for 2 s, one slowed to half for 5 s."""
        killed, stopped, slowed = (w["pid"] for w in self.pool.ready["workers"])
        for wait, what in ((4, "kill"), (8, "stop"), (8, "slow")):
            if stop.wait(wait):
                return
            if what == "kill":
                os.kill(killed, signal.SIGKILL)
            elif what == "stop":
                os.kill(stopped, signal.SIGSTOP)
                time.sleep(2)
                os.kill(stopped, signal.SIGCONT)
            else:
                for _ in range(250):
                    os.kill(slowed, signal.SIGSTOP)
                    time.sleep(0.01)
                    os.kill(slowed, signal.SIGCONT)
                    time.sleep(0.01)

    def test_everyone_is_served(self):
        results, counts, stop = collections.defaultdict(list), collections.Counter(), threading.Event()
        users = [threading.Thread(target=self.user, args=(key, i, results)) for i in range(USERS) for key in KEYS]
        takers = [threading.Thread(target=self.greedy, args=(i, stop, counts)) for i in range(GREEDY)]
        faults = threading.Thread(target=self.faults, args=(stop,))
        for taker in takers:
            taker.start()
        time.sleep(1)
        start = time.monotonic()
        for thread in (faults, *users):
            thread.start()
        for user in users:
            user.join(ANSWER_S)
        took = time.monotonic() - start
        stop.set()
        for thread in (faults, *takers):
            thread.join(ANSWER_S)
        lost = [r for rs in results.values() for r in rs if r[1] is None]
        waits = {key: sorted(r[2] for r in rs if r[1] is not None) for key, rs in results.items()}
        for key, first in waits.items():
            print(f"{key}: {len(first)} answers, first token p50 {first[len(first) // 2]:.1f} s, max {first[-1]:.1f} s", flush=True)
        print(f"{len(users)} users and {GREEDY} greedy ones, {took:.0f} s; greedy: {dict(counts)}; {len(lost)} lost", flush=True)
        self.assertEqual([], lost[:5])
        self.assertEqual({key: len(rs) for key, rs in results.items()}, {key: USERS * TURNS for key in KEYS})
        # Now that it is quiet: every text is that of a pool without faults and crowds.
        sample = random.Random(1).sample([r for rs in results.values() for r in rs], 60 if LONG else 16)
        for prompt, text, _, _ in sample:
            self.assertEqual(self.stream("anna", prompt)[0], text, prompt[:40])
        middle = [first[len(first) // 2] for first in waits.values()]
        self.assertLess(max(middle), 3 * min(middle) + 2, f"the keys' shares are unlike: {waits}")


if __name__ == "__main__":
    pool.main()
