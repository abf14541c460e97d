#!/usr/bin/env python3
"""tools/expected_skips.py on made-up reports, and the list itself: every reason is one that a test can give."""
import argparse
import pathlib
import re
import subprocess
import sys
import unittest
import unittest.mock
import xml.etree.ElementTree

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tools"))
import expected_skips  # noqa: E402

# As GoogleTest 1.12 prints it; a newline that ends the message makes an empty line.
GTEST = """Running main() from ./googletest/src/gtest_main.cc
[ RUN      ] A.b
../../src/a_test.cc:5: Skipped
{}
[  SKIPPED ] A.b (0 ms)
[----------] 1 test from A (0 ms total)

[  PASSED  ] 0 tests.
[  SKIPPED ] 1 test, listed below:
[  SKIPPED ] A.b
"""
UNITTEST = "test_a (x.T) ... skipped {!r}\ntest_b (x.T) ... noise\nok\n\n------\nRan 2 tests in 0.1s\n\nOK (skipped=1)\n"
LIST = r"""
# a comment
here   A\.b      no data at ...; hint
away   A\.c      no data
here   py_.*     no network
"""


def case(name, output="", status="run", skipped=None):
    node = xml.etree.ElementTree.Element("testcase", name=name, status=status)
    if skipped:
        xml.etree.ElementTree.SubElement(node, "skipped", message=skipped)
    xml.etree.ElementTree.SubElement(node, "system-out").text = output
    return node


def gtest(name, reason):
    return case(name, GTEST.format(reason), "notrun", "SKIP_REGULAR_EXPRESSION_MATCHED")


GOOD = [gtest("A.b", "no data at /x/y; hint"), case("py_net", UNITTEST.format("no network")), case("A.c", "[  PASSED  ] 1 test.")]


class Check(unittest.TestCase):
    def found(self, cases, text=LIST, complete=True):
        conditions = {"here": lambda args: True, "away": lambda args: False}
        with unittest.mock.patch.object(expected_skips, "CONDITIONS", conditions):
            args = argparse.Namespace(complete=complete)
            return list(expected_skips.check(cases, expected_skips.read_list(text), args))

    def one(self, words, *args, **kwargs):
        found = self.found(*args, **kwargs)
        self.assertEqual(len(found), 1, found)
        self.assertRegex(found[0], words)

    def test_expected_skips_are_silent(self):
        self.assertEqual(self.found(GOOD), [])

    def test_any_other_skip_is_an_error(self):
        self.one("^A.z was skipped: no idea$", GOOD + [gtest("A.z", "no idea")])
        self.one("^other was skipped: no network$", GOOD + [case("other", UNITTEST.format("no network"))])
        self.one("^py_x was skipped: it's \"odd\"$", GOOD + [case("py_x", UNITTEST.format("it's \"odd\""))])
        self.one("^s was skipped: skipped: no openssl", GOOD + [case("s", "x\nskipped: no openssl\n", "notrun", "SKIP_RETURN_CODE=77")])
        self.one("^s was skipped: without a reason", GOOD + [case("s", "", "notrun", "SKIP_RETURN_CODE=77")])

    def test_gtest_messages_that_end_with_a_newline_or_have_some(self):
        self.one("^A.z was skipped: one\ntwo$", GOOD + [gtest("A.z", "one\ntwo\n")])

    def test_the_whole_reason_counts(self):
        self.one("no data at all", [gtest("A.b", "no data at /x; hint"), *GOOD, gtest("A.b", "no data at all")])

    def test_a_condition_that_does_not_hold(self):
        self.one("^A.c was skipped, which .*:4 expects only for away", GOOD[:2] + [gtest("A.c", "no data")])

    def test_stale_lines(self):
        self.one(":3: here is so here, and none of its tests was skipped", [case("A.b", "ok"), *GOOD[1:]])
        self.one(":4: no test has such a name", GOOD[:2])
        self.assertEqual(self.found(GOOD[:2], complete=False), [])
        self.one(":9 has the unknown condition nowhere", GOOD, LIST + "\n\n\nnowhere  A  b\n")
        self.one(":9 is not WHEN, TESTS and REASON", GOOD, LIST + "\n\n\nhere A b\n")
        self.one(":9 has no regular expression", GOOD, LIST + "\n\n\nhere  (A  b\n")

    def test_what_did_not_run(self):
        self.one("^x is disabled", GOOD + [case("x", "Disabled", "disabled")])
        self.one("^x could not run: Unable to find executable", GOOD + [case("x", "", "notrun", "Unable to find executable")])
        for words in ("[==========] Running 0 tests from 0 test suites.\n", "\nRan 0 tests in 0.0s\n\nOK\n"):
            self.one("^x ran no tests", GOOD + [case("x", words)])
        self.assertEqual(self.found([case("x", "Ran 10 tests in 1s\n\nOK\n")], "", False), [])
        self.one("the report has no tests", [], "")

    def test_skips_without_words(self):
        self.one("^x skipped 2 tests and says why of 1", GOOD + [case("x", UNITTEST.format("a").replace("skipped=1", "skipped=2"))])
        self.one("^x printed more than the report holds", GOOD + [case("x", expected_skips.CUT)])

    def test_failures_are_ctests_business(self):
        self.assertEqual(self.found(GOOD + [case("x", GTEST.format("a"), "fail")]), [])


class TheList(unittest.TestCase):
    def test_every_line_is_right_and_every_reason_stands_in_a_test(self):
        names = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=SOURCE, capture_output=True, text=True,
                               check=True).stdout.split("\n")
        sources = [SOURCE / n for n in names if re.search(r"(_test\.(cc|py)|/test_data\.h|^tests/.*\.(cc|h|py))$", n)]
        # Literals that the compiler and the formatter join are joined here.
        text = "\n".join(re.sub(r'"(\s*\n?\s*<<)?\s*\n\s*"', "", s.read_text()) for s in sources
                         if s.exists() and s != pathlib.Path(__file__).resolve())
        for line in expected_skips.read_list(expected_skips.LIST.read_text()):
            with self.subTest(line.place):
                self.assertIsNone(line.problem)
                for part in line.reason.split("..."):
                    self.assertIn(part.removeprefix("skipped: "), text)

    def test_every_condition_is_used(self):
        lines = expected_skips.read_list(expected_skips.LIST.read_text())
        self.assertEqual({line.when for line in lines}, set(expected_skips.CONDITIONS))

    def test_conditions_answer(self):
        args = argparse.Namespace(kind="release", offline=False, complete=False)
        for name, condition in expected_skips.CONDITIONS.items():
            with self.subTest(name):
                self.assertIsInstance(condition(args), bool)


if __name__ == "__main__":
    unittest.main(verbosity=2)
