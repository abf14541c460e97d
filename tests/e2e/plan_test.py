#!/usr/bin/env python3
"""`lanyard plan` from outside: its JSON, its exit codes, and that its advice holds."""
import json
import pathlib
import re
import shutil
import tempfile
import unittest

import pool
from pool import lanyard

MIB = 1 << 20


def machines(memory_mib, n=3):
    return "".join(f'[[machine]]\nname = "w{i}"\nmemory = "{memory_mib}MiB"\n' for i in range(1, n + 1))


class Plan(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lanyard-e2e-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def run_plan(self, toml, *args):
        file = self.folder / "machines.toml"
        file.write_text(toml)
        return lanyard("plan", "--model", pool.MODEL, "--machines", file, *args)

    def plan(self, toml, *args, fits=True):
        result = self.run_plan(toml, "--json", *args)
        self.assertEqual(result.returncode, 0 if fits else 1, result.stderr)
        plan = json.loads(result.stdout)
        self.assertEqual(plan["fits"], fits)
        self.assertTrue(plan["limit"])
        self.assertTrue(plan["why"])
        return plan

    def test_every_layer_once_and_every_limit_kept(self):
        plan = self.plan(machines(88), "--context", 2048, "--users", 4)
        layers = [x for s in plan["stages"] if s["layers"] for x in range(s["layers"][0], s["layers"][1] + 1)]
        self.assertEqual(layers, list(range(30)))
        for s in plan["stages"]:
            self.assertEqual(s["device"], "cpu")
            self.assertLessEqual(s["weights_bytes"] + s["kv_bytes"] + s["buffer_bytes"] + s["base_bytes"], 88 * MIB)

    def test_what_does_not_fit_says_what_would(self):
        plan = self.plan(machines(48), fits=False)
        self.assertEqual(plan["stages"], [])
        advice = plan["why"][-1]
        each = re.search(r"at least (\d+)MiB for each worker", advice)
        self.assertIsNotNone(each, advice)
        self.plan(machines(int(each.group(1))))
        self.plan(machines(int(each.group(1)) - 1), fits=False)
        more = re.search(r"more on (w\d) \((\d+)MiB in all\)", advice)
        self.assertIsNotNone(more, advice)
        for extra, fits in ((0, True), (-1, False)):
            bigger = f'"{more.group(1)}"\nmemory = "{int(more.group(2)) + extra}MiB"'
            self.plan(machines(48).replace(f'"{more.group(1)}"\nmemory = "48MiB"', bigger), fits=fits)

    def test_a_card_and_a_fast_machine_get_more(self):
        toml = ('[[machine]]\nname = "pc1"\nmemory = "8GiB"\nspeed = 1.0\n[[machine.device]]\nkind = "cuda"\n'
                'name = "cuda:0"\nmemory = "60MiB"\nspeed = 8.0\n[[machine]]\nname = "pc2"\nmemory = "8GiB"\nspeed = 2.0\n'
                '[[link]]\na = "pc1"\nb = "pc2"\nrtt_us = 100\nbandwidth = "10Gbit"\n')
        plan = self.plan(toml, "--context", 1024, "--all")
        places = [(s["machine"], s["device"]) for s in plan["stages"]]
        self.assertIn(("pc1", "cuda:0"), places)
        self.assertIn(("pc2", "cpu"), places)

    def test_files_that_are_none(self):
        """The exit codes of docs/cli.md, and names that a terminal must not obey."""
        for verb, flag in (("plan", "--machines"), ("eval", "--prompts")):
            for path, code, said in ((self.folder, 1, "is a folder"), (self.folder / "none", 5, "there is no ")):
                done = lanyard(verb, "--model", pool.MODEL, flag, path)
                self.assertEqual((done.returncode, done.stdout), (code, b""), done.stderr)
                self.assertIn(said, done.stderr.decode())
        for toml in (machines(48).replace('"w1"', '"\\u001b[31mw1"'), machines(500, 1).replace('"w1"', '"\\u001b[31mw1"')):
            said = self.run_plan(toml).stdout
            self.assertIn(b"[31mw1", said)
            self.assertNotIn(b"\x1b", said)

    def test_refusals(self):
        for toml, said in ((machines(88).replace("memory", "memroy", 1), 'did you mean "memory"'),
                           (machines(88) + '[[link]]\na = "w1"\nb = "w7"\n', "w7"), ("", "[[machine]]"), ("= =", "line 1")):
            with self.subTest(said=said):
                result = self.run_plan(toml)
                self.assertEqual(result.returncode, 1)
                self.assertIn(said, result.stderr.decode())
        self.assertEqual(lanyard("plan", "--model", pool.MODEL).returncode, 2)
        self.assertEqual(self.run_plan(machines(88), "--context", 1_000_000).returncode, 1)

    def test_for_people(self):
        text = self.run_plan(machines(88)).stdout.decode()
        for said in ("MACHINE", "WEIGHTS", "w1", "predicted time of a token"):
            self.assertIn(said, text)


if __name__ == "__main__":
    pool.main()
