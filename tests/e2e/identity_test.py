#!/usr/bin/env python3
"""Identities of real machines' programs: joining with a token, tokens that are wrong, a copied disk, revocation in the
middle of an answer, certificates used for what they are not for. Long form: ./dev soak revocation."""
import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import time
import unittest

import cluster
import pool
from cluster import Cluster, Stream

PROMPTS = ["The sea is", "One two three four", "A bridge is a structure that", "Once upon a time", "Hello", "The moon"]
REVOCATIONS = 200 if cluster.LONG else 10
CUT_WITHIN = 1.0  # seconds, p99

# The official client, in the virtual environment that ./dev test makes, with a key over HTTPS.
CLIENT = """
import concurrent.futures, json, ssl, sys, openai
base, ca, key, model, prompts = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], json.loads(sys.argv[5])
def client_with(key):
    verify = ssl.create_default_context(cafile=ca)
    return openai.OpenAI(base_url=base, api_key=key, max_retries=0, http_client=openai.DefaultHttpxClient(verify=verify))
client = client_with(key)
def ask(prompt):
    out = client.completions.create(model=model, prompt=prompt, temperature=0, max_tokens=24)
    return out.choices[0].text
with concurrent.futures.ThreadPoolExecutor(len(prompts)) as threads:
    texts = list(threads.map(ask, prompts))
streamed = "".join(c.choices[0].text for c in client.completions.create(
    model=model, prompt=prompts[0], temperature=0, max_tokens=24, stream=True) if c.choices)
try:
    client_with("lyk_wrong").models.list()
    refused = False
except openai.AuthenticationError:
    refused = True
print(json.dumps({"texts": texts, "streamed": streamed, "refused": refused}))
"""


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p))]


def venv_python():
    return os.path.join(os.environ.get("LANYARD_VENV") or pool.SOURCE / "build/venv", "bin/python")


class Joining(unittest.TestCase):
    def test_answers_over_https_with_a_key(self):
        """Mixed requests by the official client; the same texts as from a pool on one machine."""
        with Cluster(workers=2) as c:
            c.wait_ready(2)
            key = c.cli("key", "create", "anna").strip()
            alone = [c.complete(p, key) for p in PROMPTS]
            self.assertTrue(all(alone))
            python = venv_python()
            if not os.path.exists(python):
                self.skipTest(f"no {python} with the openai package; ./dev test makes it")
            out = subprocess.run(
                [python, "-c", CLIENT, f"https://{c.http}/v1", c.ca, key, pool.MODEL.stem, json.dumps(PROMPTS)],
                capture_output=True, text=True, timeout=120, check=False)
            self.assertEqual(out.returncode, 0, out.stderr)
            got = json.loads(out.stdout)
            self.assertEqual(got["texts"], alone)
            self.assertEqual(got["streamed"], alone[0])
            self.assertTrue(got["refused"])
        with pool.Pool(1, context=512) as p:
            self.assertEqual([p.complete(q, max_tokens=24)["choices"][0]["text"] for q in PROMPTS], alone)

    def test_wrong_tokens_have_their_words_and_let_nobody_in(self):
        with Cluster() as c, Cluster() as other:
            good = c.token()
            expired = c.token("--ttl", "1s")
            flipped = good[:60] + chr(ord(good[60]) ^ 1) + good[61:]
            time.sleep(1.2)
            said = {}
            for what, token in {"expired": expired, "other cluster": other.token(), "truncated": good[:-9],
                                "one bit flipped": flipped}.items():
                code, text = c.try_join(token)
                print(f"{what}: {text}", flush=True)
                self.assertIn(code, (1, 4), what)
                said[what] = text
            self.assertIn("expired", said["expired"])
            self.assertIn("not of the one that the token is for", said["other cluster"])
            self.assertIn("cut short", said["truncated"])
            self.assertIn("altered", said["one bit flipped"])
            self.assertEqual(len(set(said.values())), 4)
            members = json.loads(c.call("GET", "/admin/v1/members", identity=c.admin)[1])
            self.assertEqual([m["role"] for m in members["members"]], ["admin"])
            # None of that used the good one up.
            process = c.worker("w1", "w1", "--join", c.listen, "--name", "w1", "--token", good)
            c.workers["w1"] = process
            process.wait_text("joined")

    def test_the_line_for_an_administrator_can_be_pasted(self):
        """As it is printed, also after tries that failed; and `doctor` finds nothing in what those left."""
        with Cluster() as c:
            env = {k: v for k, v in os.environ.items() if not k.startswith("LANYARD_")} | {"XDG_STATE_HOME": str(c.folder / "home")}

            def certificates():
                report = json.loads(pool.lanyard("doctor", "--json", env=env).stdout)
                return [f for f in report["findings"] if f["check"] in ("certificate", "key")]

            made = pool.lanyard("token", "create", "--role", "admin", "--admin", c.admin, env=env)
            self.assertIn(b"listens on this machine only", made.stderr)
            words = made.stdout.decode().split()
            self.assertEqual(words[:3], ["lanyard", "join", c.listen])
            token = words[-1]
            for address, other in ((c.listen, c.token()), ("127.0.0.1:1", token), (c.listen, token[:-1])):
                done = pool.lanyard("join", address, "--token", other, env=env)
                self.assertNotEqual(done.returncode, 0)
                self.assertEqual(certificates(), [], done.stderr)
            done = pool.lanyard("join", c.listen, "--token-file", c.folder, env=env)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn(b"is a folder, and not a file", done.stderr)
            done = pool.lanyard(*words[1:], "--json", env=env)
            self.assertEqual(done.returncode, 0, done.stderr)
            name = json.loads(done.stdout)["name"]
            members = json.loads(c.call("GET", "/admin/v1/members", identity=c.admin)[1])["members"]
            self.assertIn((name, "admin"), [(m["name"], m["role"]) for m in members])
            self.assertEqual(certificates(), [])
            listed = pool.lanyard("node", "list", "--json", env=env)  # what `join` says to try
            self.assertEqual(listed.returncode, 0, listed.stderr)
            self.assertEqual(json.loads(listed.stdout)["members"], members)

    def test_a_copied_disk_is_refused_by_name(self):
        with Cluster(workers=1) as c:
            c.wait_ready(1)
            shutil.copytree(c.folder / "w1", c.folder / "copy")
            (c.folder / "copy/lock").unlink(missing_ok=True)
            c.workers["copy"] = copy = c.worker("copy", "copy")
            copy.wait_text("two machines")
            text = next(line for line in copy.text().splitlines() if "two machines" in line)
            print(text, flush=True)
            at = next(n["address"] for n in c.status()["nodes"] if n["name"] == "w1")
            for words in ("'w1'", at, "token create", "identity"):
                self.assertIn(words, text)
            time.sleep(2)  # it goes on trying, and is no member
            self.assertEqual([n["name"] for n in c.status()["nodes"] if n["state"] != "lost"], ["w1"])
            c.wait_ready(1)
            self.assertIn("two machines", c.coordinator.text())

    def test_a_worker_is_no_administrator_and_no_coordinator(self):
        with Cluster(workers=1) as c:
            c.wait_ready(1)
            identity = c.folder / "w1/identity"
            for method, path in (("GET", "/admin/v1/status"), ("POST", "/admin/v1/stop"), ("POST", "/admin/v1/keys"),
                                 ("POST", "/admin/v1/tokens"), ("DELETE", "/admin/v1/members/w1")):
                self.assertEqual(c.call(method, path, {} if method == "POST" else None, identity=identity)[0], 401, path)
            out = pool.lanyard("node", "list", "--admin", identity)
            self.assertNotEqual(out.returncode, 0)
            # Workers that are sent to another worker's port as if it were the coordinator's say no.
            port = cluster.listening_ports(c.workers["w1"].pid)[0]
            c.workers["w2"] = c.worker("w2", "w2", "--join", c.listen, "--name", "w2", "--token", c.token())
            c.workers["w2"].wait_text("joined")
            c.workers["w2"].stop()
            c.workers["w2"] = lost = c.worker("w2-lost", "w2", "--join", f"127.0.0.1:{port}")
            lost.wait_text("not joined to")
            time.sleep(1)
            self.assertEqual(lost.text().count(" joined 127"), 0, lost.text())


class Revoking(unittest.TestCase):
    def revoke(self, c, name, hung=False):
        """Revokes a worker; seconds from the start of the command until no connection that it had is open at either
        end: (those with the coordinator, those with neighbours). `hung`: the worker is stopped meanwhile, so that only the
        others can have closed them."""
        process = c.workers[name]
        mine = [(local, remote) for local, remote, state, _ in cluster.sockets_of(process.pid)
                if state == cluster.ESTABLISHED]
        self.assertTrue(mine)
        theirs = {(remote, local) for local, remote in mine}
        watched = theirs if hung else theirs | set(mine)
        coordinators = {local for local, _, _, _ in cluster.sockets_of(c.coordinator.pid)}
        # The last time that one of them was seen open; neighbours need not be any.
        seconds = {True: 0.0, False: 0.0}
        if hung:
            os.kill(process.pid, signal.SIGSTOP)
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            done = threads.submit(c.cli, "node", "revoke", name)
            while True:
                still = [(local, remote) for local, remote, state, _ in cluster.tcp_table()
                         if (local, remote) in watched and state in (cluster.ESTABLISHED, cluster.CLOSE_WAIT)]
                now = time.monotonic() - start
                for pair in still:
                    seconds[not coordinators.isdisjoint(pair)] = now
                if not still:
                    break
                self.assertLess(now, 10,
                                f"connections of a revoked worker stay open: {sorted(watched)} of "
                                f"{[r for r in cluster.tcp_table() if (r[0], r[1]) in watched]}")
                time.sleep(0.002)
            done.result()
        if hung:
            os.kill(process.pid, signal.SIGCONT)
        return seconds[True], seconds[False]

    def test_in_the_middle_of_an_answer(self):
        """p99 of the time until a revoked worker's connections, to the coordinator and to its neighbours, are closed, from
        the start of the command."""
        began = time.monotonic()
        took, batch, story = [], 5, ""
        while len(took) < REVOCATIONS:
            with Cluster(workers=batch + 1) as c:
                c.wait_ready(batch + 1)
                key = c.cli("key", "create", "anna").strip()
                before = c.complete(PROMPTS[0], key)
                for i in range(2, batch + 2):
                    name = f"w{i}"
                    stream = Stream(c, key)
                    stream.wait_tokens(3)
                    links = sum(state == cluster.ESTABLISHED
                                for _, _, state, _ in cluster.sockets_of(c.workers[name].pid))
                    self.assertGreaterEqual(links, 3, "the coordinator's and at least one neighbour's")
                    took.append(self.revoke(c, name, hung=i == batch + 1))
                    # The answer goes on without it, with the text that it would have had.
                    stream.join(60)
                    self.assertTrue(stream.done, stream.error)
                    story = story or stream.text
                    self.assertEqual(stream.text, story)
                    c.wait_ready(batch + 2 - i)
                    if i in (2, batch + 1):
                        self.assertEqual(c.complete(PROMPTS[0], key), before)
        for link, of in (("coordinator", [t[0] for t in took]), ("worker", [t[1] for t in took]), ("any", list(map(max, took)))):
            print(f"revoked: {len(of)} runs, links worker-{link}: p50 {percentile(of, 0.5) * 1000:.0f} ms, "
                  f"p99 {percentile(of, 0.99) * 1000:.0f} ms, worst {max(of) * 1000:.0f} ms", flush=True)
        print(f"in {time.monotonic() - began:.0f} s; {cluster.load()}", flush=True)
        self.assertLess(percentile(list(map(max, took)), 0.99), CUT_WITHIN)

    def test_stays_out_also_after_a_restart(self):
        with Cluster(workers=2) as c:
            c.wait_ready(2)
            self.revoke(c, "w2")
            for _ in range(2):
                c.workers["w2"].stop()
                c.workers["w2"] = again = c.worker("w2-again", "w2")
                again.wait_text("was revoked")
                # Nor with a token, while it keeps its key.
                shutil.rmtree(c.folder / "w2-token", ignore_errors=True)
                (c.folder / "w2-token/identity").mkdir(parents=True)
                shutil.copy(c.folder / "w2/identity/node.key", c.folder / "w2-token/identity")
                with_token = c.worker("w2-token", "w2-token", "--join", c.listen, "--name", "w3", "--token", c.token())
                self.assertEqual(with_token.process.wait(timeout=20), 4)  # denied
                self.assertIn("was revoked", with_token.text())
                self.assertEqual([n["name"] for n in c.status()["nodes"] if n["state"] != "lost"], ["w1"])
                c.coordinator.stop()
                c.start_coordinator()
                c.wait_ready(1)
            # Its key alone is out: a new identity with the old name is welcome.
            c.workers["w2"].stop()
            shutil.rmtree(c.folder / "w2")
            c.join("w2")
            c.workers["w2"].wait_text("joined .* as 'w2'")


if __name__ == "__main__":
    pool.main()
