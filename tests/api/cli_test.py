"""`lanyard run`, `list`, `ps`, `node status`, `load` and `stop` against a server with a fake pool."""
import argparse
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

ARGS = argparse.Namespace(lanyard="", server="")


class Cli(unittest.TestCase):
    def setUp(self):
        self.runtime = tempfile.mkdtemp(prefix="lanyard-cli-")
        self.addCleanup(shutil.rmtree, self.runtime, ignore_errors=True)
        self.server = subprocess.Popen([ARGS.server, "2000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.server.stdout.readline().strip()
        self.addCleanup(self.stop_server)

    def stop_server(self):
        self.server.stdin.close()
        self.server.wait(10)
        self.server.stdout.close()

    def env(self):
        # No pool of others is found.
        return {**os.environ, "LANYARD_URL": self.url, "TERM": "dumb", "XDG_RUNTIME_DIR": self.runtime}

    def run_cli(self, *args, stdin="", code=0):
        done = subprocess.run([ARGS.lanyard, *args], input=stdin, capture_output=True, text=True, env=self.env(), timeout=30)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout if code == 0 else done.stderr

    def metric(self, name):
        with urllib.request.urlopen(self.url + "/metrics", timeout=5) as response:
            for line in response.read().decode().splitlines():
                if line.startswith(name + " "):
                    return int(line.split()[1])
        return 0

    def eventually(self, condition):
        end = time.monotonic() + 5
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.02)
        return False

    def test_one_question(self):
        first = self.run_cli("run", "--prompt", "hello", "--temperature", "0")
        self.assertTrue(first.endswith("\n") and len(first.split()) == 12, first)
        self.assertEqual(self.run_cli("run", "--temperature", "0", stdin="hello"), first)
        self.assertEqual(self.run_cli("run", "fake/model:1", "--prompt", "hello", "--temperature", "0"), first)
        self.assertEqual(len(self.run_cli("run", "--prompt", "x", "--max-tokens", "3").split()), 3)

    def test_errors_and_exit_codes(self):
        self.assertIn("does not exist", self.run_cli("run", "nope", "--prompt", "x", code=5))
        self.assertIn("worker w2 was lost", self.run_cli("run", "--prompt", "DIE", code=1))
        self.assertIn("maximum context length", self.run_cli("run", "--prompt", "TOO LONG", code=1))
        self.run_cli("run", code=1)
        self.run_cli("run", "--temperature", "9", code=2)
        self.run_cli("node", "status", "zz", code=5)
        error = self.run_cli("list", "--url", "http://127.0.0.1:1", code=3)
        self.assertIn("cannot reach the pool at http://127.0.0.1:1: Connection refused", error)
        self.assertIn("lanyard up", error)

    def test_reads_have_json(self):
        models = json.loads(self.run_cli("list", "--json"))["models"]
        self.assertEqual((models[0]["id"], models[0]["context"]), ("fake/model:1", 4096))
        self.assertEqual(json.loads(self.run_cli("ps", "--json")), {"requests": []})
        status = json.loads(self.run_cli("node", "status", "--json"))
        self.assertEqual([n["name"] for n in status["nodes"]], ["w1", "w2"])
        self.assertEqual(json.loads(self.run_cli("node", "status", "w2", "--json"))["layers"], [10, 11])
        for args in (("list",), ("ps",), ("node", "status"), ("node", "status", "w1")):
            self.assertTrue(self.run_cli(*args).strip())

    def test_an_error_stands_alone(self):
        """After an error nothing stands on stdout: no header of a table, no half of an answer."""
        lists = (("list",), ("ps",), ("node", "status"), ("node", "status", "w1"), ("node", "list"), ("token", "list"),
                 ("key", "list"), ("load", "--requests", "2"), ("run", "--prompt", "x"), ("stop",), ("token", "create"),
                 ("key", "create", "x"), ("node", "drain", "w1"))
        for args in lists:
            for extra in ((), ("--json",)):
                if args[0] == "run" and extra:
                    continue
                with self.subTest(args=args + extra):
                    done = subprocess.run([ARGS.lanyard, *args, *extra, "--url", "http://127.0.0.1:1"], capture_output=True,
                                          text=True, env=self.env(), timeout=30)
                    self.assertEqual((done.returncode, done.stdout), (3, ""), done.stderr)
                    self.assertTrue(done.stderr.startswith("error: "), done.stderr)
        for model in ("/nonexistent.gguf", ARGS.lanyard, "/", "/etc/passwd"):
            said = set()
            for args in (("inspect",), ("plan", "--machines", "/nonexistent.toml"), ("tokenize",), ("detokenize",), ("template",),
                         ("eval", "--prompts", "/etc/passwd"), ("bench",), ("up",)):
                done = subprocess.run([ARGS.lanyard, *args, "--model", model], capture_output=True, text=True,
                                      stdin=subprocess.DEVNULL, env=self.env(), timeout=30)
                self.assertEqual(done.stdout, "", args)
                said.add((done.returncode, done.stderr))
            self.assertEqual(len(said), 1, said)  # the same words by every verb
            code, text = said.pop()
            self.assertIn("No such file" if code == 5 else "not a GGUF file: ", text)

    def test_empty_lists_say_so(self):
        self.assertEqual(self.run_cli("ps"), "No request is running or waiting.\n")
        done = subprocess.run([ARGS.lanyard, "discover", "--timeout-ms", "100", "--port", "9"], capture_output=True, text=True,
                              env=self.env(), timeout=30)
        self.assertEqual((done.returncode, done.stdout), (5, ""), done.stderr)
        done = subprocess.run([ARGS.lanyard, "discover", "--timeout-ms", "100", "--port", "9", "--json"], capture_output=True,
                              text=True, env=self.env(), timeout=30)
        self.assertEqual((done.returncode, json.loads(done.stdout)), (5, {"coordinators": []}))

    def test_help_version_and_wrong_words(self):
        for args in (("--version",), ("version",)):
            self.assertRegex(self.run_cli(*args), r"^lanyard \d+\.\d+\.\d+\n$")
        self.assertEqual(self.run_cli("help", "node", "drain"), self.run_cli("node", "drain", "--help"))
        self.assertEqual(self.run_cli("help", "run"), self.run_cli("run", "--help"))
        self.assertEqual(self.run_cli("help"), self.run_cli("--help"))
        self.assertIn("lanyard run has no verbs", self.run_cli("help", "run", "extra", code=2))
        self.assertIn("lanyard help node drain", self.run_cli("help", "node", "drain", "extra", code=2))
        for args in ((), ("lst",), ("chat",), ("node", "lst"), ("run", "--memry"), ("help", "lst"), ("up",)):
            error = self.run_cli(*args, code=2)
            self.assertTrue(error.startswith("error: "), error)
            self.assertTrue(not args or args[-1] in error.split("\n")[0] or args == ("up",), error)

    def test_load(self):
        out = json.loads(self.run_cli("load", "--users", "4", "--requests", "10", "--prompt-tokens", "16", "--generate", "20", "--json"))
        self.assertEqual((out["requests"], out["errors"], out["completion_tokens"]), (10, 0, 200))
        self.assertGreater(out["tokens_per_s"], 0)
        self.assertLessEqual(out["ttft_ms"]["p50"], out["ttft_ms"]["p99"])
        self.assertGreater(out["between_ms"]["p50"], 0)

    def test_ctrl_c_cancels(self):
        process = subprocess.Popen([ARGS.lanyard, "run", "--prompt", "STALL"], env=self.env(), stderr=subprocess.PIPE)
        self.assertTrue(self.eventually(lambda: self.metric("fake_open") == 1))
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(5), 130)
        process.stderr.close()
        self.assertTrue(self.eventually(lambda: self.metric("fake_cancelled_total") == 1))

    def test_signals_that_end_programs_end_it(self):
        for number, code in ((signal.SIGTERM, 143), (signal.SIGHUP, 129)):
            process = subprocess.Popen([ARGS.lanyard, "run", "--prompt", "STALL"], env=self.env(), stderr=subprocess.PIPE)
            self.assertTrue(self.eventually(lambda: self.metric("fake_open") == 1))
            process.send_signal(number)
            self.assertEqual(process.wait(5), code)
            process.stderr.close()
            self.assertTrue(self.eventually(lambda: self.metric("fake_open") == 0))

    def test_output_that_does_not_arrive_is_an_error(self):
        """Whatever a verb says: the disk is full, or its standard output is closed. Nothing it opens takes the place of that."""
        verbs = (("--help",), ("help", "run"), ("run", "--help"), ("--version",), ("version",), ("list",), ("list", "--json"), ("ps",),
                 ("ps", "--json"), ("node", "status"), ("node", "status", "w1"), ("node", "status", "--json"),
                 ("run", "--prompt", "x"), ("run", "--prompt", "FLOOD"), ("load", "--requests", "1"))
        for args in verbs:
            for closed in (False, True):
                with self.subTest(args=args, closed=closed), open("/dev/full", "wb") as full:
                    # The shell closes it; Popen would put /dev/null there.
                    command = ["sh", "-c", 'exec "$0" "$@" >&-', ARGS.lanyard, *args] if closed else [ARGS.lanyard, *args]
                    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True,
                                          env=self.env(), timeout=30, check=False)
                    self.assertEqual(done.returncode, 1, done.stderr)
                    self.assertIn("error: cannot write to standard output: ", done.stderr)
                    self.assertIn("Bad file descriptor" if closed else "No space left", done.stderr)

    def test_an_option_that_is_given_is_not_empty(self):
        for args in (("list", "--url", ""), ("stop", "--pool", ""), ("stop", "--state", ""), ("stop", "--admin", ""),
                     ("node", "status", ""), ("node", "revoke", ""), ("node", "drain", ""), ("token", "revoke", ""), ("key", "revoke", ""),
                     ("run", "--prompt", "")):
            error = self.run_cli(*args, code=2)
            self.assertRegex(error, rf"^error: {args[-2] if args[-2].startswith('--') else '[A-Z-]+'}.*: ")
            self.assertRegex(error.splitlines()[0], "is empty|the URL ''")
        self.assertTrue(self.run_cli("list"))  # nothing was stopped

    def test_conversation_on_a_terminal(self):
        pid, fd = pty.fork()
        if pid == 0:
            os.execve(ARGS.lanyard, [ARGS.lanyard, "run"], self.env())
        out = b""

        def until(text, seconds=10):
            nonlocal out
            end = time.monotonic() + seconds
            while text not in out and time.monotonic() < end:
                if select.select([fd], [], [], 0.1)[0]:
                    try:
                        out += os.read(fd, 65536)
                    except OSError:
                        break
            self.assertIn(text, out)
            before, out = out.split(text, 1)
            return before

        until(b">>> ")
        for line, says in ((b"/set temperature 0\n", b"temperature  0"), (b"/set max_tokens 3\n", b"max_tokens   3"),
                           (b"/set nonsense 1\n", b"There is no setting 'nonsense'"), (b"/show\n", b"temperature  0")):
            os.write(fd, line)
            until(says)
            until(b">>> ")
        os.write(fd, b"hello\n")
        until(b">>> ")
        os.write(fd, b'"""two\n')
        until(b"... ")
        os.write(fd, b'lines"""\n')
        until(b">>> ")
        os.write(fd, b"STALL\n")
        self.assertTrue(self.eventually(lambda: self.metric("fake_open") == 1))
        os.write(fd, b"\x03")
        self.assertTrue(self.eventually(lambda: self.metric("fake_cancelled_total") == 1))
        os.write(fd, b"/clear\n")
        until(b"The conversation is forgotten.")
        os.write(fd, b"/bye\n")
        _, status = os.waitpid(pid, 0)
        os.close(fd)
        self.assertEqual(os.waitstatus_to_exitcode(status), 0)

    def test_stop(self):
        self.assertIn("stopped", self.run_cli("stop"))
        self.run_cli("stop", code=3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lanyard", required=True)
    parser.add_argument("--server", required=True)
    _, rest = parser.parse_known_args(namespace=ARGS)
    unittest.main(argv=[sys.argv[0]] + rest, verbosity=2)
