#!/usr/bin/env python3
"""The front door under load from one key: long prompts, all the connections it can get, and many at once. Health and
administrators are answered meanwhile."""
import asyncio
import json
import pathlib
import random
import resource
import ssl
import string
import threading
import time
import unittest

import pool
from cluster import Cluster, load

MIB = 1 << 20
PROMPTS = 4
STREAMS = 1050
WAVE = 150  # that come together
AT_ONCE = 400


def rss_bytes(pid, field="VmRSS"):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def words(count, seed):
    """Random letters with spaces, about the worst for a tokenizer."""
    block = "".join(random.Random(seed).choices(string.ascii_letters + " ", k=1 << 16))
    return block * (count >> 16)


def request(method, path, key=None, body=None, extra=""):
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    return (head + extra + "\r\n").encode() + data


class Watch(threading.Thread):
    """Asks a route over and over, a new connection each time; `seconds` each answer took."""

    def __init__(self, cluster, path, identity=None):
        super().__init__(daemon=True)
        self.cluster, self.path, self.identity = cluster, path, identity
        self.seconds, self.errors, self.stop = [], [], threading.Event()
        self.start()

    def run(self):
        while not self.stop.is_set():
            start = time.monotonic()
            try:
                status, text = self.cluster.call("GET", self.path, identity=self.identity)
                if status != 200:
                    self.errors.append(text)
            except OSError as e:
                self.errors.append(repr(e))
            self.seconds.append(time.monotonic() - start)
            self.stop.wait(0.02)

    def end(self):
        self.stop.set()
        self.join(30)
        ordered = sorted(self.seconds)
        return f"{self.path} {len(ordered)} times, median {ordered[len(ordered) // 2] * 1000:.0f} ms, most {ordered[-1] * 1000:.0f} ms"


class Connections:
    """Many connections of one client, in one event loop of their own."""

    def __init__(self, cluster):
        self.cluster, self.context = cluster, cluster.context()
        self.writers = []

    async def open(self, data):
        """The head of the answer, or the error."""
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(*self.cluster.address, ssl=self.context, server_hostname=self.cluster.address[0],
                                        ssl_handshake_timeout=60), 60)
            self.writers.append(writer)
            writer.write(data)
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode()
            return int(head.split()[1])
        except (OSError, EOFError, asyncio.TimeoutError, ssl.SSLError) as e:
            return type(e).__name__

    async def many(self, count, data, wave):
        """How often each answer came, of `count` connections, WAVE at a time or all at once."""
        answers = []
        while len(answers) < count:
            answers += await asyncio.gather(*[self.open(data) for _ in range(min(wave, count - len(answers)))])
        return {a: answers.count(a) for a in set(answers)}

    async def close(self):
        for writer in self.writers:
            writer.transport.abort()
        self.writers = []
        await asyncio.sleep(0)


class Load(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
        cls.cluster = Cluster(workers=1, context=4096)
        cls.cluster.wait_ready(1)

    @classmethod
    def tearDownClass(cls):
        cls.cluster.close()

    def key(self, name):
        return self.cluster.cli("key", "create", name).strip()

    def long_prompts(self, keys, more_mib, chat=False):
        """PROMPTS prompts of nearly 16 MiB at once; returns their answers, and says what it was like meanwhile."""
        c = self.cluster
        before = rss_bytes(c.coordinator.pid)
        bodies = [{"prompt": words(15 * MIB, i), "max_tokens": 1} for i in range(PROMPTS)]
        if chat:  # which the template writes out before its bytes can be counted
            bodies = [{"messages": [{"role": "user", "content": b["prompt"]}]} for b in bodies]
        health, status = Watch(c, "/health"), Watch(c, "/admin/v1/status", c.admin)
        answers = [None] * PROMPTS
        start = time.monotonic()

        def ask(i):
            path = "/v1/completions" if "prompt" in bodies[i] else "/v1/chat/completions"
            answers[i] = c.call("POST", path, bodies[i], key=keys[i % len(keys)])

        askers = [threading.Thread(target=ask, args=(i,)) for i in range(PROMPTS)]
        for asker in askers:
            asker.start()
        peak = 0
        while any(asker.is_alive() for asker in askers):
            peak = max(peak, rss_bytes(c.coordinator.pid))
            time.sleep(0.002)
        took = time.monotonic() - start
        print(f"{PROMPTS} x 15 MiB ({len(keys)} keys{', chats' if chat else ''}): {took:.1f} s, {health.end()}; {status.end()}; memory "
              f"{before / MIB:.0f} MiB and {(peak - before) / MIB:.0f} more; {load()}", flush=True)
        self.assertEqual(health.errors + status.errors, [])
        self.assertLess(max(health.seconds), 5)
        self.assertLess(peak - before, more_mib * MIB)
        for code, text in answers:
            error = json.loads(text)["error"]
            self.assertEqual((code, error["code"]), (400, "context_length_exceeded"), text[:300])
            self.assertRegex(error["message"], r"your prompt has at least \d+ tokens")

    def test_long_prompts(self):
        self.long_prompts([self.key("long")], 96)

    def test_long_prompts_of_two(self):
        self.long_prompts([self.key("long-a"), self.key("long-b")], 160)

    def test_long_chats(self):
        self.long_prompts([self.key("chat")], 200, chat=True)

    def test_one_key_takes_what_it_can(self):
        asyncio.run(self.takes_what_it_can())

    async def takes_what_it_can(self):
        c, key = self.cluster, self.key("anna")
        others = self.key("bob")
        crowd = Connections(c)
        body = {"prompt": "Once upon a time", "max_tokens": 3000, "stream": True, "ignore_eos": True}
        start = time.monotonic()
        answers = await crowd.many(STREAMS, request("POST", "/v1/completions", key, body), WAVE)
        opened = time.monotonic() - start
        health, status = Watch(c, "/health"), Watch(c, "/admin/v1/status", c.admin)
        bob = Connections(c)
        bobs = await bob.open(request("POST", "/v1/completions", others, body))
        await asyncio.sleep(1)
        start = time.monotonic()
        revoked = await asyncio.to_thread(pool.lanyard, "key", "revoke", "anna", "--admin", c.admin)
        took = time.monotonic() - start
        await asyncio.to_thread(time.sleep, 1)
        print(f"{STREAMS} streams of one key in {opened:.1f} s: {answers}; revoked in {took:.2f} s; {health.end()}; {status.end()}; "
              f"{load()}", flush=True)
        await crowd.close()
        await bob.close()
        self.assertEqual(revoked.returncode, 0, revoked.stderr.decode())
        self.assertEqual(bobs, 200)
        self.assertEqual(health.errors + status.errors, [])
        self.assertEqual(set(answers), {200, 429})
        self.assertLessEqual(answers[200], 512)
        self.assertGreaterEqual(answers[200], 400)

    def test_many_at_once(self):
        asyncio.run(self.many_at_once())

    async def many_at_once(self):
        crowd = Connections(self.cluster)
        key = self.key("proxy")
        body = {"prompt": "Hello", "max_tokens": 1}
        start = time.monotonic()
        answers = await crowd.many(AT_ONCE, request("POST", "/v1/completions", key, body), AT_ONCE)
        print(f"{AT_ONCE} connections at once: {answers} in {time.monotonic() - start:.1f} s; {load()}", flush=True)
        await crowd.close()
        self.assertEqual(answers, {200: AT_ONCE})


if __name__ == "__main__":
    pool.main()
