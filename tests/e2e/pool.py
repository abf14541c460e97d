"""A pool of processes to test from outside: start it, talk to it, look at its workers, stop it."""
import http.client
import json
import os
import pathlib
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse

SOURCE = pathlib.Path(os.environ.get("LANYARD_SOURCE") or pathlib.Path(__file__).resolve().parents[2])
BIN = pathlib.Path(os.environ.get("LANYARD_BIN") or SOURCE / "build/release/bin")
MODEL = pathlib.Path(os.environ.get("LANYARD_MODELS") or SOURCE / "build/models") / "smollm2.gguf"
LANYARD = BIN / "lanyard"
START_SECONDS = 120
# Pools of others are not found by the verbs, nor those of this test by others.
RUNTIME = tempfile.TemporaryDirectory(prefix="lanyard-e2e-run-")
os.environ["XDG_RUNTIME_DIR"] = RUNTIME.name


def main():
    """unittest's, but a skip of the whole file becomes the exit code that CTest knows."""
    if not MODEL.exists():
        print(f"skipped: no real model {MODEL}; ./dev test fetches it, or LANYARD_MODELS names its folder")
        sys.exit(77)
    unittest.main(verbosity=2)


class Refused(Exception):
    """`lanyard up` ended before it was ready."""

    def __init__(self, code, stderr):
        super().__init__(f"exit code {code}: {stderr}")
        self.code = code
        self.stderr = stderr


class HttpError(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


class Pool:
    def __init__(self, workers=1, model=MODEL, state=None, port=0, http_open=True, **flags):
        self.own_state = state is None
        self.state = state or tempfile.mkdtemp(prefix="lanyard-e2e-")
        command = [LANYARD, "up", "--model", model, "--workers", workers, "--port", port, "--state", self.state, "--json"]
        command += ["--http-open"] if http_open else []
        for name, value in flags.items():
            command += ["--" + name.replace("_", "-"), *(value if isinstance(value, list) else [value])]
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=self.errors, text=True,
                                        start_new_session=True)
        timer = threading.Timer(START_SECONDS, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line:
            code = self.process.wait()
            self.errors.seek(0)
            text = self.errors.read()
            self.close()
            raise Refused(code, text)
        self.ready = json.loads(line)
        url = urllib.parse.urlsplit(self.ready["url"])
        self.address = (url.hostname, url.port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.process.stdout.close()
        self.errors.close()
        if self.own_state:
            shutil.rmtree(self.state, ignore_errors=True)

    def pid(self, worker):
        """The pid now; a worker that was started again has another than at first."""
        for node in self.get("/admin/v1/status")["nodes"]:
            if node["name"] == worker:
                return node["pid"]
        raise KeyError(worker)

    def request(self, method, path, body=None, timeout=120):
        headers = {}
        if self.ready["ca"]:
            context = ssl.create_default_context(cafile=self.ready["ca"])
            connection = http.client.HTTPSConnection(*self.address, timeout=timeout, context=context)
            headers["Authorization"] = "Bearer " + self.ready["api_key"]
        else:
            connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, headers | ({"Content-Type": "application/json"} if data else {}))
        return connection, connection.getresponse()

    def call(self, method, path, body=None):
        connection, response = self.request(method, path, body)
        with connection:
            text = response.read().decode()
        if response.status >= 400:
            raise HttpError(response.status, json.loads(text))
        return json.loads(text) if text.startswith(("{", "[")) else text

    def get(self, path):
        return self.call("GET", path)

    def chat(self, prompt, **fields):
        body = {"model": self.ready["model"], "messages": [{"role": "user", "content": prompt}], "temperature": 0,
                "max_tokens": 48} | fields
        return self.call("POST", "/v1/chat/completions", body)["choices"][0]["message"]["content"]

    def complete(self, prompt, **fields):
        body = {"model": self.ready["model"], "prompt": prompt, "temperature": 0, "max_tokens": 48} | fields
        return self.call("POST", "/v1/completions", body)

    def stream(self, prompt, **fields):
        """Yields each event's object, or its raw text for [DONE]."""
        body = {"model": self.ready["model"], "messages": [{"role": "user", "content": prompt}], "temperature": 0,
                "max_tokens": 48, "stream": True} | fields
        connection, response = self.request("POST", "/v1/chat/completions", body)
        with connection:
            if response.status != 200:
                raise HttpError(response.status, json.loads(response.read()))
            for line in response:
                line = line.decode().strip()
                if line.startswith("data: "):
                    yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])

    def is_ready(self):
        connection, response = self.request("GET", "/readyz")
        with connection:
            response.read()
        return response.status == 200

    def wait_ready(self, seconds=60):
        end = time.monotonic() + seconds
        while not self.is_ready():
            if time.monotonic() > end:
                raise TimeoutError(f"the pool is not ready after {seconds} s: {self.get('/admin/v1/status')}")
            time.sleep(0.05)


# http.client's connections close themselves, but are no context managers.
http.client.HTTPConnection.__enter__ = lambda self: self
http.client.HTTPConnection.__exit__ = lambda self, *_: self.close()


def high_water_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise KeyError("VmHWM")


def lanyard(*args, stdin=b"", timeout=60, env=None):
    return subprocess.run([str(LANYARD), *map(str, args)], input=stdin, capture_output=True, timeout=timeout, check=False, env=env)
