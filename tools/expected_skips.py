#!/usr/bin/env python3
"""Holds a test run's skips to tests/expected_skips.txt: a skip that does not stand there is an error, and so are a test that could
not run, one that is disabled, one that ran no tests, and a line of the list that cannot be right.

expected_skips.py --junit FILE [--kind release|asan|tsan] [--offline] [--complete]

FILE is ctest's (--output-junit, with --test-output-size-passed large enough for all of it). --complete: the run was of every test,
so that a line whose tests are not among them is stale. Silent when all is well.
"""
import argparse
import ast
import ctypes
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
import xml.etree.ElementTree

SOURCE = pathlib.Path(__file__).resolve().parents[1]
LIST = SOURCE / "tests" / "expected_skips.txt"
# Of GoogleTest's output and of unittest's, and what a script says that ends with exit code 77.
GTEST_SKIP = re.compile(r"^\S+:\d+: Skipped\n(.*?)\n\s*\[  SKIPPED \]", re.M | re.S)
UNITTEST_SKIP = re.compile(r"""\bskipped ('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")""")
UNITTEST_COUNT = re.compile(r"^(?:OK|FAILED) \(.*?\bskipped=(\d+)", re.M)
NO_TESTS = re.compile(r"^(?:\[=+\] Running 0 tests|Ran 0 tests|\[  PASSED  \] 0 tests)", re.M)
CUT = "The rest of the test output was removed"


# Conditions. Each is exact: where it holds, the tests of its lines do skip.
def no_conformance_data(args):
    return not (pathlib.Path(os.environ.get("LANYARD_SHARED") or SOURCE.parent / "shared") / "conformance").is_dir()


def offline_without_models(args):
    folder = pathlib.Path(os.environ.get("LANYARD_MODELS") or SOURCE / "build" / "models")
    return args.offline and not all((folder / f"{name}.gguf").exists() for name in ("smollm2", "gemma3-270m"))


def sanitizer(args):
    return args.kind != "release"


def cannot_mount(args):
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory() as folder:
        if libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=32k") != 0:
            return True
        libc.umount(folder.encode())
    return False


def cannot_make_namespaces(args):
    return subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode != 0


def cannot_name_namespaces(args):
    name = f"lanyard-{uuid.uuid4().hex[:8]}"
    ip = [["netns", "add", name], ["-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"]]
    able = all(subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0 for words in ip)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return not able


def cannot_record_loopback(args):
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except PermissionError:
        return True
    return False


def temporary_disk_nearly_full(args):
    usage = shutil.disk_usage(tempfile.gettempdir())
    return usage.free <= usage.total // 10


CONDITIONS = {f.__name__: f for f in (no_conformance_data, offline_without_models, sanitizer, cannot_mount, cannot_make_namespaces,
                                      cannot_name_namespaces, cannot_record_loopback, temporary_disk_nearly_full)}


class Line:
    """WHEN  TESTS  REASON, with two spaces or more between them. TESTS is a regular expression of a whole name; `...` in REASON
    stands for anything."""

    def __init__(self, number, text):
        fields = re.split(r"\s{2,}", text.strip(), maxsplit=2)
        self.place = f"{LIST.name}:{number}"
        self.problem = None
        if len(fields) != 3:
            self.problem = "is not WHEN, TESTS and REASON with two spaces between them"
            return
        self.when, tests, self.reason = fields
        if self.when not in CONDITIONS:
            self.problem = f"has the unknown condition {self.when}; there are: {', '.join(CONDITIONS)}"
        try:
            self.tests = re.compile(tests)
            self.pattern = re.compile(".*".join(map(re.escape, self.reason.split("..."))), re.S)
        except re.error as error:
            self.problem = f"has no regular expression of tests: {error}"

    def matches(self, test, reason):
        return self.tests.fullmatch(test) is not None and self.pattern.fullmatch(reason) is not None


def read_list(text):
    return [Line(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]


def skips_of(case):
    """(reasons of skips, problems) of one entry of the report."""
    name, status = case.get("name"), case.get("status")
    output = case.findtext("system-out") or ""
    if status == "fail":
        return [], []  # ctest's own business
    if status == "disabled":
        return [], [f"{name} is disabled; mend it or delete it"]
    if status == "notrun":
        message = case.find("skipped").get("message", "") if case.find("skipped") is not None else ""
        if not message.startswith(("SKIP_RETURN_CODE", "SKIP_REGULAR_EXPRESSION")):
            return [], [f"{name} could not run: {message or output.strip()}"]
        found = [m.strip() for m in GTEST_SKIP.findall(output)]
        return found or [output.strip().splitlines()[-1] if output.strip() else "without a reason"], []
    if CUT in output:
        return [], [f"{name} printed more than the report holds; raise --test-output-size-passed in ./dev"]
    if NO_TESTS.search(output):
        return [], [f"{name} ran no tests"]
    reasons = [ast.literal_eval(quoted) for quoted in UNITTEST_SKIP.findall(output)]
    count = sum(map(int, UNITTEST_COUNT.findall(output)))
    if len(reasons) < count:
        return [], [f"{name} skipped {count} tests and says why of {len(reasons)}; run it with unittest's verbosity=2"]
    return (reasons if count else []), []


def check(cases, lines, args):
    """Yields what is wrong."""
    bad = [line for line in lines if line.problem]
    yield from (f"{line.place} {line.problem}" for line in bad)
    lines = [line for line in lines if not line.problem]
    holds = {when: CONDITIONS[when](args) for when in {line.when for line in lines}}
    used, ran = set(), set()
    for case in cases:
        name = case.get("name")
        reasons, problems = skips_of(case)
        yield from problems
        for line in lines:
            if line.tests.fullmatch(name) and case.get("status") != "fail":
                ran.add(line)
        for reason in reasons:
            fitting = [line for line in lines if line.matches(name, reason)]
            used.update(fitting)
            if not fitting:
                yield f"{name} was skipped: {reason}"
            elif not any(holds[line.when] for line in fitting):
                yield f"{name} was skipped, which {fitting[0].place} expects only for {fitting[0].when}, and that is not so here: {reason}"
    for line in lines:
        if line in ran and line not in used and holds[line.when]:
            yield f"{line.place}: {line.when} is so here, and none of its tests was skipped; the line or the condition is stale"
        if args.complete and line not in ran and not any(line.tests.fullmatch(case.get("name")) for case in cases):
            yield f"{line.place}: no test has such a name; the line is stale"
    if not cases:
        yield "the report has no tests"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--junit", type=pathlib.Path, required=True)
    parser.add_argument("--kind", choices=("release", "asan", "tsan"), default="release")
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--complete", action="store_true")
    args = parser.parse_args()
    try:
        cases = xml.etree.ElementTree.parse(args.junit).getroot().findall("testcase")
    except (OSError, xml.etree.ElementTree.ParseError) as error:
        sys.exit(f"error: no report of the tests: {args.junit}: {error}")
    wrong = list(check(cases, read_list(LIST.read_text()), args))
    for words in wrong:
        print(f"error: {words}", file=sys.stderr)
    if wrong:
        sys.exit(f"error: {len(wrong)} unexpected; a test that was skipped has shown nothing. Give it what it needs; where it cannot have it, "
                 "tests/expected_skips.txt says when and why.")


if __name__ == "__main__":
    main()
