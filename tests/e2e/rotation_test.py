#!/usr/bin/env python3
"""Certificates are renewed several times a second, of the workers, the coordinator (which is HTTPS's too) and its
administrator, and live for seconds, so that every stream and connection outlives those that it was opened with. Meanwhile
clients ask all the time: no request fails, and every text is right. Long form, 10,000 rotations: ./dev soak rotation."""
import collections
import json
import os
import pathlib
import socket
import threading
import time
import unittest

import cluster
import pool
from cluster import Cluster

ROTATIONS = 10_000 if cluster.LONG else 200
GIVE_UP_SECONDS = 2400 if cluster.LONG else 120
LIFE_SECONDS, EVERY_SECONDS = 6, 0.15
DOCTOR_EVERY_SECONDS = 10 if cluster.LONG else 3
PROMPTS = ["The sea is", "One two three four", "A bridge is a structure that", "Once upon a time"]


class Looping(threading.Thread):
    """Calls turn() until stop(); what it raises is kept as a failure, and it goes on."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ending = threading.Event()
        self.failures = []
        self.turns = 0

    def run(self):
        while not self.ending.is_set():
            try:
                self.turn()
                self.turns += 1
            except Exception as e:  # whatever a client may see
                self.failures.append(f"{type(self).__name__} {self.turns}: {type(e).__name__}: {e}")
                self.ending.wait(0.1)

    def stop(self):
        self.ending.set()
        self.join(60)


class FilesOf(Looping):
    """Counts the certificates that replace each other in identity folders."""

    def __init__(self, folders):
        super().__init__()
        self.files = {name: pathlib.Path(folder) / "node.crt" for name, folder in folders.items()}
        self.seen = {}
        self.counts = collections.Counter()

    def turn(self):
        for name, file in self.files.items():
            text = file.read_bytes()
            if name in self.seen and text != self.seen[name]:
                self.counts[name] += 1
            self.seen[name] = text
        self.ending.wait(0.02)


class Https(Looping):
    """Counts the certificates that new connections to the HTTP front are shown."""

    def __init__(self, c):
        super().__init__()
        self.c, self.context = c, c.context(None)
        self.serials = set()

    def turn(self):
        with socket.create_connection(self.c.address, timeout=20) as raw:
            with self.context.wrap_socket(raw, server_hostname=self.c.address[0]) as tls:
                self.serials.add(tls.getpeercert()["serialNumber"])
        self.ending.wait(0.1)


class Asking(Looping):
    """Asks one prompt after the other and compares. `texts`: (prompt, max_tokens) -> the text that it must be."""

    def __init__(self, c, key, texts):
        super().__init__()
        self.c, self.key, self.texts = c, key, texts
        self.asked = list(texts)

    def body(self, stream):
        prompt, tokens = self.asked[self.turns % len(self.asked)]
        return {"model": pathlib.Path(self.c.model).stem, "prompt": prompt, "temperature": 0, "max_tokens": tokens,
                "ignore_eos": True, "stream": stream}

    def check(self, text):
        wanted = self.texts[self.asked[self.turns % len(self.asked)]]
        if text != wanted:
            raise ValueError(f"{text!r} instead of {wanted!r}")


class Streaming(Asking):
    """A new connection for each answer."""

    def turn(self):
        connection, response = self.c.request("POST", "/v1/completions", self.body(True), key=self.key)
        parts, done = [], False
        with connection:
            if response.status != 200:
                raise pool.HttpError(response.status, response.read())
            for line in response:
                if line.strip() == b"data: [DONE]":
                    done = True
                elif line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise ValueError(event["error"]["message"])
                    parts += [choice["text"] for choice in event["choices"]]
        if not done:
            raise EOFError(f"the stream ended after {len(parts)} parts")
        self.check("".join(parts))


class Kept(Asking):
    """One connection for all of them, older than any certificate that is still good."""

    def __init__(self, *args):
        super().__init__(*args)
        self.connection, self.connections = None, 0

    def stop(self):
        super().stop()
        if self.connection is not None:
            self.connection.close()

    def turn(self):
        body = self.body(False)
        try:
            if self.connection is None:
                self.connections += 1
                self.connection, response = self.c.request("POST", "/v1/completions", body, key=self.key)
            else:
                headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
                self.connection.request("POST", "/v1/completions", json.dumps(body).encode(), headers)
                response = self.connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise pool.HttpError(response.status, text)
        except Exception:
            self.connection = None
            raise
        self.check(json.loads(text)["choices"][0]["text"])


class Doctor(Looping):
    """Workers make new connections to each other for it, and the administrator shows the newest certificate."""

    def turn(self):
        status, text = self.c.call("GET", "/admin/v1/doctor", identity=self.c.admin)
        if status != 200:
            raise pool.HttpError(status, text)
        answer = json.loads(text)
        errors = [x["error"] for x in answer["nodes"] + answer["links"] if x.get("error")]
        if errors or not answer["links"]:
            raise ValueError(f"{errors}: {text}")
        self.ending.wait(DOCTOR_EVERY_SECONDS)

    def __init__(self, c):
        super().__init__()
        self.c = c


class Rotation(unittest.TestCase):
    def test_no_request_fails_while_certificates_are_renewed(self):
        every = ["--renew-every", EVERY_SECONDS]
        with Cluster(workers=2, worker_flags=every, certificate_life=LIFE_SECONDS, renew_every=EVERY_SECONDS) as c:
            c.wait_ready(2)
            key = c.cli("key", "create", "anna").strip()
            asked = [(p, 24) for p in PROMPTS] + [(PROMPTS[0], 300)]  # the last one for seconds
            texts = {(p, n): c.complete(p, key, max_tokens=n, ignore_eos=True) for p, n in asked}
            self.assertEqual(len(set(texts.values())), len(asked))
            epoch = c.status()["epoch"]
            files = FilesOf({name: c.folder / name / "identity" for name in c.workers} | {"administrator": c.admin})
            https = Https(c)
            clients = [Streaming(c, key, texts), Streaming(c, key, texts), Kept(c, key, texts)]
            doctor = Doctor(c)
            everybody = [files, https, doctor, *clients]
            start = time.monotonic()
            for thread in everybody:
                thread.start()
            counts = self.wait(files, https, everybody, start)
            for thread in everybody:
                thread.stop()
            seconds = time.monotonic() - start
            failures = [f for thread in everybody for f in thread.failures]
            print(f"rotations: {sum(counts.values())} in {seconds:.0f} s ({', '.join(f'{n} {k}' for k, n in counts.items())}); "
                  f"requests: {sum(t.turns for t in clients)}, failed: {len(failures)}; doctor: {doctor.turns} times; "
                  f"certificates live {LIFE_SECONDS} s; {cluster.load()}", flush=True)
            self.assertEqual(failures[:5], [])
            self.assertGreaterEqual(sum(counts.values()), ROTATIONS)
            self.assertGreater(seconds, LIFE_SECONDS, "no certificate ran out meanwhile")
            for name, count in counts.items():
                self.assertGreater(count, ROTATIONS / 20, name)
            for thread in [*clients, doctor]:
                self.assertGreater(thread.turns, 0)
            self.assertEqual(clients[2].connections, 1)
            # A stream of control, frames or results that had ended would have cost an epoch.
            self.assertEqual(c.status()["epoch"], epoch)
            for name, process in c.workers.items():
                self.assertIsNone(process.process.poll())
                self.assertNotIn("could not be renewed", process.text())

    def wait(self, files, https, everybody, start):
        """Until there were enough rotations, or something failed."""
        said = start
        while True:
            counts = dict(files.counts) | {"coordinator": max(0, len(https.serials) - 1)}
            total, now = sum(counts.values()), time.monotonic()
            if total >= ROTATIONS and now - start > 2 * LIFE_SECONDS:
                return counts
            if now - start > GIVE_UP_SECONDS or any(t.failures for t in everybody):
                return counts
            if now - said > 60:
                said = now
                print(f"{total} rotations after {now - start:.0f} s; load {os.getloadavg()[0]:.1f}", flush=True)
            time.sleep(0.2)


if __name__ == "__main__":
    pool.main()
