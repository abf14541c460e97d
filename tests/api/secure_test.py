"""Over TLS with API keys: `lanyard key`, the openai client from PyPI, and the words for what goes wrong.

Without LANYARD_VENV (or build/venv) the part with the openai client is skipped; the rest needs the openssl program."""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ARGS = argparse.Namespace(lanyard="", server="", source=str(pathlib.Path(__file__).resolve().parents[2]))

# What a program of the venv asks: one whole answer, one stream; prints them as JSON.
OPENAI = r"""
import json, ssl, sys
import openai
url, key, ca = sys.argv[1:]
client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, 
                       http_client=openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=ca)))
try:
    model = client.models.list().data[0].id
    ask = dict(model=model, messages=[{"role": "user", "content": "hello"}], temperature=0)
    whole = client.chat.completions.create(**ask).choices[0].message.content
    parts = [c.choices[0].delta.content or "" for c in client.chat.completions.create(stream=True, **ask) if c.choices]
    print(json.dumps({"whole": whole, "streamed": "".join(parts)}))
except openai.APIStatusError as e:
    print(json.dumps({"status": e.status_code, "type": type(e).__name__, "code": e.code}))
except openai.APIConnectionError as e:
    print(json.dumps({"type": type(e).__name__, "cause": str(e.__cause__)}))
"""


def venv_python():
    for folder in (os.environ.get("LANYARD_VENV"), pathlib.Path(ARGS.source) / "build/venv"):
        python = pathlib.Path(folder or "") / "bin/python"
        if folder and python.exists() and subprocess.run([python, "-c", "import openai"], capture_output=True).returncode == 0:
            return python
    return None


def openssl(*args, cwd):
    subprocess.run(["openssl", *args], cwd=cwd, check=True, capture_output=True)


def make_certificates(folder):
    """ca, server (127.0.0.1, localhost), admin; and another cluster's ca and admin, and a server whose time is over."""
    for ca in ("ca", "other-ca"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=" + ca,
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
                "-keyout", ca + ".key", "-out", ca + ".pem", cwd=folder)
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    (folder / "elsewhere").write_text("subjectAltName=DNS:pc7.example,IP:192.0.2.7\nauthorityKeyIdentifier=keyid\n")
    for name, ca, extensions, days in (("server", "ca", "names", 1), ("admin", "ca", "names", 1), ("stranger", "other-ca", "names", 1),
                                       ("elsewhere-server", "ca", "elsewhere", 1), ("old-server", "ca", "names", -1)):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=" + name,
                "-keyout", name + ".key", "-out", name + ".csr", cwd=folder)
        openssl("x509", "-req", "-in", name + ".csr", "-CA", ca + ".pem", "-CAkey", ca + ".key", "-CAcreateserial",
                "-days", str(days), "-extfile", extensions, "-out", name + ".pem", cwd=folder)


class Server:
    def __init__(self, folder, name="server", keys="lanyard.db"):
        self.process = subprocess.Popen(
            [ARGS.server, "500", "127.0.0.1:0", "--keys", folder / keys, "--tls", folder / (name + ".pem"), folder / (name + ".key"),
             folder / "ca.pem"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()

    def stop(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@unittest.skipUnless(shutil.which("openssl"), "needs the openssl program")
class Secure(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="lanyard-secure-"))
        make_certificates(cls.folder)
        cls.server = Server(cls.folder)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        shutil.rmtree(cls.folder, ignore_errors=True)

    def cli(self, *args, code=0, url=None, ca="ca", admin="admin", key=None, **kwargs):
        env = {k: v for k, v in os.environ.items() if not k.startswith("LANYARD_")}
        env["LANYARD_URL"] = url or self.server.url
        env["XDG_CONFIG_HOME"] = str(self.folder)
        if ca:
            env["LANYARD_CA"] = str(self.folder / (ca + ".pem"))
        if admin:
            env["LANYARD_CERT"] = str(self.folder / (admin + ".pem"))
            env["LANYARD_CERT_KEY"] = str(self.folder / (admin + ".key"))
        if key:
            env["LANYARD_API_KEY"] = key
        done = subprocess.run([ARGS.lanyard, *args], capture_output=True, text=True, env=env, timeout=30, **kwargs)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout if code == 0 else done.stderr

    def test_a_keys_life(self):
        made = json.loads(self.cli("key", "create", "laptop", "--ttl", "90d", "--json"))
        self.assertEqual(made["expires_unix_s"] - made["created_unix_s"], 90 * 86400)
        key = made["key"]
        self.assertIn("already", self.cli("key", "create", "laptop", code=1))
        self.assertEqual(len(self.cli("run", "--prompt", "hi", "--temperature", "0", admin=None, key=key).split()), 12)
        # A key is no administrator; without anything one is nobody.
        self.assertIn("administrator", self.cli("key", "list", admin=None, key=key, code=4))
        self.assertIn("API key", self.cli("run", "--prompt", "hi", admin=None, code=4))
        # Both see what is served; of what only an administrator may know the rest stays empty.
        whole, part = (json.loads(self.cli("list", "--json", **who))["models"] for who in ({}, {"admin": None, "key": key}))
        self.assertEqual(part, [whole[0] | {"bytes": None, "state": None, "digest": None}])
        self.assertIsNotNone(whole[0]["digest"])
        self.assertIn(part[0]["id"], self.cli("list", admin=None, key=key))
        self.cli("list", admin=None, code=4)
        self.cli("ps", admin=None, key=key, code=4)
        listed = self.cli("key", "list")
        self.assertIn("laptop", listed)
        self.assertNotIn(key[17:], listed)
        by_pipe = self.cli("key", "create", "script").strip()
        self.assertEqual(len(by_pipe), 65)
        names = [k["name"] for k in json.loads(self.cli("key", "list", "--json"))["keys"]]
        self.assertTrue({"laptop", "script"} <= set(names), names)
        self.assertIn("revoked", self.cli("key", "revoke", "laptop"))
        self.assertIn("not valid", self.cli("run", "--prompt", "hi", admin=None, key=key, code=4))
        self.assertIn("no key named", self.cli("key", "revoke", "laptop", code=5))
        self.assertIn("no span of time", self.cli("key", "create", "x", "--ttl", "soon", code=2))
        self.cli("key", "create", code=2)

    def test_a_key_that_nobody_saw_is_to_be_revoked(self):
        for name, extra in (("lost", ()), ("lost-json", ("--json",))):
            with open("/dev/full", "w", encoding="utf-8") as full:
                env = os.environ | {"LANYARD_URL": self.server.url} | {
                    name: str(self.folder / file) for name, file in (("LANYARD_CA", "ca.pem"), ("LANYARD_CERT", "admin.pem"),
                                                                     ("LANYARD_CERT_KEY", "admin.key"))}
                done = subprocess.run([ARGS.lanyard, "key", "create", name, *extra], stdout=full, stderr=subprocess.PIPE, text=True,
                                      env=env, timeout=30, check=False)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("No space left on device", done.stderr)
            command = done.stderr.split("Revoke it: ")[1].split()
            self.assertEqual(command, ["lanyard", "key", "revoke", name])
            self.assertIn("revoked", self.cli(*command[1:]))

    def test_files_that_cannot_be_read_have_their_exit_codes(self):
        for flag in ("--ca", "--cert"):
            rest = ("--key", str(self.folder / "admin.key")) if flag == "--cert" else ()
            self.assertIn("No such file", self.cli("key", "list", flag, "/nowhere.pem", *rest, admin=None, code=5))
            self.assertIn("Is a directory", self.cli("key", "list", flag, str(self.folder), *rest, admin=None, code=1))

    def test_a_mistyped_key_is_told_without_the_server(self):
        key = self.cli("key", "create", "typist").strip()
        wrong = key[:30] + ("a" if key[30] != "a" else "b") + key[31:]
        self.assertIn("is not valid", self.cli("run", "--prompt", "hi", admin=None, key=wrong, url="https://127.0.0.1:1", code=4))
        for args in (("ps",), ("node", "status"), ("node", "list"), ("token", "list"), ("key", "list"), ("stop",)):
            said = self.cli(*args, admin=None, key=key, code=4)  # a good key, which is no administrator's
            self.assertIn("lanyard token create --role admin", said)
        unknown = "lyk-unknown"  # which the server refuses
        said = {self.cli("run", "--prompt", "hi", admin=None, key=k, code=4) for k in (wrong, key[:60], key + "x", unknown)}
        self.assertEqual(len(said), 1, said)

    def test_words_for_tls(self):
        self.assertIn("CA that this machine knows", self.cli("key", "list", ca=None, code=4))
        self.assertIn("another cluster", self.cli("key", "list", ca="other-ca", code=4))
        self.assertIn("refused this client's certificate", self.cli("key", "list", admin="stranger", code=4))
        self.assertIn("speaks HTTPS", self.cli("key", "list", url=self.server.url.replace("https", "http"), code=1))
        for name, words in (("elsewhere-server", "is for pc7.example, 192.0.2.7, not for 127.0.0.1"), ("old-server", "has expired")):
            server = Server(self.folder, name, name + ".db")
            try:
                self.assertIn(words, self.cli("key", "list", url=server.url, code=4))
            finally:
                server.stop()
        plain = subprocess.Popen([ARGS.server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        url = plain.stdout.readline().strip().replace("http://", "https://")
        self.assertIn("does not speak TLS", self.cli("key", "list", url=url, code=1))
        plain.stdin.close()
        plain.wait(10)
        plain.stdout.close()

    def test_the_openai_client(self):
        python = venv_python()
        if python is None:
            self.skipTest("no Python environment with openai")
        key = self.cli("key", "create", "openai").strip()

        def ask(key, ca="ca"):
            done = subprocess.run([python, "-c", OPENAI, self.server.url, key, self.folder / (ca + ".pem")], capture_output=True,
                                  text=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            return json.loads(done.stdout)

        answer = ask(key)
        self.assertEqual(answer["whole"], answer["streamed"])
        self.assertEqual(len(answer["whole"].split()), 12)
        self.assertEqual(ask("sk-wrong"), {"status": 401, "type": "AuthenticationError", "code": "invalid_api_key"})
        self.assertEqual(ask(key, "other-ca")["type"], "APIConnectionError")
        self.cli("key", "revoke", "openai")
        self.assertEqual(ask(key)["status"], 401)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lanyard", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--source", default=ARGS.source)
    _, rest = parser.parse_known_args(namespace=ARGS)
    unittest.main(argv=[sys.argv[0]] + rest, verbosity=2)
