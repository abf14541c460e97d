"""`--join auto` and `lanyard discover` between two network namespaces joined by a cable (veth)."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import pool

A, B = f"lanyard-a{os.getpid()}", f"lanyard-b{os.getpid()}"


def run(*command, check=True):
    return subprocess.run(list(map(str, command)), check=check, capture_output=True, text=True)


def make_network():
    """None, or why there is none."""
    try:
        for name in (A, B):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", A, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", B)
        for name, address in ((A, "10.98.7.1/24"), (B, "10.98.7.2/24")):
            run("ip", "-n", name, "addr", "add", address, "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
    except subprocess.CalledProcessError as e:
        return e.stderr.strip()
    return None


def remove_network():
    for name in (A, B):
        run("ip", "netns", "del", name, check=False)


class Discovery(unittest.TestCase):
    def setUp(self):
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="lanyard-discovery-"))
        self.processes = []
        self.addCleanup(self.clean_up)
        why = make_network()
        if why is not None:
            self.skipTest(f"this user cannot make network namespaces with a cable between: {why}")

    def clean_up(self):
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        remove_network()
        shutil.rmtree(self.state, ignore_errors=True)

    def start(self, namespace, program, *args):
        log = open(self.state / f"{len(self.processes)}.log", "w")
        process = subprocess.Popen(["ip", "netns", "exec", namespace, str(pool.BIN / program), *map(str, args)], stdout=log, stderr=log)
        log.close()
        self.processes.append(process)
        return process

    def coordinator(self, *args):
        folder = self.state / f"c{len(self.processes)}"
        ready = folder / "ready.json"
        folder.mkdir()
        self.start(A, "lanyard-coordinator", "--model", pool.MODEL, "--listen", "0.0.0.0:0", "--http", "127.0.0.1:0", "--state", folder,
                   "--workers", 1, "--context", 256, "--ready-file", ready, "--ready-token", 3, *args)
        end = time.time() + pool.START_SECONDS
        while not ready.exists() or not ready.read_text().strip():
            self.assertLess(time.time(), end)
            time.sleep(0.1)
        return json.loads(ready.read_text())

    def discover(self, namespace):
        return run("ip", "netns", "exec", namespace, pool.LANYARD, "discover", "--json", check=False)

    def test_a_worker_finds_its_coordinator(self):
        ready = self.coordinator()
        port = ready["grpc"].rsplit(":", 1)[1]
        found = json.loads(self.discover(B).stdout)["coordinators"]
        self.assertEqual(len(found), 1, found)
        self.assertIn(f"10.98.7.1:{port}", found[0]["addresses"])
        state = self.state / "w"
        self.start(B, "lanyard-worker", "--join", "auto", "--token", ready["token"], "--name", "pc-2", "--state", state, "--devices", "cpu",
                   "--threads", 1, "--memory", "300MiB")
        end = time.time() + 30
        log = self.state / f"{len(self.processes) - 1}.log"
        while "joined " not in log.read_text():
            self.assertLess(time.time(), end, log.read_text())
            time.sleep(0.1)
        self.assertIn("found the coordinator at", log.read_text())

    def test_silence_where_it_is_not_wanted(self):
        ready = self.coordinator("--no-discovery")
        done = self.discover(B)
        self.assertEqual(done.returncode, 5, done.stdout)
        self.assertIn("no coordinator answers", done.stderr)
        worker = run("ip", "netns", "exec", B, pool.BIN / "lanyard-worker", "--join", "auto", "--token", ready["token"], "--devices", "cpu",
                     "--state", self.state / "w", check=False)
        self.assertNotEqual(worker.returncode, 0)
        self.assertIn("give its address", worker.stderr)

    def test_the_tokens_cluster_is_meant(self):
        """Two coordinators answer (each on a port of its own for machines, one of them on the port for queries)."""
        first = self.coordinator()
        second = self.coordinator("--discovery-port", 7472)
        worker = run("ip", "netns", "exec", B, pool.BIN / "lanyard-worker", "--join", "auto", "--token", second["token"], "--devices", "cpu",
                     "--state", self.state / "w", check=False)
        self.assertIn("other clusters answered", worker.stderr)
        self.assertNotEqual(first["token"], second["token"])


if __name__ == "__main__":
    pool.main()
