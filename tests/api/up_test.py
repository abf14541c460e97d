"""`lanyard up` as a supervisor, with stand-ins for the coordinator and the workers: start, the JSON line, a worker that
dies, a coordinator that dies, no plan, Ctrl-C, a port in use, a state directory in use. Nothing is left running."""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

ARGS = argparse.Namespace(lanyard="")

# A GGUF file of no tensors, which the stand-in reads on.
HEADER = b"GGUF" + (3).to_bytes(4, "little") + bytes(16)

# Serves /admin/v1/status; "joined" workers are files beside the ready file. MODE is in the model file.
COORDINATOR = r'''#!/usr/bin/env python3
import http.server, json, os, pathlib, signal, sys, threading, time
a = dict(zip(sys.argv[1::2], sys.argv[2::2]))
mode = pathlib.Path(a["--model"]).read_bytes()[24:].decode()  # behind the header
print("coordinator starts"); sys.stdout.flush()
if mode == "reading":
    time.sleep(120)
if mode == "broken":
    print("error: the model is malformed at offset 7"); sys.exit(1)
if mode == "usage":
    print("error: --http-name: no\n`lanyard-coordinator --help` shows what it takes, with examples."); sys.exit(2)
state = pathlib.Path(a["--state"]).parent
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self):
        alive = sorted(p.name for p in state.glob("w*/pid"))
        nodes = [{"name": p.parent.name, "state": "ready", "pid": int(p.read_text() or 0), "has_stage": True,
                  "layers": [10 * i, 10 * i + 9], "embeds": i == 0, "samples": False, "gguf_bytes": 5}
                 for i, p in enumerate(sorted(state.glob("w*/pid")))]
        if mode == "no plan":
            return self.answer(200, {"ready": False, "state": "no plan fits", "why": "needs 97 MiB, there are 20 MiB",
                                     "plan_why": ["w1: 10 MiB", "w2: 10 MiB"], "nodes": []})
        if mode == "loading":
            return self.answer(200, {"ready": False, "state": "loading", "nodes": nodes})
        self.answer(200, {"ready": len(alive) >= int(a["--workers"]), "state": "ready", "model": "m", "context": 77, "nodes": nodes})
    def do_POST(self):
        self.answer(202, {}); threading.Thread(target=server.shutdown).start()
    def log_message(self, *x): pass
host, port = a["--http"].split(":")
server = http.server.ThreadingHTTPServer((host, int(port)), Handler)
pathlib.Path(a["--ready-file"]).write_text(json.dumps({"http": "http://127.0.0.1:%d" % server.server_address[1], "grpc": "127.0.0.1:7300"}))
signal.signal(signal.SIGTERM, lambda *x: os._exit(0))
server.serve_forever()
'''
WORKER = r'''#!/usr/bin/env python3
import os, pathlib, signal, sys, time
a = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert a["--join"] == "127.0.0.1:7300" and int(a["--threads"]) >= 1
print("worker", a["--name"], a.get("--memory")); sys.stdout.flush()
d = pathlib.Path(a["--state"]); d.mkdir(exist_ok=True)
if (d.parent / "crash").exists(): print("error: out of luck"); sys.exit(4)
if (d.parent / "wrong").exists(): print("error: --memory: too small"); sys.exit(2)
if (d.parent / "unwell").exists(): print("12:00:00.000 %s warning not joined to x: no" % a["--name"]); sys.stdout.flush()
(d / "pid").write_text(str(os.getpid()))
if (d.parent / "stubborn").exists(): signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(120)
'''


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def eventually(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


class Up(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="lanyard-up-"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.bin = self.dir / "bin"
        self.bin.mkdir()
        shutil.copy(ARGS.lanyard, self.bin / "lanyard")
        for name, text in (("lanyard-coordinator", COORDINATOR), ("lanyard-worker", WORKER)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        self.state = self.dir / "state"
        self.model = self.dir / "m.gguf"
        self.mode("fine")
        self.process = None
        self.addCleanup(self.kill)
        # Of this test alone, so that pools of others are not found.
        (self.dir / "run").mkdir(mode=0o700)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("LANYARD_")} | {
            "XDG_RUNTIME_DIR": str(self.dir / "run"), "XDG_STATE_HOME": str(self.dir / "home")}

    def mode(self, text):
        """What the stand-in for the coordinator reads in the model."""
        self.model.write_bytes(HEADER + text.encode())

    def kill(self):
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def up(self, *args, workers=2, port=0):
        self.process = subprocess.Popen(
            [str(self.bin / "lanyard"), "up", "--model", str(self.model), "--workers", str(workers), "--port", str(port),
             "--state", str(self.state), "--http-open", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env)
        return self.process

    def ready(self, *args, **kwargs):
        line = self.up("--json", *args, **kwargs).stdout.readline()
        self.assertTrue(line, "no line on stdout")
        return json.loads(line)

    def pids(self, line):
        return [line["pids"]["coordinator"]] + [w["pid"] for w in line["workers"]]

    def test_json_line_and_ctrl_c(self):
        line = self.ready("--memory-per-worker", "88MiB")
        self.assertEqual(list(line), ["url", "api_key", "ca", "ca_bundle", "admin", "clients", "model", "context", "pids",
                                      "workers"])
        self.assertEqual((line["api_key"], line["ca"], line["model"], line["context"]), (None, None, "m", 77))
        self.assertEqual(list(line["clients"]), ["curl", "openai", "requests", "node"])
        self.assertEqual([list(w) for w in line["workers"]], [["name", "pid", "layers", "embeds", "samples", "bytes"]] * 2)
        self.assertEqual([w["layers"] for w in line["workers"]], [[0, 9], [10, 19]])
        self.assertTrue(all(alive(p) for p in self.pids(line)))
        self.assertEqual(len({os.getpgid(p) for p in self.pids(line)} | {os.getpgid(self.process.pid)}), 4)
        self.process.send_signal(signal.SIGINT)
        self.assertEqual(self.process.wait(10), 0)
        self.assertFalse(any(alive(p) for p in self.pids(line)))
        self.assertEqual(self.process.stdout.read(), "")
        self.assertIn("88MiB", (self.state / "logs" / "w1.log").read_text())

    def test_a_dead_worker_starts_again(self):
        line = self.ready()
        pid = line["workers"][0]["pid"]
        os.kill(pid, signal.SIGKILL)
        file = self.state / "w1" / "pid"
        self.assertTrue(eventually(lambda: file.read_text() not in ("", str(pid))))
        again = int(file.read_text())
        self.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.process.wait(10), 0)
        self.assertFalse(alive(again))
        self.assertIn("signal 9", self.process.stderr.read())

    def test_a_dead_coordinator_ends_it(self):
        line = self.ready()
        os.kill(line["pids"]["coordinator"], signal.SIGKILL)
        self.assertEqual(self.process.wait(10), 1)
        self.assertFalse(any(alive(p) for p in self.pids(line)))
        error = self.process.stderr.read()
        self.assertIn("signal 9", error)
        self.assertIn("coordinator starts", error)

    def test_stop_over_http(self):
        line = self.ready()
        urllib.request.urlopen(urllib.request.Request(line["url"] + "/admin/v1/stop", data=b"{}"), timeout=5).read()
        self.assertEqual(self.process.wait(10), 0)
        self.assertFalse(any(alive(p) for p in self.pids(line)))

    def test_killed_parent_takes_its_children_along(self):
        line = self.ready()
        self.process.kill()
        self.process.wait()
        self.assertTrue(eventually(lambda: not any(alive(p) for p in self.pids(line))))

    def test_stubborn_worker_is_killed(self):
        self.state.mkdir()
        (self.state / "stubborn").touch()
        line = self.ready(workers=1)
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.process.wait(15), 0)
        self.assertGreater(time.monotonic() - started, 4)
        self.assertFalse(any(alive(p) for p in self.pids(line)))

    def fails_with(self, *texts):
        self.assertEqual(self.process.wait(20), 1)
        error = self.process.stderr.read()
        for text in texts:
            self.assertIn(text, error)
        self.assertEqual(self.process.stdout.read(), "")
        return error

    def test_no_plan(self):
        self.mode("no plan")
        self.up("--json")
        self.fails_with("needs 97 MiB, there are 20 MiB", "w2: 10 MiB")

    def test_broken_model(self):
        self.mode("broken")
        self.up("--json")
        self.fails_with("malformed at offset 7", "coordinator.log")

    def test_worker_that_cannot_start(self):
        self.state.mkdir()
        (self.state / "crash").touch()
        self.up("--json", workers=1)
        self.fails_with("worker w1 ended 5 times", "worker w1 ended (exit code 4): out of luck; starting it again")

    def test_port_in_use(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            self.up("--json", port=s.getsockname()[1])
            error = self.fails_with("cannot listen on 127.0.0.1:", "--port", f" (process {os.getpid()})")
            self.assertEqual(error.count("\n"), 1)

    def test_port_of_another_pool(self):
        line = self.ready()
        port = line["url"].rsplit(":", 1)[1]
        done = self.lanyard("up", "--model", str(self.model), "--state", str(self.dir / "other"), "--port", port, "--http-open")
        self.assertEqual(done.returncode, 1)
        self.assertIn("stopped with: lanyard stop --pool state;", done.stderr)

    def lanyard(self, *args):
        return subprocess.run([str(self.bin / "lanyard"), *args], capture_output=True, text=True, timeout=20, check=False, env=self.env)

    def second_up(self):
        """What `up` says of the state directory that self.process uses, and the command in it."""
        done = self.lanyard("up", "--model", str(self.model), "--state", str(self.state), "--port", "0", "--http-open")
        self.assertEqual(done.returncode, 1)
        said = re.search("another pool uses the state directory (.*); (.*)stop it with: (.*), or name another with --state", done.stderr)
        self.assertIsNotNone(said, done.stderr)
        self.assertEqual(said[1], str(self.state))
        return said[3]

    def test_state_in_use(self):
        self.ready()
        command = self.second_up()
        self.assertTrue(command.startswith("lanyard stop "), command)
        self.assertEqual(self.lanyard(*command.split()[1:]).returncode, 0)
        self.assertEqual(self.process.wait(10), 0)
        self.assertEqual(list((self.dir / "run/lanyard").iterdir()), [])

    def test_state_in_use_by_a_pool_that_still_reads_its_model(self):
        self.mode("reading")
        self.up("--json")
        self.assertTrue(eventually(lambda: (self.state / "logs/coordinator.log").exists()))
        command = self.second_up()
        self.assertEqual(command, f"kill {self.process.pid}")
        subprocess.run(command.split(), check=True)
        self.assertEqual(self.process.wait(10), 143)

    def test_stop_finds_it_wherever_its_state_is(self):
        for args in ((), ("--pool", "state"), ("--state", str(self.state)), ("--state", os.path.relpath(self.state))):
            self.ready()
            self.assertEqual(self.lanyard("stop", *args).returncode, 0, args)
            self.assertEqual(self.process.wait(10), 0)
            self.process.stdout.close()
            self.process.stderr.close()

    def test_stop_returns_when_all_of_it_is_gone(self):
        """Whoever was told that the pool has stopped can start it anew at once, also after workers that took their time."""
        self.state.mkdir()
        for stubborn in (False, False, True):
            (self.state / "stubborn").touch() if stubborn else (self.state / "stubborn").unlink(missing_ok=True)
            (self.state / "w1/pid").unlink(missing_ok=True)  # so that the worker has begun when the pool is ready
            line = self.ready(workers=1)
            started = time.monotonic()
            done = self.lanyard("stop", "--pool", "state", "--json")
            self.assertEqual((done.returncode, done.stdout), (0, '{"stopped":true}\n'), done.stderr)
            self.assertEqual(time.monotonic() - started > 4, stubborn)
            self.assertFalse(any(alive(p) for p in self.pids(line)))
            first = self.process
            self.ready(workers=1, port=line["url"].rsplit(":", 1)[1])  # neither state nor port is in use
            self.assertEqual(first.wait(10), 0)
            first.stdout.close()
            first.stderr.close()
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process.stderr.close()
            self.assertTrue(eventually(lambda: not pathlib.Path(f"/proc/{line['pids']['coordinator']}").exists()))

    def test_a_killed_pool_is_not_found(self):
        line = self.ready()
        self.process.kill()
        self.process.wait()
        self.assertTrue(eventually(lambda: not any(alive(p) for p in self.pids(line))))
        done = self.lanyard("list")
        self.assertEqual(done.returncode, 3)
        self.assertNotIn("://", done.stderr)
        self.assertIn("lanyard up --model", done.stderr)

    def test_stopped_before_it_is_ready(self):
        for mode, program in (("reading", "coordinator"), ("loading", "w2")):
            for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
                self.mode(mode)
                log = self.state / "logs" / (program + ".log")
                log.unlink(missing_ok=True)
                self.up("--json")
                self.assertTrue(eventually(lambda log=log: log.exists() and log.read_text()))
                children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
                self.assertTrue(children)
                self.process.send_signal(number)
                self.assertEqual(self.process.wait(10), code, (mode, number))
                self.assertFalse(any(alive(int(p)) for p in children))
                self.assertEqual(self.process.stdout.read(), "")
                self.assertIn("before it was ready", self.process.stderr.read())
                self.process.stdout.close()
                self.process.stderr.close()

    def test_limits_that_cannot_work(self):
        for flag, value in (("--memory-per-worker", "40"), ("--vram", "6"), ("--vram", "cuda:0=6"), ("--memory-per-worker", "much"),
                            ("--workers", "0"), ("--context", "0"), ("--users", "0"), ("--threads-per-worker", "0")):
            done = self.lanyard("up", "--model", str(self.model), "--state", str(self.state), "--port", "0", flag, value)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(flag, done.stderr)
            self.assertIn(value.split("=")[-1], done.stderr)
            self.assertFalse(self.state.exists())
            if value in ("40", "6"):
                self.assertRegex(done.stderr, rf"at least [\d.]+ MiB .*{value}GiB")

    def test_options_that_cannot_work(self):
        """They are refused by `up` itself: nothing is started, and no other program is pointed to."""
        for words in (["--http-origin", "foo"], ["--http-name", "a b"], ["--http-cert", "c.pem"], ["--http-key", "k.pem"], ["--plaintext"],
                      ["--http-tls-min", "1.1"], ["--state", ""], ["--state", str(self.state) + "/\udcff"], ["--devices", "gpu"]):
            done = self.lanyard("up", "--model", str(self.model), "--port", "0", "--state", str(self.state), *words)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertTrue(done.stderr.startswith("error: " + ("" if words[0] == "--devices" else words[0])), done.stderr)
            self.assertNotIn("lanyard-coordinator", done.stderr)
            self.assertFalse(self.state.exists())
        # Of the folder that it stands in, too.
        folder = os.fsencode(self.dir) + b"/\xff"
        os.mkdir(folder)
        done = subprocess.run([self.bin / "lanyard", "up", "--model", self.model, "--port", "0", "--state", "s", "--http-open"],
                              capture_output=True, cwd=folder, env=self.env, timeout=20, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(b"no UTF-8", done.stderr)

    def test_what_the_coordinator_calls_usage_is_usage(self):
        self.mode("usage")
        self.up("--json")
        self.assertEqual(self.process.wait(10), 2)
        error = self.process.stderr.read()
        self.assertTrue(error.endswith("\nerror: --http-name: no\n"), error)  # and no other program is pointed to

    def test_output_that_does_not_arrive_ends_it(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([self.bin / "lanyard", "up", "--model", self.model, "--port", "0", "--state", self.state, "--http-open",
                                   "--json"], stdout=full, stderr=subprocess.PIPE, env=self.env, timeout=30, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(b"cannot write to standard output: No space left", done.stderr)

    def test_a_pipe_among_the_pools_is_passed_over(self):
        self.ready()
        os.mkfifo(self.dir / "run/lanyard/pipe.json")
        self.assertEqual(self.lanyard("list").returncode, 0)

    def test_a_worker_that_its_options_keep_from_running(self):
        self.state.mkdir()
        (self.state / "wrong").touch()
        self.up("--json")
        self.assertEqual(self.process.wait(10), 2)
        error = self.process.stderr.read()
        self.assertIn("cannot run: --memory: too small", error)
        self.assertNotIn("starting it again", error)

    def test_what_workers_complain_of_is_shown(self):
        self.state.mkdir()
        (self.state / "unwell").touch()
        self.ready()
        self.process.send_signal(signal.SIGINT)
        self.assertEqual(self.process.wait(10), 0)
        error = self.process.stderr.read()
        for name in ("w1", "w2"):
            self.assertEqual(error.count(f"worker {name}: not joined to x: no\n"), 1, error)

    def test_names_of_the_server_go_to_the_coordinator(self):
        self.ready("--http-name", "pc1.lan", "--http-name", "pool")
        words = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        line = pathlib.Path(f"/proc/{words[0]}/cmdline").read_text().split("\0")
        names = [line[i + 1] for i, word in enumerate(line) if word == "--http-name"]
        self.assertEqual(names, ["pc1.lan", "pool"])

    def test_plaintext_leaves_nothing_to_make_https_of(self):
        done = subprocess.run([str(self.bin / "lanyard"), "up", "--model", str(self.model), "--state", str(self.state), "--plaintext"],
                              capture_output=True, text=True, timeout=20, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--http-open", done.stderr)
        self.assertFalse(self.state.exists())

    def test_missing_model(self):
        self.model.unlink()
        self.up()
        self.assertEqual(self.process.wait(10), 5)

    def test_text(self):
        self.up()
        lines = [self.process.stdout.readline() for _ in range(7)]
        self.assertIn("context 77", lines[0])
        self.assertIn("embedding, 0-9", "".join(lines))
        self.assertIn("curl http://127.0.0.1:", "".join(lines))
        self.process.send_signal(signal.SIGINT)
        self.assertEqual(self.process.wait(10), 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lanyard", required=True)
    _, rest = parser.parse_known_args(namespace=ARGS)
    unittest.main(argv=[sys.argv[0]] + rest, verbosity=2)
