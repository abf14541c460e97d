#!/usr/bin/env python3
"""HTTPS as clients meet it: what a stored CA is good for, each kind of client's line, TLS 1.2, the house's own certificate.

Needs the programs openssl, curl and node, and Debian's python3-requests; ./dev test installs them."""
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

import cluster
import pool

NO_PROXY = {k: v for k, v in os.environ.items() if not k.startswith(("LANYARD_", "OPENAI_")) and "proxy" not in k.lower()
            and k not in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE")}


def openssl(*args, cwd, code=0):
    done = subprocess.run(["openssl", *map(str, args)], cwd=cwd, capture_output=True, text=True, check=False, env=NO_PROXY)
    if code == 0 and done.returncode != 0:
        raise RuntimeError(f"openssl {args}: {done.stderr}")
    return done.stdout + done.stderr


def make_key_and_request(folder, name, algorithm=("ec", "-pkeyopt", "ec_paramgen_curve:P-256")):
    openssl("req", "-newkey", *algorithm, "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr", cwd=folder)


def sign(folder, name, names, ca, ca_key, days=2):
    """A certificate for `names` (openssl's words) by the CA in two files, whoever has these."""
    (folder / f"{name}.ext").write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
    openssl("x509", "-req", "-in", f"{name}.csr", "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-CAserial", f"{name}.srl",
            "-days", days, "-extfile", f"{name}.ext", "-out", f"{name}.crt", cwd=folder)
    return folder / f"{name}.crt"


def make_house(folder, name):
    """A house's CA and an RSA certificate with an intermediate, as CAs of companies give them out: chain and key."""
    for ca in ("root", "middle"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN=House {ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.csr", cwd=folder)
    (folder / "ca.ext").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n")
    openssl("x509", "-req", "-in", "root.csr", "-signkey", "root.key", "-days", 9, "-extfile", "ca.ext", "-out", "root.crt", cwd=folder)
    openssl("x509", "-req", "-in", "middle.csr", "-CA", "root.crt", "-CAkey", "root.key", "-CAcreateserial", "-days", 9,
            "-extfile", "ca.ext", "-out", "middle.crt", cwd=folder)
    renew_house(folder, name)
    return folder / "root.crt"


def renew_house(folder, name):
    make_key_and_request(folder, "house", ("rsa:2048",))
    sign(folder, "house", f"DNS:{name},DNS:localhost", "middle.crt", "middle.key")
    (folder / "chain.new").write_text((folder / "house.crt").read_text() + (folder / "middle.crt").read_text())
    (folder / "chain.new").rename(folder / "chain.pem")
    (folder / "house.key").rename(folder / "chain.key")


def serial_of(address, ca, name="localhost"):
    """What the server at the address shows for the name, verified with the CA."""
    context = ssl.create_default_context(cafile=ca)
    with socket.create_connection(address, timeout=10) as raw, context.wrap_socket(raw, server_hostname=name) as tls:
        return tls.getpeercert()["serialNumber"]


def wait_for(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


class Temporary(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lanyard-https-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def shell(self, line):
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120, check=False, env=NO_PROXY)
        self.assertEqual(done.returncode, 0, (line, done.stdout + done.stderr))
        return done.stdout


class PoolsCa(Temporary):
    @classmethod
    def setUpClass(cls):
        cls.state = pathlib.Path(tempfile.mkdtemp(prefix="lanyard https-"))  # with a space
        cls.pool = pool.Pool(workers=1, http_open=False, state=cls.state, context=256)

    @classmethod
    def tearDownClass(cls):
        cls.pool.close()
        shutil.rmtree(cls.state, ignore_errors=True)

    def test_the_stored_key_is_good_for_no_web_site(self):
        """With the key that lies on the coordinator's disk, and a client that has the CA in its store."""
        ca = pathlib.Path(self.pool.ready["ca"])
        stored = self.state / "coordinator/ca/https-ca.key"
        make_key_and_request(self.folder, "forged")
        for names, host, good in (("DNS:pc1.local", "-verify_hostname pc1.local", True), ("IP:192.168.7.7", "-verify_ip 192.168.7.7", True),
                                  ("DNS:example.com", "-verify_hostname example.com", False), ("IP:93.184.216.34", "-verify_ip 93.184.216.34", False),
                                  ("DNS:pc1.local,DNS:example.com", "-verify_hostname example.com", False)):
            certificate = sign(self.folder, "forged", names, ca, stored)
            said = openssl("verify", "-CAfile", ca, "-purpose", "sslserver", *host.split(), certificate, cwd=self.folder, code=None)
            self.assertEqual("OK" in said and "permitted subtree violation" not in said, good, said)
            if not good:
                self.assertIn("permitted subtree violation", said)
        # Not by a server that speaks TLS either.
        sign(self.folder, "forged", "DNS:example.com", ca, stored)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "forged.crt", self.folder / "forged.key")
        ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = ssl.create_default_context(cafile=ca).wrap_bio(ours, theirs, server_hostname="example.com")
        server = context.wrap_bio(theirs, ours, server_side=True)
        with self.assertRaisesRegex(ssl.SSLCertVerificationError, "permitted subtree violation"):
            for _ in range(5):
                for end in (client, server):
                    try:
                        end.do_handshake()
                    except ssl.SSLWantReadError:
                        pass

    def test_the_bundle_has_the_systems_cas_too(self):
        bundle, ca = (pathlib.Path(self.pool.ready[k]) for k in ("ca_bundle", "ca"))
        text = bundle.read_text()
        self.assertTrue(text.endswith(ca.read_text()))
        self.assertEqual((bundle.stat().st_mode & 0o777, ca.stat().st_mode & 0o777), (0o644, 0o644))
        stores = [p for p in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt") if os.path.exists(p)]
        if not stores:
            print("no system store here: the bundle is the pool's CA alone")
            return
        self.assertTrue(text.startswith(pathlib.Path(stores[0]).read_text()))
        context = ssl.create_default_context(cafile=bundle)
        self.assertGreater(context.cert_store_stats()["x509_ca"], 50)
        urllib.request.urlopen(self.pool.ready["url"] + "/health", context=context, timeout=10).close()

    def test_each_kind_of_clients_line_works(self):
        lines = self.pool.ready["clients"]
        done = pool.lanyard("clients", "--json", "--admin", self.pool.ready["admin"])
        self.assertEqual(done.returncode, 0, done.stderr)
        said = json.loads(done.stdout)
        self.assertEqual(said["clients"], lines)
        self.assertEqual((said["ca"], said["constrained"]), (self.pool.ready["ca"], True))
        self.assertEqual(json.loads(self.shell(lines["curl"]))["object"], "chat.completion")
        program = self.folder / "program.py"
        ask = ("import os, urllib.request\n"
               "r = urllib.request.Request(os.environ['OPENAI_BASE_URL'] + '/models', headers={'Authorization': 'Bearer ' + os.environ['OPENAI_API_KEY']})\n"
               "print(urllib.request.urlopen(r, timeout=10).read().decode())\n")
        program.write_text(ask)  # the standard library reads SSL_CERT_FILE as httpx does
        self.assertIn(self.pool.ready["model"], self.shell(lines["openai"].replace("python3 YOUR_PROGRAM.py", f"{sys.executable} {program}")))
        program.write_text("import os, requests\n"
                           "print(requests.get(os.environ['OPENAI_BASE_URL'] + '/models', timeout=10,\n"
                           "                   headers={'Authorization': 'Bearer ' + os.environ['OPENAI_API_KEY']}).text)\n")
        # Debian's own Python, for which ./dev test installs requests.
        self.assertIn(self.pool.ready["model"], self.shell(lines["requests"].replace("python3 YOUR_PROGRAM.py", f"/usr/bin/python3 {program}")))
        script = self.folder / "program.js"
        script.write_text("fetch(process.env.OPENAI_BASE_URL + '/models', {headers: {authorization: 'Bearer ' + process.env.OPENAI_API_KEY}})"
                          ".then(r => r.text()).then(console.log)\n")
        self.assertIn(self.pool.ready["model"], self.shell(lines["node"].replace("node YOUR_PROGRAM.js", f"node {script}")))

    def test_a_key_comes_with_its_lines(self):
        done = pool.lanyard("key", "create", "laptop", "--admin", self.pool.ready["admin"])
        key, said = done.stdout.decode().strip(), done.stderr.decode()
        self.assertRegex(key, r"^lyk_\S+$")
        self.assertIn("SSL_CERT_FILE=", said)
        self.assertIn("lanyard clients", said)
        curl = next(line for line in said.splitlines() if "| curl" in line)
        self.assertEqual(json.loads(self.shell(f"LANYARD_API_KEY={key}; {curl}"))["object"], "chat.completion")

    def test_on_a_clients_machine(self):
        env = NO_PROXY | {"XDG_STATE_HOME": str(self.folder)}
        done = pool.lanyard("clients", "--url", self.pool.ready["url"], "--ca", self.pool.ready["ca"], "--json", env=env)
        self.assertEqual(done.returncode, 0, done.stderr)
        said = json.loads(done.stdout)
        self.assertEqual(pathlib.Path(said["ca_bundle"]), self.folder / "lanyard/clients/ca-bundle.crt")
        self.assertEqual(pathlib.Path(said["ca"]).read_text(), pathlib.Path(self.pool.ready["ca"]).read_text())
        self.assertTrue(said["constrained"])

    def test_tls_1_2_is_for_clients_without_certificates(self):
        ready = self.pool.ready
        admin = pathlib.Path(ready["admin"])
        context = ssl.create_default_context(cafile=ready["ca"])
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(admin / "node.crt", admin / "node.key")
        with urllib.request.urlopen(ready["url"] + "/health", context=context, timeout=10) as reply:
            self.assertEqual(reply.status, 200)
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(ready["url"] + "/admin/v1/status", context=context, timeout=10)
        self.assertEqual(refused.exception.code, 401)
        refused.exception.close()
        context.maximum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = True
        urllib.request.urlopen(ready["url"] + "/admin/v1/status", context=context, timeout=10).close()
        said = self.shell(f"curl -sS -v --tls-max 1.2 --cacert '{ready['ca']}' {ready['url']}/health 2>&1")
        self.assertIn("TLSv1.2 / ECDHE-ECDSA-", said)
        for suite in ("AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA", "DHE-RSA-AES128-GCM-SHA256"):
            old = ssl.create_default_context(cafile=ready["ca"])
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            old.set_ciphers(suite + ":@SECLEVEL=0")
            with self.assertRaises(urllib.error.URLError, msg=suite):
                urllib.request.urlopen(ready["url"] + "/health", context=old, timeout=10)
        done = pool.lanyard("doctor", "--admin", ready["admin"], "--json")
        self.assertNotIn(b"tls", json.dumps(json.loads(done.stdout)["findings"]).encode())


class OlderCluster(Temporary):
    def test_it_goes_on_and_says_how_to_renew(self):
        state = self.folder / "state"
        with pool.Pool(workers=1, http_open=False, state=state, context=128) as p:
            constrained = pathlib.Path(p.ready["ca"]).read_text()
        for name in ("https-ca.key", "https-ca.crt"):  # as a version without them left it
            (state / "coordinator/ca" / name).unlink()
        with pool.Pool(workers=1, http_open=False, state=state, context=128) as p:
            old = pathlib.Path(p.ready["ca"]).read_text()
            self.assertEqual(old, (state / "coordinator/ca/ca.crt").read_text())
            self.assertEqual(p.complete("Hello", max_tokens=1)["object"], "text_completion")
            self.assertIn("lanyard clients --new-ca", (state / "logs/coordinator.log").read_text())
            said = pool.lanyard("clients", "--admin", p.ready["admin"]).stdout.decode()
            self.assertIn("lanyard clients --new-ca", said)
            made = pool.lanyard("clients", "--new-ca", "--json", "--admin", p.ready["admin"])
            self.assertEqual(made.returncode, 0, made.stderr)
            self.assertTrue(json.loads(made.stdout)["constrained"])
            new = pathlib.Path(p.ready["ca"]).read_text()
            self.assertNotIn(new, (old, constrained))
            self.assertEqual(p.complete("Hello", max_tokens=1)["object"], "text_completion")
            self.assertEqual(pool.lanyard("node", "list", "--admin", p.ready["admin"]).returncode, 0)
        with pool.Pool(workers=1, http_open=False, state=state, context=128) as p:
            self.assertEqual(pathlib.Path(p.ready["ca"]).read_text(), new)


class HousesCertificate(Temporary):
    NAME = "llm.house.example"

    def house(self):
        root = make_house(self.folder, self.NAME)
        return root, {"http_cert": self.folder / "chain.pem", "http_key": self.folder / "chain.key"}

    def test_up_needs_no_ca(self):
        root, flags = self.house()
        with pool.Pool(workers=1, http_open=False, context=128, **flags) as p:
            self.assertIsNone(p.ready["ca"])
            port = p.ready["url"].rsplit(":", 1)[1]
            self.assertEqual(p.ready["url"], f"https://{self.NAME}:{port}")
            lines = p.ready["clients"]
            self.assertNotIn("system", lines)
            # Of a machine that knows the house's CA and finds the name.
            line = lines["curl"].replace("curl ", f"curl -sS --resolve {self.NAME}:{port}:127.0.0.1 --cacert {root} ", 1)
            self.assertEqual(json.loads(self.shell(line))["object"], "chat.completion")
            serial_of(("127.0.0.1", int(port)), root, self.NAME)
            # Workers and administrators have the pool's CA, as ever.
            self.assertEqual(pool.lanyard("node", "list", "--admin", p.ready["admin"]).returncode, 0)
            env = NO_PROXY | {"SSL_CERT_FILE": str(root), "LANYARD_API_KEY": p.ready["api_key"]}
            done = pool.lanyard("list", "--url", f"https://localhost:{port}", env=env)  # by the system's store
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_it_is_read_again(self):
        root, flags = self.house()
        with cluster.Cluster(workers=0, **flags) as c:
            first = serial_of(c.address, root)
            renew_house(self.folder, self.NAME)
            self.assertTrue(wait_for(lambda: serial_of(c.address, root) != first))
            second = serial_of(c.address, root)
            key = (self.folder / "chain.key").read_text()
            (self.folder / "chain.key").write_text("nonsense")
            self.assertTrue(wait_for(lambda: "stays in use" in c.coordinator.text()), c.coordinator.text())
            self.assertEqual(serial_of(c.address, root), second)
            (self.folder / "chain.key").write_text(key)
            renew_house(self.folder, self.NAME)
            self.assertTrue(wait_for(lambda: serial_of(c.address, root) != second))

    def test_a_pair_that_cannot_be_used_is_refused_at_the_start(self):
        _, flags = self.house()
        make_key_and_request(self.folder, "other")
        for change, words in (({"http_key": self.folder / "other.key"}, "not that of the first certificate"),
                              ({"http_key": self.folder / "absent.key"}, "there is no"),
                              ({"http_cert": self.folder / "house.csr"}, "no certificate in PEM")):
            with self.assertRaisesRegex(pool.Refused, words):
                pool.Pool(workers=1, http_open=False, **(flags | change)).close()
        with self.assertRaisesRegex(pool.Refused, "--http-cert requires --http-key"):
            pool.Pool(workers=1, http_open=False, http_cert=flags["http_cert"]).close()
        with self.assertRaisesRegex(pool.Refused, "--http-open leaves out") as refused:
            pool.Pool(workers=1, http_open=True, **flags).close()
        self.assertEqual(refused.exception.code, 2)


if __name__ == "__main__":
    pool.main()
