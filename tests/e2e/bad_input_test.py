#!/usr/bin/env python3
"""Bad input of every kind: a clear error, and the pool goes on."""
import json
import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import tempfile
import unittest

import pool
from pool import HttpError, Pool, Refused, lanyard


class BadRequests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.pool = Pool(2, context=512)
        cls.answer = cls.pool.chat("Hello!", max_tokens=8)

    @classmethod
    def tearDownClass(cls):
        cls.pool.close()

    def tearDown(self):
        # Whatever was thrown at it, the pool goes on.
        self.assertEqual(self.pool.chat("Hello!", max_tokens=8), self.answer)

    def refused(self, body, status=400, path="/v1/chat/completions"):
        with self.assertRaises(HttpError) as caught:
            self.pool.call("POST", path, body)
        self.assertEqual(caught.exception.status, status, caught.exception)
        error = caught.exception.body["error"]
        self.assertTrue(error["message"])
        self.assertIn("type", error)
        self.assertIn("code", error)
        self.assertIn("param", error)
        return error

    def ask(self, **fields):
        return {"model": self.pool.ready["model"], "messages": [{"role": "user", "content": "Hello!"}]} | fields

    def test_prompt_over_the_context(self):
        error = self.refused(self.ask(messages=[{"role": "user", "content": "word " * 2000}]))
        self.assertEqual(error["code"], "context_length_exceeded")
        self.assertIn("512", error["message"])

    def test_malformed_json(self):
        for body in (b"", b"{", b"[]", b"null", b'{"messages": "x"', b"\xff\xfe{}", b"[" * 100_000, b'"' * 7):
            with self.subTest(body=body[:20]):
                self.refused(body)

    def test_ten_thousand_messages(self):
        messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": "hi"} for i in range(10_000)]
        self.refused(self.ask(messages=messages))

    def test_a_deadline_that_the_request_names(self):
        long = {"max_tokens": 450, "ignore_eos": True, "timeout": 0.3}
        error = self.refused(self.ask(**long), status=504)
        self.assertEqual((error["type"], error["code"]), ("timeout_error", "deadline_exceeded"))
        self.assertIn("'timeout'", error["message"])
        events = list(self.pool.stream("Hello!", **long))
        self.assertEqual(events[-1]["error"]["code"], "deadline_exceeded")
        self.assertTrue(any(choice["delta"].get("content") for event in events[:-1] for choice in event["choices"]), "the text until then")
        self.assertEqual(self.pool.chat("Hello!", max_tokens=8, timeout=60), self.answer)

    def test_values_out_of_range(self):
        for field, value in (("temperature", "NaN"), ("temperature", -1), ("temperature", 1e9), ("temperature", "warm"),
                             ("max_tokens", -2), ("max_tokens", 1.5), ("max_tokens", "many"), ("top_p", -0.1),
                             ("top_p", 2), ("seed", "x"), ("stop", [1]), ("stop", ["a"] * 1000), ("n", 0)):
            with self.subTest(field=field, value=value):
                self.refused(self.ask(**{field: value}))
        # NaN as no JSON has it, but Python's writer sends it.
        self.refused(json.dumps(self.ask(temperature=float("nan"))).encode())

    def test_messages_that_are_none(self):
        for messages in ([], [{}], [{"role": "user"}], [{"role": "alien", "content": "x"}], [7], "hello"):
            with self.subTest(messages=messages):
                self.refused(self.ask(messages=messages))
                if not isinstance(messages, list):
                    continue
                # `lanyard template` shows no prompt of what the API refuses, and says the same.
                with self.assertRaises(HttpError) as caught:
                    self.pool.call("POST", "/v1/chat/completions", self.ask(messages=messages))
                done = pool.lanyard("template", "--model", pool.MODEL, stdin=json.dumps(messages).encode())
                self.assertEqual((done.returncode, done.stdout), (1, b""), done.stderr)
                self.assertEqual(done.stderr.decode(), "error: " + caught.exception.body["error"]["message"] + "\n")

    def test_unknown_model_and_paths(self):
        self.refused(self.ask(model="gpt-9"), status=404)
        self.refused({}, status=404, path="/v1/nothing")
        with self.assertRaises(HttpError) as caught:
            self.pool.call("GET", "/v1/chat/completions")
        self.assertEqual(caught.exception.status, 405)

    def test_bytes_that_are_no_http(self):
        for data in (b"\0" * 2000, b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                     b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000):
            with socket.create_connection(self.pool.address, timeout=10) as s:
                try:
                    s.sendall(data)
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(4096):
                        pass
                except OSError:
                    pass  # it may close on us


class BadStarts(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lanyard-e2e-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def refused(self, model, *said, **flags):
        with self.assertRaises(Refused) as caught:
            Pool(1, model=model, state=str(self.folder / "state"), **flags)
        self.assertGreater(caught.exception.code, 0, "killed by a signal")
        for text in said:
            self.assertIn(text, caught.exception.stderr)

    def test_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.refused(pool.MODEL, str(port), port=port)

    def test_paths_that_no_json_can_hold(self):
        """Nothing aborts: each program says so, before it reads the model."""
        state = os.fsencode(self.folder) + b"/\xff"
        coordinator, worker = (pool.BIN / ("lanyard-" + name) for name in ("coordinator", "worker"))
        for command in ([pool.LANYARD, "up", "--model", pool.MODEL, "--port", "0", "--state", state],
                        [coordinator, "--model", pool.MODEL, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--state", state],
                        [worker, "--join", "127.0.0.1:1", "--plaintext", "--state", state]):
            done = subprocess.run(command, capture_output=True, timeout=20, check=False)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertRegex(done.stderr, rb"^error: --state: byte \d+ of it \(0xff\) is no UTF-8")
        # A home is no option.
        done = subprocess.run([coordinator, "--model", pool.MODEL, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"], check=False,
                              capture_output=True, timeout=20, env=os.environ | {"XDG_STATE_HOME": os.fsdecode(state)})
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(b"no UTF-8", done.stderr)
        self.assertFalse(os.path.exists(state))

    def test_no_such_model(self):
        self.refused(self.folder / "nothing.gguf", "nothing.gguf")

    def test_truncated_model(self):
        data = pool.MODEL.read_bytes()
        cut = self.folder / "cut.gguf"
        for size in (0, 3, 24, 1000, 500_000, len(data) // 2, len(data) - 1):
            with self.subTest(size=size):
                cut.write_bytes(data[:size])
                result = lanyard("inspect", "--model", cut)
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertTrue(result.stderr.startswith(b"error: "), result.stderr)
                self.assertEqual(result.stderr.strip().count(b"\n"), 0, result.stderr)
        self.refused(cut, "cut.gguf")

    def test_bit_flips_never_crash(self):
        data = bytearray(pool.MODEL.read_bytes()[:3_000_000])
        bad = self.folder / "bad.gguf"
        rng = random.Random(3)
        for i in range(40):
            at = rng.randrange(4, 4000 if i % 2 else len(data))
            kept, data[at] = data[at], data[at] ^ (1 << rng.randrange(8))
            bad.write_bytes(data)
            data[at] = kept
            result = lanyard("inspect", "--model", bad)
            self.assertIn(result.returncode, (0, 1), f"byte {at}: {result.stderr[-500:]}")

    def test_unknown_family(self):
        def text(s):
            return struct.pack("<Q", len(s)) + s.encode()

        model = self.folder / "alien.gguf"
        model.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("general.architecture") + struct.pack("<I", 8) +
                          text("alien9"))
        self.refused(model, "alien9")


if __name__ == "__main__":
    pool.main()
