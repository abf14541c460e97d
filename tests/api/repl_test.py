"""`lanyard run` as a person meets it: keys, pastes and locales on a pseudo terminal, words and pipes without one.

The server is a stand-in that keeps what it was asked, so that a test sees what arrived."""
import argparse
import fcntl
import http.server
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest

ARGS = argparse.Namespace(lanyard="")
HELLO = "Grüße aus Zürich: 你好 🌍"
PASTE, END = b"\x1b[200~", b"\x1b[201~"
UP, DOWN, LEFT, BACK = b"\x1b[A", b"\x1b[B", b"\x1b[D", b"\x7f"


class Recorder(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies = []
        self.models = ["smollm2", "Gemma 3"]
        self.go_on = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        body = json.dumps({"object": "list", "data": [{"id": m, "object": "model"} for m in self.server.models]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        question = body["messages"][-1]["content"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        if "WAIT" in question:
            self.piece("begins ")
            self.server.go_on.wait(20)
        if "ESCAPE" in question:
            self.piece("\x1b]0;title\x07")
        self.piece("answer %d" % len(self.server.bodies))
        self.event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
        self.send("[DONE]")
        self.close_connection = True

    def piece(self, text):
        self.event({"choices": [{"index": 0, "delta": {"content": text}}]})

    def event(self, value):
        self.send(json.dumps(value))

    def send(self, data):
        try:
            self.wfile.write(b"data: " + data.encode() + b"\n\n")
            self.wfile.flush()
        except OSError:  # the client ended the answer
            pass


class Terminal:
    """A program on a pseudo terminal."""

    def __init__(self, test, argv, env):
        self.test = test
        self.out = b""
        self.all = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(argv[0], argv, env)
        self.resize(24, 80)
        test.addCleanup(self.end)

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def send(self, data):
        data = data.encode() if isinstance(data, str) else data
        while data:
            if select.select([self.fd], [], [], 0)[0]:
                self.read()
            data = data[os.write(self.fd, data[:512]):]

    def keys(self, data):
        """As a hand types: one byte a read."""
        for i in range(len(data)):
            self.send(data[i:i + 1])
            time.sleep(0.005)

    def read(self):
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            data = b""
        self.out += data
        self.all += data
        return data

    def until(self, text, seconds=20):
        text = text.encode() if isinstance(text, str) else text
        end = time.monotonic() + seconds
        while text not in self.out and time.monotonic() < end:
            if select.select([self.fd], [], [], 0.1)[0] and not self.read():
                break
        self.test.assertIn(text, self.out)
        before, self.out = self.out.split(text, 1)
        return before

    def exit_code(self):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if select.select([self.fd], [], [], 0.1)[0]:
                self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        self.test.fail("it does not end")


class Repl(unittest.TestCase):
    def setUp(self):
        self.server = Recorder()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.addCleanup(self.server.go_on.set)
        self.home = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.home)

    def env(self, **more):
        env = {k: v for k, v in os.environ.items() if k not in ("LANG", "LANGUAGE") and not k.startswith(("LC_", "LANYARD_"))}
        url = "http://127.0.0.1:%d" % self.server.server_address[1]
        env.update({"LANYARD_URL": url, "TERM": "xterm", "HOME": self.home, "LANG": "C.UTF-8", **more})
        env.pop("XDG_STATE_HOME", None)
        return env

    def repl(self, *args, **env):
        terminal = Terminal(self, [ARGS.lanyard, "run", *args], self.env(**env))
        terminal.until(">>> ")
        return terminal

    def asked(self):
        return self.server.bodies[-1]["messages"][-1]["content"] if self.server.bodies else None

    def question(self, terminal, keys, expected):
        """Typing `keys` asks exactly one question, this."""
        count = len(self.server.bodies)
        terminal.keys(keys.encode() if isinstance(keys, str) else keys)
        terminal.until("answer %d" % (count + 1))
        self.assertEqual(self.asked(), expected)
        self.assertEqual(len(self.server.bodies), count + 1)
        terminal.until(">>> ")

    def run_cli(self, *args, stdin="", code=0, **env):
        done = subprocess.run([ARGS.lanyard, "run", *args], input=stdin, capture_output=True, text=True, encoding="utf-8", env=self.env(**env), timeout=30)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout if code == 0 else done.stderr

    # Characters.

    def test_every_character_arrives_in_every_locale(self):
        for locale in ({"LANG": "C.UTF-8"}, {"LANG": "C"}, {"LANG": "POSIX"}, {"LANG": "xx_YY"}, {"LANG": "xx_YY.UTF-8"},
                       {"LC_ALL": "de_DE.ISO-8859-1"}, {"LANG": ""}, {"LC_ALL": "C", "TERM": "dumb"}):
            with self.subTest(locale=locale):
                terminal = self.repl(**locale)
                self.question(terminal, HELLO + "\r", HELLO)
                self.assertIn("Grüße".encode(), terminal.all)
                self.assertIn("你好".encode(), terminal.all)
                self.question(terminal, "\u00a0 e\u0301 ẞ ﷽ \U0010ffff ć\r", "\u00a0 e\u0301 ẞ ﷽ \U0010ffff ć")

    def test_a_locale_changes_no_number(self):
        if shutil.which("localedef") is None or not os.path.exists("/usr/share/i18n/locales/de_DE"):
            self.skipTest("localedef cannot make de_DE here")
        for charset in ("UTF-8", "ISO-8859-1"):
            subprocess.run(["localedef", "-i", "de_DE", "-f", charset, os.path.join(self.home, "de_DE." + charset)], check=False, capture_output=True)
            terminal = self.repl(LOCPATH=self.home, LC_ALL="de_DE." + charset)
            terminal.keys(b"/set temperature 0.25\r")
            terminal.until("temperature  0.25\r\n")
            terminal.keys(b"/set temperature 0,5\r")
            terminal.until("temperature cannot be '0,5'")
            self.question(terminal, HELLO + "\r", HELLO)
            self.assertEqual(self.server.bodies[-1]["temperature"], 0.25)
        self.run_cli("x", "--temperature", "0.5", "--prompt", "x", LOCPATH=self.home, LC_ALL="de_DE.UTF-8", code=5)
        self.run_cli("--temperature", "0.5", "--prompt", "x", LOCPATH=self.home, LC_ALL="de_DE.UTF-8")
        self.assertEqual(self.server.bodies[-1]["temperature"], 0.5)

    def test_keys_edit_whole_characters(self):
        terminal = self.repl()
        wide = "ü你🌍".encode()
        self.question(terminal, wide + BACK + b"x\r", "ü你x")
        self.question(terminal, wide + 3 * BACK + b"x\r", "x")
        self.question(terminal, wide + LEFT + BACK + b"\r", "ü🌍")
        self.question(terminal, wide + b"\x01" + "é".encode() + b"\x05.\r", "éü你🌍.")  # Ctrl-A, Ctrl-E
        self.question(terminal, "Grüße 你好".encode() + b"\x15Welt\r", "Welt")  # Ctrl-U

    def test_history_brings_back_what_was_typed(self):
        terminal = self.repl()
        self.question(terminal, HELLO + "\r", HELLO)
        self.question(terminal, PASTE + "eins\nzwei ü".encode() + END + b"\r", "eins\nzwei ü")
        terminal.keys(b'"""\r')
        terminal.until("... ")
        terminal.keys("drei 你\r".encode())
        terminal.until("... ")
        self.question(terminal, b'vier"""\r', "drei 你\nvier")
        self.question(terminal, UP + b"\r", "drei 你\nvier")
        # Up goes line by line through a text of several lines.
        self.question(terminal, UP * 4 + b"\r", "eins\nzwei ü")
        self.question(terminal, UP * 8 + b"!\r", HELLO + "!")

    # Signals.

    def test_signals_that_end_programs_end_the_conversation(self):
        for number, code in ((signal.SIGTERM, 143), (signal.SIGHUP, 129)):
            for keys, waits in ((b"", ">>> "), (b"half a line", "half a line"), (b'"""open\r', "... "), (b"WAIT\r", "begins ")):
                for term in ("xterm", "dumb"):
                    with self.subTest(number=number, keys=keys, term=term):
                        terminal = self.repl(TERM=term)
                        if keys:
                            terminal.keys(keys)
                            terminal.until(waits)
                        os.kill(terminal.pid, number)
                        self.assertEqual(terminal.exit_code(), code)

    def test_ctrl_c_ends_nothing(self):
        terminal = self.repl()
        os.kill(terminal.pid, signal.SIGINT)
        terminal.until("/bye leaves.")
        terminal.until(">>> ")
        self.question(terminal, HELLO + "\r", HELLO)

    # Pastes.

    def test_a_paste_is_one_question(self):
        text = "/set temperature 0\n/bye\n\n\tGrüße\n/clear\nlast"
        terminal = self.repl()
        terminal.send(PASTE + text.replace("\n", "\r").encode() + b"\r" + END)
        terminal.until("last")
        time.sleep(0.3)
        self.assertEqual(self.server.bodies, [])  # it is shown, and waits
        self.question(terminal, b"!\r", text + "!")
        self.assertNotIn("temperature", self.server.bodies[-1])
        # Edited before it is sent: two lines up, at the end of the first.
        terminal.send(PASTE + b"one\ntwo\nthree" + END)
        terminal.until("three")
        self.question(terminal, UP + UP + b"X" + DOWN + b"Y\r", "oneX\ntwoY\nthree")
        terminal.send(PASTE + b"/bye\n" + END)
        terminal.until("/bye")
        self.assertEqual(len(self.server.bodies), 2)
        terminal.keys(b"\r")
        self.assertEqual(terminal.exit_code(), 0)
        self.assertTrue(terminal.all.rstrip().endswith(b"\x1b[?2004l"), terminal.all[-60:])

    def test_a_long_paste_arrives_whole(self):
        text = "\n".join("Zeile %d: äöü 你好" % i for i in range(3000))
        terminal = self.repl()
        terminal.send(PASTE + text.encode() + END)
        self.question(terminal, b"\r", text)

    def test_a_paste_without_marks_is_one_question(self):
        terminal = self.repl(TERM="dumb")
        self.assertNotIn(b"\x1b", terminal.all)
        time.sleep(1)
        terminal.send("eins ü\n/bye\ndrei\n")
        terminal.until("drei")
        time.sleep(0.3)
        self.assertEqual(self.server.bodies, [])
        self.question(terminal, b"\r", "eins ü\n/bye\ndrei")
        # A program that sends a line and its Enter at once is no paste.
        time.sleep(1)
        terminal.send("single\n")
        terminal.until("answer 2")
        self.assertEqual(self.asked(), "single")

    def test_what_is_sent_during_an_answer_waits_for_its_end(self):
        terminal = self.repl()
        terminal.keys(b"WAIT\r")
        terminal.until("begins ")
        terminal.send(PASTE + "a ü\n/bye\nc".encode() + END)
        time.sleep(0.2)
        self.server.go_on.set()
        answer = terminal.until(">>> ")
        self.assertIn(b"answer 1", answer)
        self.assertNotIn(b"/bye", answer)
        terminal.until("c")
        self.question(terminal, b"\r", "a ü\n/bye\nc")

    def test_alt_enter_starts_a_line(self):
        terminal = self.repl()
        self.question(terminal, b"one\x1b\rtwo\r", "one\ntwo")

    # Texts of several lines.

    def test_nothing_around_the_quotes_is_lost(self):
        terminal = self.repl()
        terminal.keys('Erkläre: """\r'.encode())
        terminal.until("... ")
        terminal.keys("x = 'ü'\r".encode())
        terminal.until("... ")
        self.question(terminal, '""" auf Deutsch\r', 'Erkläre: """\nx = \'ü\'\n""" auf Deutsch')
        self.question(terminal, 'What does """ mean?\r', 'What does """ mean?')

    def test_ctrl_c_in_a_text_says_so_and_keeps_it(self):
        terminal = self.repl()
        terminal.keys(b'"""one\r')
        terminal.until("... ")
        terminal.keys(b"two\r")
        terminal.until("... ")
        terminal.keys(b"\x03")
        terminal.until("This text was dropped (2 lines); the Up key brings it back.")
        terminal.until(">>> ")
        terminal.keys(UP + b"\r")
        terminal.until("... ")
        self.question(terminal, b'three"""\r', "one\ntwo\nthree")

    # Commands.

    def test_commands_are_not_questions(self):
        terminal = self.repl()
        for line, says in ((b"/set temperature 7\r", "a number from 0 to 2"), (b"/set\r", "verbose      off"),
                           (b"/set nonsense 1\r", "There is no setting 'nonsense'"), (b"/shwo\r", "did you mean /show?"),
                           (b"/save my chat\r", "nothing to save yet"), (b"/saev my chat\r", "did you mean /save?")):
            terminal.keys(line)
            terminal.until(says)
            terminal.until(">>> ")
        self.assertEqual(self.server.bodies, [])
        self.question(terminal, b"/etc/hosts: why?\r", "/etc/hosts: why?")
        self.question(terminal, b" /bye?\r", "/bye?")

    def test_a_saved_chat_goes_on(self):
        terminal = self.repl()
        terminal.keys("/set system Sei kurz, bitte: ü\r".encode())
        terminal.until(">>> ")
        self.question(terminal, HELLO + "\r", HELLO)
        terminal.keys("/save mein Gespräch\r".encode())
        terminal.until("Saved 1 question in ")
        path = os.path.join(self.home, ".local/state/lanyard/chats/mein Gespräch.json")
        with open(path, encoding="utf-8") as file:
            saved = json.load(file)
        self.assertEqual([m["content"] for m in saved["messages"]], ["Sei kurz, bitte: ü", HELLO, "answer 1"])
        terminal.keys(b"/bye\r")
        self.assertEqual(terminal.exit_code(), 0)
        terminal = self.repl()
        terminal.keys("/load mein Gespräch\r".encode())
        terminal.until("Loaded 1 question")
        self.question(terminal, b"more\r", "more")
        self.assertEqual(self.server.bodies[-1]["messages"][:3], saved["messages"])

    # What works and shall go on to.

    def test_ctrl_c_and_ctrl_d(self):
        terminal = self.repl()
        terminal.keys(b"WAIT\r")
        terminal.until("begins ")
        terminal.keys(b"\x03")
        terminal.until(">>> ")
        terminal.keys(b"half\x03")
        terminal.until("/bye leaves.")
        terminal.until(">>> ")
        self.question(terminal, b"whole\r", "whole")
        terminal.keys(b"\x04")
        self.assertEqual(terminal.exit_code(), 0)

    def test_resize(self):
        terminal = self.repl()
        terminal.keys(b"one ")
        terminal.resize(40, 20)
        time.sleep(0.1)
        self.question(terminal, b"two " * 10 + b"\r", "one " + "two " * 10)

    def test_ctrl_z(self):
        shell = shutil.which("bash")
        if shell is None:
            self.skipTest("no bash")
        terminal = Terminal(self, [shell, "--norc", "--noprofile", "-i"], self.env(PS1="SHELL$ ", PROMPT_COMMAND=""))
        terminal.until("SHELL$ ")
        terminal.keys(ARGS.lanyard.encode() + b" run\n")
        terminal.until(">>> ")
        terminal.keys("hal\u00fc".encode())
        terminal.until("hal\u00fc")  # with Ctrl-Z the system throws away what was not read yet
        terminal.keys(b"\x1a")
        terminal.until("Stopped")
        terminal.until("SHELL$ ")
        terminal.keys(b"fg\n")
        terminal.until("\x1b[?2004h")
        terminal.until("hal\u00fc")
        self.question(terminal, b"!\r", "hal\u00fc!")
        terminal.keys(b"WAIT\r")
        terminal.until("begins ")
        terminal.keys(b"\x1a")
        terminal.until("Stopped")
        self.server.go_on.set()
        terminal.keys(b"fg\n")
        terminal.until("answer 2")
        terminal.until(">>> ")
        terminal.send(PASTE + b"a\nb" + END)
        self.question(terminal, b"\r", "a\nb")
        terminal.keys(b"/bye\r")
        terminal.until("SHELL$ ")

    def test_a_terminal_obeys_no_answer(self):
        terminal = self.repl()
        self.question(terminal, b"ESCAPE\r", "ESCAPE")
        self.assertNotIn(b"\x1b]0;", terminal.all)
        self.assertIn("\x1b]0;title", self.run_cli("--prompt", "ESCAPE"))  # a pipe gets it as it is

    # Without a terminal.

    def test_words(self):
        for args, model, question in (
                (("smollm2", "hi"), "smollm2", "hi"), (("Gemma 3", "hi", "you"), "Gemma 3", "hi you"),
                (("Why is the sky blue?",), "smollm2", "Why is the sky blue?"), (("Why so", "blue"), "smollm2", "Why so blue"),
                (("--prompt", "hi"), "smollm2", "hi"), (("Gemma 3", "--prompt", "hi"), "Gemma 3", "hi"),
                (("--prompt", "Grüße 你好"), "smollm2", "Grüße 你好"), (("smollm2", "Grüße 你好"), "smollm2", "Grüße 你好")):
            self.run_cli(*args)
            self.assertEqual((self.server.bodies[-1]["model"], self.asked()), (model, question))
        count = len(self.server.bodies)
        error = self.run_cli("smolm2", "hi", code=5)
        self.assertIn("the model 'smolm2' does not exist here; this pool serves 'smollm2', 'Gemma 3'", error)
        self.assertIn("lanyard run 'smolm2 hi'", error)
        self.assertIn("--prompt 'why'", self.run_cli("why", code=5))
        self.assertIn("given twice", self.run_cli("smollm2", "hi", "--prompt", "ho", code=2))
        self.assertEqual(len(self.server.bodies), count)

    def test_standard_input_and_words_are_joined(self):
        for args, stdin, question in (
                (("smollm2", "Fasse zusammen: ü"), "Ein Brief.\nZwei.\n", "Ein Brief.\nZwei.\n\nFasse zusammen: ü"),
                (("Sum it up",), "a\n", "a\n\nSum it up"), (("Sum it up",), "", "Sum it up"), ((), "你好\n", "你好"),
                (("smollm2",), "hi", "hi"), (("--prompt", "hi"), "left alone", "hi")):
            self.run_cli(*args, stdin=stdin)
            self.assertEqual(self.asked(), question)
        self.assertIn("no question", self.run_cli(code=1))

    def test_figures_stand_below_the_answer(self):
        done = subprocess.run([ARGS.lanyard, "run", "--verbose", "--prompt", "x"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.env(), timeout=30)
        self.assertRegex(done.stdout, r"\Aanswer 1\nprompt: 3 tokens, .*\nanswer: 2 tokens")

    def test_flags_have_the_rules_of_set(self):
        for flag, value in (("--temperature", "7"), ("--temperature", "nan"), ("--top-p", "0"), ("--max-tokens", "0"), ("--seed", "1.5")):
            self.run_cli(flag, value, "--prompt", "x", code=2)
        self.run_cli("--seed", "-5", "--max-tokens", "3", "--top-p", "0.5", "--system", "ü", "--prompt", "x")
        body = self.server.bodies[-1]
        self.assertEqual((body["seed"], body["max_tokens"], body["top_p"], body["messages"][0]["content"]), (-5, 3, 0.5, "ü"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lanyard", required=True)
    _, rest = parser.parse_known_args(namespace=ARGS)
    unittest.main(argv=[sys.argv[0]] + rest, verbosity=2)
