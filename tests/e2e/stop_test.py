#!/usr/bin/env python3
"""The coordinator is stopped while answers run, wait and are not read: each client hears it in the API's own words."""
import json
import socket
import threading
import time
import unittest

import pool
from cluster import Cluster


def request(path, key, body):
    data = json.dumps(body).encode()
    head = (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Length: {len(data)}\r\n\r\n")
    return head.encode() + data


def read_all(connection):
    text = b""
    try:
        while chunk := connection.recv(65536):
            text += chunk
    except OSError as e:
        text += f" [{e}]".encode()
    return text.decode(errors="replace")


class Stopping(unittest.TestCase):
    def open(self, c, body, receive_buffer=None):
        connection = socket.socket()
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(30)
        connection.connect(c.address)
        connection = c.tls.wrap_socket(connection, server_hostname=c.address[0])
        connection.sendall(request("/v1/completions", c.key, body))
        return connection

    def test_every_client_hears_it(self):
        with Cluster(workers=1, context=2048) as c:
            c.wait_ready(1)
            c.key = c.cli("key", "create", "anna").strip()
            c.tls = c.context()
            long = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "temperature": 0}
            streams = [self.open(c, long | {"stream": True}) for _ in range(3)]
            heads = [s.recv(65536) for s in streams]
            whole = [self.open(c, long) for _ in range(2)]
            # Many more than run at once: these wait.
            waiting = [self.open(c, long) for _ in range(8)]
            deaf = self.open(c, long | {"stream": True, "logprobs": 20}, receive_buffer=4096)
            time.sleep(2)
            texts = {}
            readers = [threading.Thread(target=lambda s=s: texts.__setitem__(s, read_all(s))) for s in streams + whole + waiting]
            for reader in readers:
                reader.start()
            start = time.monotonic()
            c.coordinator.process.terminate()
            c.coordinator.process.wait(timeout=20)
            took = time.monotonic() - start
            for reader in readers:
                reader.join(20)
            for connection in (*streams, *whole, *waiting, deaf):
                connection.close()
            self.assertEqual(c.coordinator.process.returncode, 0, c.coordinator.text()[-2000:])
            for head, stream in zip(heads, streams):
                text = head.decode() + texts[stream]
                self.assertIn("text/event-stream", text)
                last = text.rstrip().removesuffix("0").rstrip().split("data: ")[-1].splitlines()[0]
                error = json.loads(last)["error"]
                self.assertEqual((error["type"], error["code"]), ("unavailable_error", "unavailable"), text[-300:])
                self.assertIn("the coordinator is stopping", error["message"])
                self.assertTrue(text.endswith("0\r\n\r\n"), repr(text[-40:]))  # the stream's own end, no cut
                self.assertNotIn("[DONE]", text)
            for connection in whole + waiting:
                text = texts[connection]
                self.assertTrue(text.startswith("HTTP/1.1 503 "), text[:200])
                self.assertIn("\r\nRetry-After: ", text)
                self.assertIn("the coordinator is stopping", text)
            print(f"stopped in {took:.2f} s beside a client that does not read", flush=True)
            self.assertLess(took, 5)


if __name__ == "__main__":
    pool.main()
