#!/usr/bin/env python3
"""Every verb and a pool whose state is anywhere: found, and no message names another address or scheme. What is refused at
once: ports that are taken and limits that nothing fits into."""
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

import pool

QUICK = 30  # seconds, on a machine that does much else; what is refused "at once" takes a hundredth
# What makes a verb short, or gives it something to work on. A verb that is not here is tried as it stands.
ARGUMENTS = {
    "load": ["--requests", "1", "--users", "1", "--prompt-tokens", "4", "--generate", "1"],
    "run": ["--prompt", "hi", "--max-tokens", "1"],
    "discover": ["--timeout-ms", "100"],
    "gpu-check": ["--small", "--no-probe"],
    "node drain": ["--wait", "0"],
}
ADDRESS = re.compile(r"https?://[^\s'\",;)]+|(?:127\.0\.0\.1|localhost|\[::1\]):\d+")


def addresses(text):
    """Those that could be taken for the pool's: a name under .example (RFC 2606) is an example of another."""
    return {found for found in ADDRESS.findall(text) if not re.search(r"\.example(:\d+)?$", found)}


def help_of(*verb, env):
    return pool.lanyard(*verb, "--help", env=env).stdout.decode()


def verbs(env, *above):
    """Every verb, with the nouns before it, as the help lists them."""
    listed = re.search(r"^Subcommands:\n((?:  .*\n?)+)", help_of(*above, env=env), re.MULTILINE)
    if listed is None:
        return [above]
    names = re.findall(r"^  ([a-z][\w-]*)", listed[1], re.MULTILINE)
    return [verb for name in names for verb in verbs(env, *above, name)]


def required(text):
    """An argument for each that the help calls required."""
    return ["nobody" for _ in re.findall(r"^  [A-Z][A-Za-z_-]* .*REQUIRED", text, re.MULTILINE)]


class Verbs(unittest.TestCase):
    def setUp(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="lanyard-e2e-"))
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("LANYARD_")} | {"XDG_STATE_HOME": str(self.home)}

    def every_verb(self):
        """Runs each verb; (verb, it talks to a pool, the exit code, all that it said, also as help). `stop` comes last."""
        found = verbs(self.env)
        self.assertGreater(len(found), 20, found)
        for verb in sorted(found, key=lambda v: v == ("stop",)):
            text = help_of(*verb, env=self.env)
            arguments = ARGUMENTS.get(" ".join(verb), []) + required(text)
            done = pool.lanyard(*verb, *arguments, env=self.env, stdin=b"")
            yield " ".join(verb), "--api-key" in text, done.returncode, text + (done.stdout + done.stderr).decode()

    def test_with_a_pool(self):
        for http_open in (False, True):
            with pool.Pool(workers=1, http_open=http_open, state=self.home / "any where" / str(http_open), context=512) as p:
                url = p.ready["url"]
                self.assertTrue(url.startswith("http://" if http_open else "https://"))
                own = {url, url.split("//")[1], *(url + end for end in ("/v1", "/v1/chat/completions"))}
                # Where its processes listen, and from where its worker joined (`node list`).
                own |= set(self.listening(p))
                members = json.loads(pool.lanyard("node", "list", "--json", env=self.env).stdout)["members"]
                own |= {m["from"] for m in members}
                tried = 0
                for verb, talks, code, said in self.every_verb():
                    with self.subTest(verb=verb, http_open=http_open):
                        self.assertEqual(addresses(said) - own, set(), said)
                        self.assertNotIn(": Connection refused", said)
                        self.assertNotIn("no pool was found", said)
                        if talks:
                            self.assertNotEqual(code, 3, said)
                            tried += 1
                self.assertGreater(tried, 10)
                self.assertEqual(p.process.wait(20), 0)  # `stop` was the last of them

    @staticmethod
    def listening(p):
        """The ports on which the processes of the pool listen."""
        pids = [p.ready["pids"]["coordinator"], *(w["pid"] for w in p.ready["workers"])]
        inodes = set()
        for pid in pids:
            for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
                try:
                    inodes.add(os.readlink(fd).removeprefix("socket:[").removesuffix("]"))
                except OSError:
                    pass
        lines = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return ["127.0.0.1:%d" % int(w[1].split(":")[1], 16) for w in lines if w[3] == "0A" and w[9] in inodes]

    def test_without_a_pool(self):
        for verb, talks, code, said in self.every_verb():
            with self.subTest(verb=verb):
                self.assertEqual(addresses(said), set(), said)
                if talks and verb != "doctor":  # that one looks at the machine all the same
                    self.assertEqual(code, 3, said)
                    self.assertIn("lanyard up --model", said)


class AtOnce(unittest.TestCase):
    def setUp(self):
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="lanyard-e2e-"))
        self.addCleanup(shutil.rmtree, self.state, ignore_errors=True)

    def refused(self, program, *args):
        started = time.monotonic()
        done = subprocess.run([str(pool.BIN / program), *map(str, args)], capture_output=True, text=True, timeout=60, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertLess(time.monotonic() - started, QUICK)
        return done.returncode, done.stdout + done.stderr

    def coordinator(self, *args):
        return self.refused("lanyard-coordinator", "--model", pool.MODEL, "--state", self.state, *args)[1]

    def test_a_taken_port_before_the_model_is_read(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            for flags in (("--http", address, "--listen", "127.0.0.1:0"), ("--http", "127.0.0.1:0", "--listen", address)):
                said = self.coordinator(*flags)
                self.assertIn(f"cannot listen on {address}: Address already in use by ", said)
                self.assertIn(f"(process {os.getpid()})", said)
                self.assertIn(flags[flags.index(address) - 1], said)
                self.assertNotIn("hashing", said)
        self.assertEqual(list(self.state.glob("digests-*")), [])

    def test_wrong_addresses_and_names_before_the_model_is_read(self):
        for flags in (("--http", "nonsense"), ("--http", "0.0.0.0:0", "--http-open"), ("--http", "127.0.0.1:0", "--http-name", "https://pc1")):
            self.assertNotIn("hashing", self.coordinator("--listen", "127.0.0.1:0", *flags))

    def test_sizes_without_a_unit(self):
        """Each option that the help shows with a size."""
        tried = []
        for program, base in (("lanyard-worker", ["--plaintext", "--join", "127.0.0.1:9", "--state", self.state]),
                              ("lanyard-coordinator", ["--model", pool.MODEL, "--state", self.state]),
                              ("lanyard", ["up", "--model", pool.MODEL, "--state", self.state, "--port", "0"])):
            verb = base[:1] if program == "lanyard" else []
            text = subprocess.run([str(pool.BIN / program), *verb, "--help"], capture_output=True, text=True, check=True).stdout
            for option, words in re.findall(r"^  (--[\w-]+) (.*(?:\n {6,}.*)*)", text, re.MULTILINE):
                if re.search(r"\d[MG]iB", words):
                    tried.append(option)
                    code, said = self.refused(program, *base, option, "40")
                    self.assertEqual(code, 2, said)
                    self.assertIn(option + ": '40' is 40 B; at least ", said)
                    self.assertIn("40GiB", said)
                # Counts say what they may be, and the parser holds them to it.
                if re.match(r"(U?INT|FLOAT)", words) and option != "--ready-fd":
                    self.assertRegex(words, r" in \[", f"{program} {option}")
        self.assertEqual(sorted(tried), ["--cache-limit", "--memory", "--memory-per-worker", "--vram", "--vram"])

    def test_a_worker_smaller_than_itself(self):
        base = ["--plaintext", "--join", "127.0.0.1:9", "--state", self.state, "--devices", "cpu"]
        code, said = self.refused("lanyard-worker", *base, "--memory", "9MiB")
        self.assertEqual(code, 2, said)
        self.assertRegex(said, r"the limit is 9\.0 MiB and this program alone takes [\d.]+ MiB; .* for example [\d.]+ MiB")
        with self.assertRaises(pool.Refused) as up:
            pool.Pool(workers=1, state=self.state / "up", memory_per_worker="9MiB")
        self.assertEqual(up.exception.code, 2)
        self.assertIn("this program alone takes", up.exception.stderr)

    def test_a_context_without_room_for_a_question(self):
        for context in (1, 8):
            said = self.coordinator("--http", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--context", context)
            self.assertRegex(said, rf"--context {context}: smollm2 takes \d+ tokens for the shortest question.* at least \d+")


if __name__ == "__main__":
    pool.main()
