#!/usr/bin/env python3
"""A pool of two versions: a worker that was built with another version number serves beside one of the coordinator's own, with
the text of a pool of one version; `node status` and `lanyard doctor` say so and do not complain."""
import json
import subprocess
import unittest

import pool
from cluster import Cluster

OTHER = pool.BIN / "lanyard-worker-other"
PROMPT = "The three largest cities of France are"


def version_of(program):
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]


class TwoVersions(unittest.TestCase):
    def test_serve_together(self):
        own, other = version_of(pool.BIN / "lanyard-worker"), version_of(OTHER)
        self.assertNotEqual(own, other)
        with Cluster(workers=2) as c:
            c.wait_ready(2)
            key = c.cli("key", "create", "anna").strip()
            alone = c.complete(PROMPT, key)
            # The worker is upgraded, as a playbook does it: one of another version takes its place and its state.
            c.cli("node", "drain", "w2", "--wait", 60)
            c.workers["w2"].stop()
            c.workers["w2"] = c.worker("w2-other", "w2", "--join", c.listen, program=OTHER)
            c.workers["w2"].wait_text("joined")
            c.cli("node", "drain", "--disable", "w2")
            c.wait_ready(2, seconds=120)
            nodes = {n["name"]: n for n in c.status()["nodes"]}
            self.assertEqual({name: n["version"] for name, n in nodes.items()}, {"w1": own, "w2": other})
            self.assertTrue(nodes["w1"]["has_stage"] and nodes["w2"]["has_stage"], nodes)
            self.assertEqual(c.complete(PROMPT, key), alone)

            shown = c.cli("node", "status")
            self.assertIn("Workers of several versions serve together", shown)
            self.assertIn(f"{other}: w2", shown)
            report = json.loads(c.cli("doctor", "--json", check=False))
            self.assertFalse([f for f in report["findings"] if f["check"] == "version"], report["findings"])


if __name__ == "__main__":
    pool.main()
