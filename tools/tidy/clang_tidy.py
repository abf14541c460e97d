#!/usr/bin/env python3
"""clang-tidy with .clang-tidy's short list over the sources of the product, all or those of some rooms, as a test.

clang_tidy.py --build FOLDER [--jobs N] [FILE-or-ROOM...]   prints clang-tidy's words, exits 1 if there are any.

A file takes clang-tidy 5 to 20 seconds, so that a file found clean is remembered by the content of all that it
includes from this checkout, in $XDG_CACHE_HOME/lanyard/clang-tidy (or ~/.cache/…): a second run looks at what changed.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import commands

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Tests, benchmarks and stand-ins are not shipped, and generated files are nobody's to mend.
NOT_SHIPPED = re.compile(r"^(tests|bench|build)/|_(test|fuzz|bench)\.cc$|(^|/)testing")


def cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "lanyard" / "clang-tidy"


def sources(build):
    """{path below the root: object file} of what the product is compiled from."""
    found = {}
    for entry in commands.read(build / "compile_commands.json"):
        path = pathlib.Path(entry["directory"], entry["file"]).resolve()
        if path.is_relative_to(ROOT) and not NOT_SHIPPED.search(str(path.relative_to(ROOT))):
            found[str(path.relative_to(ROOT))] = re.search(r"-o (\S+)", entry["command"]).group(1)
    return found


def dependencies(build):
    """{object: files of this checkout that it includes}, as the compiler told ninja."""
    text = subprocess.run(["ninja", "-C", build, "-t", "deps"], capture_output=True, text=True, check=True).stdout
    found, name = {}, None
    for line in text.splitlines():
        if line and not line.startswith(" "):
            name = line.split(":")[0]
            found[name] = []
        elif name and line.strip():
            path = (build / line.strip()).resolve()
            if path.is_relative_to(ROOT) and path.suffix != ".gch":
                found[name].append(path)
    return found


def key_of(path, includes, version):
    """Hash of all that decides about a file, or None where ninja does not know its includes."""
    if not includes:
        return None
    digest = hashlib.sha256(version + (ROOT / ".clang-tidy").read_bytes())
    for p in sorted({ROOT / path, *includes}):
        digest.update(str(p.relative_to(ROOT)).encode() + b"\0" + hashlib.sha256(p.read_bytes()).digest())
    return digest.hexdigest()


def own_commands(build, folder):
    """compile_commands.json in `folder`, without the precompiled headers of gcc, which clang cannot read."""
    entries = commands.read(build / "compile_commands.json")
    for entry in entries:
        entry["command"] = re.sub(r" (-Winvalid-pch|-fpch-preprocess|-include \S+cmake_pch\.hxx)", "", entry["command"])
    (folder / "compile_commands.json").write_text(json.dumps(entries))


def look(path, folder):
    """clang-tidy's words about one file; empty if it is clean."""
    done = subprocess.run(["clang-tidy", "-p", folder, "--quiet", "--extra-arg=-w", f"--header-filter=^{ROOT}/(?!build)", path],
                          cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0 and not done.stdout.strip():
        return ""
    return done.stdout.strip() or done.stderr.strip() or f"clang-tidy ended with {done.returncode}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("files", nargs="*")
    args = parser.parse_args()
    build = args.build.resolve()
    version = subprocess.run(["clang-tidy", "--version"], capture_output=True, check=True).stdout
    objects, deps = sources(build), dependencies(build)
    wanted = {name: [f for f in sorted(objects) if f == name or f.startswith(name + "/")] for name in args.files}
    unknown = [name for name, files in wanted.items() if not files]
    if unknown:
        sys.exit(f"error: no product source: {', '.join(unknown)}")
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    keys = {f: key_of(f, deps.get(objects[f], []), version) for f in sum(wanted.values(), []) or sorted(objects)}
    todo = [f for f, key in keys.items() if key is None or not (cache / key).exists()]
    bad, start = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(max(1, args.jobs)) as pool:
        own_commands(build, pathlib.Path(folder))
        for f, words in zip(todo, pool.map(lambda f: look(f, folder), todo)):
            if words:
                bad += 1
                print(words, flush=True)
            elif keys[f]:
                (cache / keys[f]).touch()
    print(f"clang-tidy: {bad} of {len(keys)} files have findings; {len(todo)} were looked at in {time.monotonic() - start:.0f} s, "
          f"{len(keys) - len(todo)} were known to be clean")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
