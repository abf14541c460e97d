"""`lanyard doctor` over a real pool of two workers: nothing to say when all is well, and the right finding for what is broken."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import pool

FAR = "10.99.7.2"  # of this machine's loopback, in a network namespace; taken away in the middle


def can_make_namespaces():
    return subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True).returncode == 0


class Cluster:
    def __init__(self, far=None, memory="300MiB"):
        self.memory = memory
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="lanyard-doctor-"))
        self.processes = []
        ready = self.state / "ready.json"
        self.start("lanyard-coordinator", "--model", pool.MODEL, "--listen", f"{'0.0.0.0' if far else '127.0.0.1'}:0", "--http",
                   "127.0.0.1:0", "--state", self.state / "c", "--workers", 2, "--context", 256, "--ready-file", ready, "--ready-token", 3)
        end = time.time() + pool.START_SECONDS
        while not ready.exists() or not ready.read_text().strip():
            assert time.time() < end, (self.state / "0.log").read_text()
            time.sleep(0.1)
        self.ready = json.loads(ready.read_text())
        self.join = "127.0.0.1:" + self.ready["grpc"].rsplit(":", 1)[1]
        self.workers = {name: self.worker(name, listen) for name, listen in (("pc-1", "127.0.0.1:0"), ("pc-2", f"{far or '127.0.0.1'}:0"))}

    def start(self, program, *args):
        log = open(self.state / f"{len(self.processes)}.log", "w")
        process = subprocess.Popen([str(pool.BIN / program), *map(str, args)], stdout=log, stderr=log)
        log.close()
        self.processes.append(process)
        return process

    def worker(self, name, listen):
        return self.start("lanyard-worker", "--join", self.join, "--token", self.ready["token"], "--name", name, "--listen", listen, "--state",
                          self.state / name, "--memory", self.memory, "--threads", 1, "--devices", "cpu")

    def close(self):
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.state, ignore_errors=True)

    def cli(self, *args):
        env = {k: v for k, v in os.environ.items() if not k.startswith("LANYARD_")} | {"XDG_STATE_HOME": str(self.state / "home")}
        return subprocess.run([str(pool.LANYARD), *map(str, args)], capture_output=True, text=True, env=env, timeout=120)

    def doctor(self, *args, state="pc-1"):
        done = self.cli("doctor", "--json", "--admin", self.state / "c/admin", "--state", self.state / state, *args)
        report = json.loads(done.stdout)
        assert (done.returncode == 1) == bool(report["findings"]), (done.returncode, done.stderr)
        assert (done.returncode == 0) == report["healthy"], (done.returncode, done.stderr)
        assert report["healthy"] == (not report["findings"] and not report["not_looked_at"])
        # What this test's machine itself lacks is not the test's.
        mine = [f for f in report["findings"] if not (f["check"] in ("memory", "disk", "isa", "card"))]
        return report, {(f["where"], f["check"]) for f in mine}

    def wait_ready(self):
        end = time.time() + 60
        while '"state":"ready"' not in self.cli("node", "status", "--json", "--admin", self.state / "c/admin").stdout.replace(" ", ""):
            assert time.time() < end, "\n".join(p.read_text()[-2000:] for p in self.state.glob("*.log"))
            time.sleep(0.2)


class Doctor(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster()
        cls.cluster.wait_ready()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.close()

    def test_healthy_has_no_findings(self):
        report, found = self.cluster.doctor("--deep")
        self.assertEqual(found, set(), report["findings"])
        links = {(l["from"], l["to"]): l for l in report["pool"]["links"]}
        self.assertEqual(set(links), {("pc-1", "pc-2"), ("pc-2", "pc-1")})
        for link in links.values():
            self.assertEqual(link["code"], "OK")
            self.assertGreater(link["rtt_median_ms"], 0)
            self.assertGreater(link["bytes_per_second"], 1e6)
            self.assertGreaterEqual(link["mtu_bytes"], 1280)
        for node in report["pool"]["nodes"]:
            self.assertLess(abs(node["clock_skew_s"]), 2)
            self.assertEqual(node["key_mode"], 0o600)
            self.assertGreater(node["certificate_ends_unix_s"], time.time() + 3600)
        text = self.cluster.cli("doctor", "--node", "pc-2", "--admin", self.cluster.state / "c/admin").stdout
        self.assertIn("round trip", text)

    def test_a_key_that_others_can_read(self):
        key = self.cluster.state / "pc-2/identity/node.key"
        key.chmod(0o644)
        try:
            report, found = self.cluster.doctor()
            self.assertEqual(found, {("pc-2", "key")}, report["findings"])
            self.assertIn("chmod 600", report["findings"][-1]["next"])
            # And on the machine itself.
            self.assertIn(("this machine", "key"), self.cluster.doctor(state="pc-2")[1])
        finally:
            key.chmod(0o600)

    def test_a_broken_identity(self):
        broken = self.cluster.state / "broken"
        shutil.copytree(self.cluster.state / "pc-1/identity", broken / "identity")
        shutil.copy(self.cluster.state / "pc-2/identity/node.crt", broken / "identity/node.crt")  # another key's
        self.assertIn(("this machine", "certificate"), self.cluster.doctor(state="broken")[1])

    def test_damaged_weights(self):
        kept = self.cluster.state / "damaged/weights"
        kept.mkdir(parents=True)
        (kept / ("ab" * 32)).write_bytes(b"not these")
        self.assertEqual(self.cluster.doctor(state="damaged")[1], set())
        self.assertEqual(self.cluster.doctor("--deep", state="damaged")[1], {("this machine", "weights")})

    def test_an_unknown_machine_and_a_silent_one(self):
        report, found = self.cluster.doctor("--node", "pc-9")
        self.assertEqual(found, {("pc-9", "lost")})
        # The coordinator has answered, and what it said stands there.
        self.assertEqual([n for n in report["not_looked_at"] if n["where"] == "coordinator"], [])

    def test_nobody_is_warned_of_a_doctor(self):
        for _ in range(2):
            self.cluster.doctor()
        time.sleep(1.5)
        logs = [p for p in self.cluster.state.glob("*.log") if "that do not speak TLS" in p.read_text()]
        self.assertEqual(logs, [], [p.read_text() for p in logs])

    def test_the_coordinator_is_not_there(self):
        for url, check, words in (("https://127.0.0.1:1", "port", "refused"), ("https://no-such-host.invalid:1", "name", "known")):
            done = self.cluster.cli("doctor", "--json", "--url", url, "--state", self.cluster.state / "pc-1")
            findings = [f for f in json.loads(done.stdout)["findings"] if f["where"] == "coordinator"]
            self.assertEqual([f["check"] for f in findings], [check], findings)
            self.assertIn(words, findings[0]["what"] + findings[0]["cause"])
            self.assertEqual(done.returncode, 1)

    def test_four_failures_have_four_messages(self):
        """No route, a wrong token, another cluster's; the fourth, another version, is worker/daemon_test.cc's."""
        good = self.cluster.ready["token"]

        def join(address, token):
            args = ["--join", address, "--token", token, "--name", "pc-8", "--devices", "cpu", "--state", tempfile.mkdtemp(dir=self.cluster.state)]
            done = subprocess.run([str(pool.BIN / "lanyard-worker"), *args], capture_output=True, text=True, timeout=60)
            self.assertNotEqual(done.returncode, 0)
            return done.stderr

        self.assertIn("cannot reach the coordinator at 127.0.0.1:1", join("127.0.0.1:1", good))
        self.assertIn("altered", join(self.cluster.join, good[:30] + ("A" if good[30] != "A" else "B") + good[31:]))
        other = Cluster()
        try:
            self.assertIn("not of the one that the token is for", join(self.cluster.join, other.ready["token"]))
        finally:
            other.close()


class Lost(unittest.TestCase):
    def test_a_machine_that_stopped(self):
        cluster = Cluster()
        try:
            cluster.wait_ready()
            cluster.workers["pc-2"].send_signal(signal.SIGSTOP)
            time.sleep(3)
            self.assertIn(("pc-2", "lost"), cluster.doctor()[1])
        finally:
            cluster.close()


class TooSmall(unittest.TestCase):
    def test_machines_with_too_little_memory(self):
        cluster = Cluster(memory="40MiB")
        try:
            end = time.time() + 30
            while ("coordinator", "pool") not in (found := cluster.doctor())[1] or "no plan fits" not in str(found[0]["findings"]):
                self.assertLess(time.time(), end, found)
                time.sleep(0.3)
        finally:
            cluster.close()


class Blocked(unittest.TestCase):
    """Runs by its name alone, in a network namespace that the test below makes."""

    def test_a_stage_port_that_nobody_reaches(self):
        cluster = Cluster(far=FAR)
        try:
            cluster.wait_ready()
            self.assertEqual(cluster.doctor()[1], set())
            subprocess.run(["ip", "addr", "del", FAR + "/32", "dev", "lo"], check=True)
            report, found = cluster.doctor()
            self.assertIn(("pc-1 -> pc-2", "port"), found, report["findings"])
            self.assertNotIn(("pc-2 -> pc-1", "port"), found)
        finally:
            cluster.close()


class Namespaces(unittest.TestCase):
    def test_in_a_namespace(self):
        if not can_make_namespaces():
            self.skipTest("this user cannot make network namespaces (unshare -n)")
        script = f"ip link set lo up && ip addr add {FAR}/32 dev lo && ip route add blackhole default && exec {sys.executable} {__file__} Blocked"
        done = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, text=True, timeout=200)
        self.assertEqual(done.returncode, 0, done.stderr[-4000:])
        self.assertIn("Ran 1 test", done.stderr)


def load_tests(loader, tests, pattern):
    return unittest.TestSuite(t for suite in tests for t in suite if not isinstance(t, Blocked))


if __name__ == "__main__":
    pool.main()
