#!/usr/bin/env python3
"""Planted bugs: one-line changes of the kernels that the tests on the PTX machine must notice.

planted.py --tests BINARY --clang CLANG++ --source FOLDER --work FOLDER [--only N,N,...] [--least N]

Each bug of bugs.py is applied to a copy of its file, compiled by clang and put in the place of the kernels' own module
(LANYARD_PTX_OVERRIDE); then the tests that it names run. A bug is caught if they fail. A bug whose text is not found, or not as
often as it says, is an error: the list must follow the sources.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bugs  # noqa: E402

ROOM = "engine/ops/cuda"


def compile_flags(cuda_cmake):
    """clang's flags as cmake/cuda.cmake has them."""
    text = cuda_cmake.read_text()
    flags = re.search(r"set\(lanyard_clang_flags (.*?)\)\n", text, re.S).group(1).split()
    return [f for f in flags if "CMAKE_SOURCE_DIR" not in f and f != "-Werror"]


def plant(bug, source, work):
    """The changed file in a tree of its own; returns the .cu to compile."""
    text = (source / ROOM / bug.file).read_text()
    count = text.count(bug.old)
    if count != bug.times:
        raise SystemExit(f"bug {bug.number}: {count} times {bug.old!r} in {bug.file}, not {bug.times}")
    tree = work / f"bug{bug.number}"
    (tree / ROOM).mkdir(parents=True, exist_ok=True)
    (tree / ROOM / bug.file).write_text(text.replace(bug.old, bug.new, 1))
    if bug.module + ".cu" != bug.file:
        (tree / ROOM / f"{bug.module}.cu").write_text((source / ROOM / f"{bug.module}.cu").read_text())
    return tree


def run(bug, args, flags):
    tree = plant(bug, args.source, args.work)
    ptx = tree / f"{bug.module}.clang.{bug.level}.ptx"
    command = [args.clang, *flags, f"--cuda-gpu-arch=sm_{bug.level}", f"-DLANYARD_PTX_LEVEL={bug.level}", f"-I{tree}", f"-I{args.source}",
               str(tree / ROOM / f"{bug.module}.cu"), "-o", str(ptx)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    if compiled.returncode != 0:
        raise SystemExit(f"bug {bug.number} does not compile:\n{compiled.stderr}")
    environment = dict(os.environ, LANYARD_PTX_OVERRIDE=str(ptx), LANYARD_PTX_IMAGE=f"clang{bug.level}")
    tests = subprocess.run([args.tests, f"--gtest_filter={bug.tests}", "--gtest_brief=1", "--gtest_fail_fast"],
                           capture_output=True, text=True, env=environment, timeout=600)
    why = ""
    for line in tests.stdout.splitlines():
        if "PTX line" in line or "differ" in line:
            why = line.strip().replace(str(tree) + "/", "")[:200]
            break
    if re.search(r"\b0 tests from", tests.stdout):
        raise SystemExit(f"bug {bug.number}: no test matches {bug.tests}")
    return tests.returncode != 0, why


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tests", required=True)
    parser.add_argument("--clang", default="clang++-14")
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--least", type=int, default=None)
    args = parser.parse_args()
    args.source = args.source.resolve()
    args.work = args.work.resolve()
    flags = compile_flags(args.source / "cmake/cuda.cmake")
    only = {int(n) for n in args.only.split(",") if n}
    chosen = [b for b in bugs.ALL if not only or b.number in only]
    least = len(chosen) if args.least is None else args.least
    caught = 0
    for bug in chosen:
        began = time.monotonic()
        seen, why = run(bug, args, flags)
        caught += seen
        print(f"{bug.number:2} {'caught' if seen else 'MISSED'} {time.monotonic() - began:5.1f} s  {bug.what} ({bug.file}): {why}",
              flush=True)
    print(f"{caught} of {len(chosen)} caught, at least {least} wanted")
    return 0 if caught >= least else 1


if __name__ == "__main__":
    sys.exit(main())
