"""A cluster as an office has it: a coordinator with its CA, and workers that joined with tokens, each a process with a
folder of its own; and what the kernel says of their connections."""
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.parse

import pool

COORDINATOR = pool.BIN / "lanyard-coordinator"
WORKER = pool.BIN / "lanyard-worker"
# The long form of every test that has one: ./dev soak
LONG = os.environ.get("LANYARD_SOAK") == "1"
ESTABLISHED, CLOSE_WAIT, LISTEN = "01", "08", "0A"


class Process:
    """A program whose log is a file."""

    def __init__(self, log, command):
        self.log = pathlib.Path(log)
        with open(log, "ab") as out:
            self.process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=out)
        self.pid = self.process.pid

    def text(self):
        return self.log.read_text(errors="replace")

    def wait_text(self, pattern, seconds=20):
        end = time.monotonic() + seconds
        while not re.search(pattern, self.text()):
            if time.monotonic() > end:
                raise TimeoutError(f"no {pattern!r} in {seconds} s:\n{self.text()[-2000:]}")
            time.sleep(0.02)

    def stop(self, sig=signal.SIGTERM):
        if self.process.poll() is not None:
            return
        self.process.send_signal(sig)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Cluster:
    def __init__(self, workers=0, plaintext=False, model=pool.MODEL, worker_flags=(), memory="600MiB", **flags):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lanyard-cluster-"))
        self.plaintext = plaintext
        self.workers = {}
        self.model = model
        self.worker_flags = worker_flags
        self.memory = memory  # of each worker
        self.flags = {"context": 512, "users": 2} | flags
        self.listen = self.http = "127.0.0.1:0"
        self.coordinator = None
        try:
            self.start_coordinator(workers)
            for i in range(workers):
                self.join(f"w{i + 1}")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start_coordinator(self, workers=0):
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        command = [COORDINATOR, "--model", self.model, "--listen", self.listen, "--http", self.http, "--state",
                   self.folder / "c", "--ready-file", ready]
        command += ["--plaintext", "--http-open"] if self.plaintext else []
        command += ["--workers", workers] if workers else []
        for name, value in self.flags.items():
            command += ["--" + name.replace("_", "-"), value]
        self.coordinator = Process(self.folder / "c.log", command)
        end = time.monotonic() + pool.START_SECONDS
        while not ready.exists() or not ready.read_text().strip():
            if self.coordinator.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the coordinator does not start: {self.coordinator.text()}")
            time.sleep(0.02)
        self.ready = json.loads(ready.read_text())
        # The same again after a restart.
        self.listen = self.ready["grpc"]
        url = urllib.parse.urlsplit(self.ready["http"])
        self.address = (url.hostname, url.port)
        self.http = f"{url.hostname}:{url.port}"

    @property
    def admin(self):
        return self.folder / "c/admin"

    @property
    def ca(self):
        """What HTTPS clients trust."""
        return self.admin / "https-ca.crt"

    def cli(self, *args, check=True):
        out = pool.lanyard(*args, "--admin", self.admin)
        if check and out.returncode != 0:
            raise RuntimeError(f"{args}: {out.stderr.decode()}")
        return out.stdout.decode()

    def token(self, *args):
        return self.cli("token", "create", *args).split("--token ")[1].split()[0]

    def worker(self, name, state, *args, program=WORKER):
        """Starts a worker on a folder; `args` are its flags beside those."""
        return Process(self.folder / f"{name}.log", [
            program, "--state", self.folder / state, "--threads", 1, "--memory", self.memory, "--devices", "cpu",
            *self.worker_flags, *args])

    def join(self, name, *args):
        credentials = ["--plaintext"] if self.plaintext else ["--token", self.token()]
        self.workers[name] = self.worker(name, name, "--join", self.listen, "--name", name, *credentials, *args)
        return self.workers[name]

    def try_join(self, token, name="stranger"):
        """What a worker says that ends at once: (exit code, text)."""
        out = subprocess.run([str(c) for c in (WORKER, "--join", self.listen, "--token", token, "--name", name, "--state",
                                               tempfile.mkdtemp(dir=self.folder))],
                             capture_output=True, text=True, timeout=30, check=False)
        return out.returncode, out.stderr.strip()

    def context(self, identity=None):
        """TLS of a client that trusts the cluster's CA; `identity`: the folder of a node, whose certificate it shows."""
        context = ssl.create_default_context(cafile=self.ca)
        if identity is not None:
            context.load_cert_chain(identity / "node.crt", identity / "node.key")
        return context

    def request(self, method, path, body=None, identity=None, key=None, timeout=120):
        if self.plaintext:
            connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        else:
            connection = http.client.HTTPSConnection(*self.address, timeout=timeout, context=self.context(identity))
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
        return connection, connection.getresponse()

    def call(self, method, path, body=None, **who):
        connection, response = self.request(method, path, body, **who)
        with connection:
            return response.status, response.read().decode()

    def status(self):
        return json.loads(self.call("GET", "/admin/v1/status", identity=None if self.plaintext else self.admin)[1])

    def wait_ready(self, stages=None, seconds=90):
        """Serving, and over so many workers."""
        end = time.monotonic() + seconds
        while True:
            status = self.status()
            names = [n["name"] for n in status["nodes"] if n["state"] == "ready"]
            if status["ready"] and stages in (None, len(names)):
                return names
            if time.monotonic() > end:
                raise TimeoutError(f"not ready after {seconds} s: {status}\n{self.coordinator.text()[-2000:]}")
            time.sleep(0.05)

    def complete(self, prompt, key, **fields):
        body = {"model": pathlib.Path(self.model).stem, "prompt": prompt, "temperature": 0, "max_tokens": 24} | fields
        status, text = self.call("POST", "/v1/completions", body, key=key)
        if status != 200:
            raise pool.HttpError(status, text)
        return json.loads(text)["choices"][0]["text"]

    def close(self):
        for process in [*self.workers.values(), self.coordinator]:
            if process is not None:
                process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Stream(threading.Thread):
    """A long answer that is being read; `tokens` and `text` so far, `error` that ended it, `longest_gap` in seconds."""

    def __init__(self, cluster, key, prompt="Tell me a very long story.", max_tokens=400):
        super().__init__(daemon=True)
        self.cluster, self.key, self.prompt, self.max_tokens = cluster, key, prompt, max_tokens
        self.tokens, self.text, self.error, self.done, self.longest_gap = 0, "", None, False, 0.0
        self.start()

    def run(self):
        body = {"model": pathlib.Path(self.cluster.model).stem, "prompt": self.prompt, "temperature": 0, "stream": True,
                "max_tokens": self.max_tokens, "ignore_eos": True}
        connection, response = self.cluster.request("POST", "/v1/completions", body, key=self.key)
        before = time.monotonic()
        with connection:
            for line in response:
                if not line.startswith(b"data: "):
                    continue
                self.longest_gap = max(self.longest_gap, time.monotonic() - before)
                before = time.monotonic()
                if line.strip() == b"data: [DONE]":
                    self.done = True
                    return
                event = json.loads(line[6:])
                if "error" in event:
                    self.error = event["error"]["message"]
                    return
                self.tokens += 1
                for choice in event["choices"]:
                    self.text += choice["text"]

    def wait_tokens(self, count, seconds=30):
        end = time.monotonic() + seconds
        while self.tokens < count:
            if self.error or time.monotonic() > end:
                raise TimeoutError(f"{self.tokens} tokens of {count}: {self.error}")
            time.sleep(0.005)


def tcp_table():
    """Every TCP socket: (local, remote, state, inode), addresses as the kernel writes them (IPv4's always in 8 digits)."""
    rows = []
    for name in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            field = line.split()
            local, remote = (a.removeprefix("0000000000000000FFFF0000") for a in field[1:3])
            rows.append((local, remote, field[3], field[9]))
    return rows


def sockets_of(pid):
    """The rows of tcp_table() that belong to a process."""
    inodes = set()
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(fd)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    return [row for row in tcp_table() if row[3] in inodes]


def listening_ports(pid):
    return sorted({int(local.rsplit(":", 1)[1], 16) for local, _, state, _ in sockets_of(pid) if state == LISTEN})


def is_open(host, port):
    with socket.socket() as s:
        s.settimeout(2)
        return s.connect_ex((host, port)) == 0


def load():
    """What else ran: a figure without it says little."""
    return f"load of the machine {' '.join(f'{x:.1f}' for x in os.getloadavg())} on {os.cpu_count()} processors"
