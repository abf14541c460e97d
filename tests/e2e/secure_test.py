#!/usr/bin/env python3
"""A pool as `lanyard up` makes it with nothing switched on: HTTPS with an API key on loopback, mutual TLS behind it."""
import json
import os
import pathlib
import re
import shutil
import ssl
import stat
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

import pool

QUESTION = "What is the capital of France?"
WORD = "France"  # that the answer has; a model this small knows no better
# Reads URL, key and CA from its environment alone.
OPENAI = f"""
import openai
client = openai.OpenAI(max_retries=0)
ask = dict(model=client.models.list().data[0].id, messages=[dict(role="user", content="{QUESTION}")], temperature=0, max_tokens=24)
whole = client.chat.completions.create(**ask).choices[0].message.content
parts = [c.choices[0].delta.content or "" for c in client.chat.completions.create(stream=True, **ask) if c.choices]
assert whole == "".join(parts), parts
print(whole, end="")
"""


class Secure(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.home = pathlib.Path(tempfile.mkdtemp(prefix="lanyard-e2e-"))
        # Without --state the folder would be this one.
        cls.state = cls.home / "lanyard/up/smollm2"
        # Of a user with an own state and nothing of another pool.
        cls.env = {k: v for k, v in os.environ.items() if not k.startswith("LANYARD_")} | {"XDG_STATE_HOME": str(cls.home)}
        cls.pool = pool.Pool(workers=2, http_open=False, state=cls.state, context=512, users=2)

    @classmethod
    def tearDownClass(cls):
        cls.pool.close()
        shutil.rmtree(cls.home, ignore_errors=True)

    def cli(self, *args, code=0, **env):
        done = pool.lanyard(*args, env=self.env | env)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return (done.stderr if code else done.stdout).decode()

    def status(self, path, key=None):
        url, context = self.pool.ready["url"], ssl.create_default_context(cafile=self.pool.ready["ca"])
        request = urllib.request.Request(url + path, headers={"Authorization": "Bearer " + key} if key else {})
        try:
            with urllib.request.urlopen(request, context=context, timeout=10) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as e:
            with e:
                return e.code, e.read()

    def test_the_key_and_where_it_is(self):
        ready = self.pool.ready
        key_file = self.state / "api.key"
        self.assertRegex(ready["url"], r"^https://127\.0\.0\.1:\d+$")
        self.assertRegex(ready["api_key"], r"^lyk_[\w-]{61}$")
        self.assertEqual((key_file.read_text(), stat.S_IMODE(key_file.stat().st_mode)), (ready["api_key"], 0o600))
        logs = "".join(f.read_text(errors="replace") for f in (self.state / "logs").iterdir())
        self.assertIn("coordinator", logs)
        self.assertNotIn(ready["api_key"], logs)
        for pid in [self.pool.process.pid, ready["pids"]["coordinator"], *(w["pid"] for w in ready["workers"])]:
            line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() + pathlib.Path(f"/proc/{pid}/environ").read_bytes()
            self.assertIn(b"lanyard", line)
            self.assertNotIn(ready["api_key"].encode(), line)

    def test_who_may_do_what(self):
        key = self.pool.ready["api_key"]
        self.assertEqual(self.status("/health"), (200, b'{"status":"ok"}'))
        for path in ("/v1/models", "/admin/v1/status", "/readyz"):
            self.assertEqual(self.status(path)[0], 401, path)
        self.assertEqual(self.status("/v1/models", key)[0], 200)
        self.assertEqual(self.status("/admin/v1/status", key)[0], 403)
        self.assertIn(WORD, self.pool.chat(QUESTION, max_tokens=24))
        with self.assertRaises(ssl.SSLCertVerificationError):  # the system's CAs do not know it
            try:
                urllib.request.urlopen(self.pool.ready["url"] + "/health", context=ssl.create_default_context(), timeout=10)
            except urllib.error.URLError as e:
                raise e.reason from None

    def test_the_command_line_finds_it_by_itself(self):
        listed = json.loads(self.cli("list", "--json"))["models"][0]
        self.assertEqual((listed["id"], listed["context"], listed["state"]), ("smollm2", 512, "ready"))
        self.assertEqual(len(json.loads(self.cli("node", "status", "--json"))["nodes"]), 2)
        answer = self.cli("run", "--temperature", "0", "--max-tokens", "24", "--prompt", QUESTION)
        self.assertEqual(answer, self.pool.chat(QUESTION, max_tokens=24) + "\n")
        self.assertEqual([k["name"] for k in json.loads(self.cli("key", "list", "--json"))["keys"]], ["up"])
        # With the key alone.
        ready = self.pool.ready
        with_key = {"LANYARD_URL": ready["url"], "LANYARD_CA": ready["ca"], "LANYARD_API_KEY": ready["api_key"]}
        listed |= {"bytes": None, "state": None, "digest": None}
        self.assertEqual(json.loads(self.cli("list", "--json", **with_key))["models"], [listed])
        self.assertIn("administrator", self.cli("node", "status", code=4, **with_key))

    def test_several_pools_are_told_apart(self):
        with pool.Pool(workers=1, http_open=False, state=self.home / "lanyard/up/other", context=128) as other:
            error = self.cli("list", code=1)
            for p in (self.pool, other):
                self.assertIn(f"--pool {pathlib.Path(p.state).name}   {p.ready['url']}", error)
            for which in (("--pool", "other"), ("--pool", other.state), ("--admin", other.ready["admin"])):
                listed = json.loads(self.cli("list", "--json", *which))["models"][0]
                self.assertEqual(listed["context"], 128)
        self.cli("list")  # one again

    def test_it_is_not_led_astray_by_the_environment(self):
        """A user whose environment speaks of another pool starts one here."""
        astray = {"LANYARD_URL": "https://192.0.2.1:1", "LANYARD_API_KEY": "lyk_wrong", "LANYARD_ADMIN": "/nowhere", "LANYARD_CA": "/nowhere"}
        os.environ.update(astray)
        try:
            with pool.Pool(workers=1, http_open=False) as p:
                self.assertEqual(p.complete("Hello", max_tokens=1)["object"], "text_completion")
        finally:
            for name in astray:
                del os.environ[name]


class Restart(unittest.TestCase):
    def test_the_key_stays_while_it_is_good(self):
        state = pathlib.Path(tempfile.mkdtemp(prefix="lanyard-e2e-"))
        self.addCleanup(shutil.rmtree, state, ignore_errors=True)
        key_file = state / "api.key"

        def key(*change):
            with pool.Pool(workers=1, http_open=False, state=state) as p:
                self.assertEqual(p.complete("Hello", max_tokens=1)["object"], "text_completion")
                for args in change:
                    self.assertEqual(pool.lanyard(*args, "--admin", p.ready["admin"]).returncode, 0)
            self.assertEqual((key_file.read_text(), stat.S_IMODE(key_file.stat().st_mode)), (p.ready["api_key"], 0o600))
            return p.ready["api_key"]

        first = key()
        key_file.chmod(0o644)
        self.assertEqual(key(["key", "revoke", "up"]), first)
        second = key()  # the one in the file is revoked
        key_file.unlink()
        third = key()
        key_file.write_text("lyk_nonsense")
        self.assertEqual(len({first, second, third, key()}), 4)

    def test_the_printed_lines_work_as_they_stand(self):
        state = tempfile.mkdtemp(prefix="lanyard e2e-")  # with a space
        self.addCleanup(shutil.rmtree, state, ignore_errors=True)
        process = subprocess.Popen([pool.LANYARD, "up", "--model", pool.MODEL, "--workers", "1", "--port", "0", "--state", state,
                                    "--context", "512"],  # the printed question has no other bound on its answer
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            lines = []
            while not lines or "lanyard run" not in lines[-1]:
                lines.append(process.stdout.readline().rstrip("\n"))
                self.assertTrue(lines[-1] or len(lines) < 20, lines)
            print("\n".join(lines), flush=True)
            curl, openai, run = lines[-3:]
            self.assertIn("lanyard clients --admin", process.stdout.readline())
            if shutil.which("curl"):
                answer = json.loads(self.shell(curl))
                self.assertEqual(answer["object"], "chat.completion")
            python = pathlib.Path(os.environ.get("LANYARD_VENV") or pool.SOURCE / "build/venv") / "bin/python"
            if python.exists():
                program = pathlib.Path(state) / "program.py"
                program.write_text(OPENAI)
                self.assertIn(WORD, self.shell(re.sub("python3 .*", f"{python} '{program}'", openai)))
            question = f" --temperature 0 --max-tokens 24 --prompt '{QUESTION}'"
            self.assertIn(WORD, self.shell(run.replace("lanyard run", f"{pool.LANYARD} run", 1) + question))
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()

    def shell(self, line):
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, (line, done.stderr))
        return done.stdout


if __name__ == "__main__":
    pool.main()
