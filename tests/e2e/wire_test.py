#!/usr/bin/env python3
"""What a stranger finds: on every port of every process, on every route, and in the bytes between the machines."""
import json
import re
import socket
import ssl
import struct
import threading
import time
import unittest

import cluster
import pool
from cluster import Cluster

CANARY = "The canary Zwilchenbart sings at dawn over Oberwinterthur"
ETH_P_ALL, IP_HEADER_AT, SO_RCVBUFFORCE = 3, 14, 33


def routes():
    """(method, path) of every route that is served, from the table that the router is made of."""
    table = (pool.SOURCE / "docs/access.md").read_text()
    found = re.findall(r"^\| `(GET|POST|DELETE) (\S+)` \|", table, re.MULTILINE)
    return [(method, path.replace("*", "x")) for method, path in found]


def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


class Recorder(threading.Thread):
    """Every TCP payload over loopback from or to the ports of a cluster. None where the system does not allow it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        # Beyond the system's limit (root may): weights come faster than this thread reads on a busy machine.
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 30)
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 20)
        self.socket.bind(("lo", 0))
        self.socket.settimeout(0.2)
        self.streams, self.ending = {}, 0.0
        self.start()

    @staticmethod
    def make():
        try:
            return Recorder()
        except PermissionError:
            return None

    def run(self):
        # Loopback is never silent: an end by the clock, with a second for what waits in the buffer.
        while not self.ending or time.monotonic() < self.ending:
            try:
                packet, address = self.socket.recvfrom(1 << 17)
            except TimeoutError:
                continue
            if address[2] == socket.PACKET_OUTGOING or len(packet) < IP_HEADER_AT + 40:
                continue  # loopback shows each packet twice
            version = packet[IP_HEADER_AT] >> 4
            if version == 4 and packet[IP_HEADER_AT + 9] == socket.IPPROTO_TCP:
                at = IP_HEADER_AT + (packet[IP_HEADER_AT] & 15) * 4
            elif version == 6 and packet[IP_HEADER_AT + 6] == socket.IPPROTO_TCP:
                at = IP_HEADER_AT + 40
            else:
                continue
            ports = struct.unpack_from(">HH", packet, at)
            data = packet[at + (packet[at + 12] >> 4) * 4:]
            if data:
                self.streams.setdefault(ports, bytearray()).extend(data)

    def stop(self):
        self.ending = time.monotonic() + 1
        self.join()
        self.socket.close()

    def of_ports(self, ports):
        return [bytes(data) for key, data in self.streams.items() if set(key) & set(ports)]


class Wire(unittest.TestCase):
    def secrets(self):
        """What must not be readable: pieces of the weights, a tensor's name, the prompt as text and as tokens."""
        model = pool.MODEL.read_bytes()
        middle = len(model) // 2
        out = {f"weights at {at}": model[at:at + 48]
               for at in (middle, middle + 5_000_000, len(model) - 4_000_000, len(model) - 100)}
        ids = json.loads(pool.lanyard("tokenize", "--model", pool.MODEL, stdin=CANARY.encode()).stdout)
        out["the prompt's tokens"] = b"".join(varint(i) for i in ids[2:8])
        return out | {"the prompt's text": CANARY.encode(), "a tensor's name": b"ffn_down.weight"}

    def record(self, plaintext):
        """What of secrets() was seen between the processes of a pool of two while it loaded and answered."""
        recorder = Recorder.make()
        if recorder is None:
            self.skipTest("recording loopback takes CAP_NET_RAW")
        with Cluster(workers=2, plaintext=plaintext) as c:
            c.wait_ready(2)
            key = None if plaintext else c.cli("key", "create", "anna").strip()
            self.assertTrue(c.complete(CANARY, key))
            ports = [p for process in (c.coordinator, *c.workers.values()) for p in cluster.listening_ports(process.pid)]
            recorder.stop()
            streams = recorder.of_ports(ports)
        # A busy machine drops packets of the recording: it need not be whole to show what is readable.
        self.assertGreater(sum(map(len, streams)), 20_000_000, "the weights went over these ports")
        return {what for what, secret in self.secrets().items() if any(secret in s for s in streams)}

    def test_nothing_readable_crosses(self):
        everything = set(self.secrets())
        seen = self.record(plaintext=True)
        print(f"plaintext shows {len(seen)} of {len(everything)}: {sorted(seen)}", flush=True)
        self.assertGreaterEqual(len(seen), len(everything) - 3, "the recorder sees what there is to see")
        self.assertEqual(self.record(plaintext=False), set())


class Scan(unittest.TestCase):
    def test_ports_and_routes_without_credentials(self):
        with Cluster(workers=2) as c:
            c.wait_ready(2)
            ports = {p for process in (c.coordinator, *c.workers.values()) for p in cluster.listening_ports(process.pid)}
            grpc, http_port = int(c.listen.rsplit(":", 1)[1]), c.address[1]
            self.assertIn(grpc, ports)
            self.assertIn(http_port, ports)
            self.assertEqual(len(ports), 4, "the coordinator's two and each worker's one")
            found = {}
            for method, path in [*routes(), ("GET", "/"), ("GET", "/docs"), ("OPTIONS", "/v1/models"), ("TRACE", "/"),
                                 ("GET", "/admin/v1/../../health"), ("GET", "//health"), ("PUT", "/health")]:
                status, body = c.call(method, path)
                if status != 401:
                    found[(method, path)] = (status, body)
            self.assertEqual(found, {("GET", path): (200, '{"status":"ok"}') for path in ("/health", "//health")})  # one path
            for port in sorted(ports - {http_port}):
                self.assert_silent(port)

    def assert_silent(self, port):
        """Plaintext gets no byte; TLS without a certificate no answer."""
        for hello in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), b"\0" * 64):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
                s.sendall(hello)
                self.assertEqual(self.read(s), b"", f"port {port} answers {hello[:8]}")
        for alpn in (["h2"], ["http/1.1"], ["lanyard-join/1"], None):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if alpn:
                context.set_alpn_protocols(alpn)
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=10) as s, context.wrap_socket(s) as t:
                    t.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
                    got = self.read(t)
            except (ssl.SSLError, ConnectionError):
                got = b""
            self.assertNotIn(b"lanyard", got.lower(), f"port {port}, {alpn}")
            self.assertLess(len(got), 200)

    @staticmethod
    def read(s):
        out = b""
        try:
            while data := s.recv(4096):
                out += data
        except (ConnectionError, TimeoutError, ssl.SSLError):
            pass
        return out


if __name__ == "__main__":
    pool.main()
