#!/usr/bin/env python3
"""The machine of a worker goes to sleep (logind, played by python-dbusmock): the worker leaves its pool while logind waits for it, and is back
soon after it woke."""
import os
import re
import socket
import subprocess
import time
import unittest

import pool
from cluster import Cluster, Process, Stream

LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1")
BACK_WITHIN = 3.0  # seconds after the machine woke


class Logind:
    """A system bus of its own with a logind on it that says what it is told to say."""

    def __init__(self, folder):
        self.socket = folder / "bus"
        self.address = f"unix:path={self.socket}"
        self.start()

    def start(self):
        self.bus = Process(self.socket.with_suffix(".log"), ["dbus-daemon", "--session", "--nofork", f"--address={self.address}"])
        self.wait(self.socket.exists, self.bus.text)
        self.mock = Process(self.socket.with_suffix(".mock"), ["env", f"DBUS_SYSTEM_BUS_ADDRESS={self.address}", "/usr/bin/python3", "-m",
                                                                "dbusmock", "--system", "--template", "logind"])
        self.wait(lambda: self.inhibitors() is not None, self.mock.text)

    def stop(self):
        self.mock.stop()
        self.bus.stop()
        self.socket.unlink(missing_ok=True)

    @staticmethod
    def wait(what, why=lambda: "", seconds=20):
        end = time.monotonic() + seconds
        while not what():
            if time.monotonic() > end:
                raise TimeoutError(why())
            time.sleep(0.02)

    def call(self, *words):
        return subprocess.run(["busctl", f"--address={self.address}", "call", *LOGIND, *words], capture_output=True, text=True, timeout=10,
                              check=False)

    def inhibitors(self):
        """How many locks of Lanyard's delay a sleep; None: there is no logind."""
        out = self.call("org.freedesktop.login1.Manager", "ListInhibitors")
        return len(re.findall('"sleep" "Lanyard" "[^"]*" "delay"', out.stdout)) if out.returncode == 0 else None

    def prepare_for_sleep(self, sleeps):
        out = self.call("org.freedesktop.DBus.Mock", "EmitSignal", "sssav", "org.freedesktop.login1.Manager", "PrepareForSleep", "b", "1", "b",
                        str(sleeps).lower())
        if out.returncode != 0:
            raise RuntimeError(out.stderr)


class Sleep(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster(context=1024, users=2)
        self.addCleanup(self.cluster.close)
        self.logind = Logind(self.cluster.folder)
        self.addCleanup(self.logind.stop)
        self.cluster.join("w1")
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = self.logind.address
        self.cluster.join("w2")
        del os.environ["DBUS_SYSTEM_BUS_ADDRESS"]
        self.key = self.cluster.cli("key", "create", "anna").strip()
        self.logind.wait(lambda: self.logind.inhibitors() == 1, self.cluster.workers["w2"].text)

    def here(self):
        return {node["name"] for node in self.cluster.status()["nodes"] if node["state"] != "lost"}

    def test_it_leaves_before_and_is_back_after(self):
        self.cluster.wait_ready()
        undisturbed = Stream(self.cluster, self.key)
        undisturbed.join(120)
        self.assertTrue(undisturbed.done, undisturbed.error)
        stream = Stream(self.cluster, self.key)
        stream.wait_tokens(20)
        self.logind.prepare_for_sleep(True)
        started = time.monotonic()
        self.logind.wait(lambda: self.logind.inhibitors() == 0, self.cluster.workers["w2"].text)
        print(f"the machine may sleep after {time.monotonic() - started:.2f} s", flush=True)
        self.assertNotIn("w2", self.here(), "it left before the machine slept")
        stream.join(120)
        self.assertTrue(stream.done, stream.error)
        self.assertEqual(stream.text, undisturbed.text)
        self.assertNotIn("w2", self.here())
        self.logind.prepare_for_sleep(False)
        started = time.monotonic()
        self.logind.wait(lambda: "w2" in self.here(), self.cluster.workers["w2"].text)
        took = time.monotonic() - started
        print(f"back {took:.2f} s after it woke; the longest pause of the stream was {stream.longest_gap:.2f} s", flush=True)
        self.assertLess(took, BACK_WITHIN)
        self.assertEqual(self.logind.inhibitors(), 1, "the next sleep is delayed too")

    def test_a_bus_that_ends_wakes_it(self):
        self.logind.prepare_for_sleep(True)
        self.logind.wait(lambda: "w2" not in self.here())
        self.logind.stop()
        self.logind.wait(lambda: "w2" in self.here(), self.cluster.workers["w2"].text)
        self.logind.start()
        self.logind.wait(lambda: self.logind.inhibitors() == 1, self.cluster.workers["w2"].text, seconds=40)


class HungBus(unittest.TestCase):
    def test_a_bus_that_never_answers_holds_nothing_up(self):
        with Cluster(context=512) as c, socket.socket(socket.AF_UNIX) as bus:
            bus.bind(str(c.folder / "hung"))
            bus.listen()
            os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={c.folder / 'hung'}"
            self.addCleanup(os.environ.pop, "DBUS_SYSTEM_BUS_ADDRESS")
            worker = c.join("w1")
            c.wait_ready()
            started = time.monotonic()
            worker.process.terminate()
            self.assertEqual(worker.process.wait(timeout=20), 0)
            self.assertLess(time.monotonic() - started, 5)


if __name__ == "__main__":
    pool.main()
