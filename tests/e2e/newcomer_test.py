#!/usr/bin/env python3
"""A machine joins a pool that serves, over a slow line: streams and new requests do not notice its load, and then it takes part."""
import shutil
import socket
import threading
import time
import unittest

import pool
from cluster import Cluster, Stream, load

LINE_BYTES_PER_SECOND = 1.5e6
LONGEST_PAUSE = 5.0  # upper bound for a busy machine; the load takes 20 s
TOKENS = 600


class SlowLine:
    """A port that leads to another one. What comes back from there is slow, each connection by itself, so that heartbeats
    pass the weights."""

    def __init__(self, to):
        self.to = to.rsplit(":", 1)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection((self.to[0], int(self.to[1])))
            for source, sink, rate in ((near, far, None), (far, near, LINE_BYTES_PER_SECOND)):
                threading.Thread(target=self.carry, args=(source, sink, rate), daemon=True).start()

    @staticmethod
    def carry(source, sink, rate):
        try:
            while data := source.recv(1 << 14):
                sink.sendall(data)
                if rate:
                    time.sleep(len(data) / rate)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)  # so that the other direction ends too
            except OSError:
                pass
        source.close()

    def close(self):
        self.listener.close()


class Newcomer(unittest.TestCase):
    def test_the_pool_serves_while_it_loads(self):
        with Cluster(workers=3, context=1024) as c:
            c.wait_ready(3)
            key = c.cli("key", "create", "anna").strip()
            whole = Stream(c, key, max_tokens=TOKENS)
            whole.join(120)
            c.workers.pop("w3").stop()
            c.wait_ready(2)
            shutil.rmtree(c.folder / "w3")
            line = SlowLine(c.listen)
            self.addCleanup(line.close)
            before = c.status()["epoch"]
            c.workers["w4"] = c.worker("w4", "w4", "--join", line.address, "--name", "w4", "--token", c.token())
            began = time.monotonic()
            streams, asked, loading = [Stream(c, key, max_tokens=TOKENS)], 0, 0
            while (status := c.status())["epoch"] == before or len(c.wait_ready()) < 3:
                self.assertLess(time.monotonic() - began, 180, status)
                loading += any(n["name"] == "w4" and n["state"] == "loading" for n in status["nodes"])
                self.assertTrue(status["ready"], status["why"])
                c.complete("Hello", key, max_tokens=1)  # anything but 200 is an exception
                asked += 1
                if not streams[-1].is_alive():
                    streams.append(Stream(c, key, max_tokens=TOKENS))
                time.sleep(0.2)
            took = time.monotonic() - began
            streams.append(Stream(c, key, max_tokens=TOKENS))
            for stream in streams:
                stream.join(120)
                self.assertTrue(stream.done, stream.error)
                self.assertEqual(stream.text, whole.text)
            longest = max(s.longest_gap for s in streams)
            print(f"w4 took part after {took:.1f} s, {len(streams)} streams and {asked} requests meanwhile; the longest pause of a stream: "
                  f"{longest * 1000:.0f} ms ({whole.longest_gap * 1000:.0f} ms undisturbed); {load()}", flush=True)
            self.assertGreater(loading, 10)
            self.assertGreater(took, 10)
            self.assertLess(longest, LONGEST_PAUSE)


if __name__ == "__main__":
    pool.main()
