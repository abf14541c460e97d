#!/usr/bin/env python3
"""What ptxas makes of the shipped kernels: registers, shared memory and spills of each kernel and architecture.

    ptxas_ratchet.py --ptx build/x/ptx            compare with ptxas_ratchet.txt; more of anything is an error
    ptxas_ratchet.py --ptx build/x/ptx --update   write the table anew

clang's PTX is what ships; the highest level that an architecture takes is compiled for it. The table says which ptxas it
was made with: another one allocates differently, so that the test is skipped (exit code 77) there, and where there is none;
./dev test brings that one along.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
LEVELS = (75, 80)
TABLE = pathlib.Path(__file__).with_name("ptxas_ratchet.txt")
SKIPPED = 77
KERNEL = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers(.*?)\n", re.S)


def find_ptxas(wanted):
    """One of the version `wanted` where there is one: ./dev test installs it (PyPI nvidia-cuda-nvcc) where the machine has none."""
    venv = pathlib.Path(os.environ.get("LANYARD_VENV") or pathlib.Path(__file__).resolve().parents[2] / "build" / "venv")
    found = [shutil.which("ptxas"), shutil.which("ptxas", path="/usr/local/cuda/bin"),
             *map(str, venv.glob("lib/python3*/site-packages/nvidia/cu*/bin/ptxas"))]
    found = [path for path in found if path]
    return next((path for path in found if version_of(path) == wanted), found[0] if found else None)


def version_of(ptxas):
    text = subprocess.run([ptxas, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"V([\d.]+)", text).group(1)


def measure(ptxas, path, arch):
    """(kernel, registers, shared bytes, spilled bytes) of every kernel of a PTX file."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as out:
        run = subprocess.run([ptxas, "-v", f"-arch=sm_{arch}", str(path), "-o", out.name], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{path} for sm_{arch}: ptxas failed:\n{run.stderr[-2000:]}")
    for name, stores, loads, registers, rest in KERNEL.findall(run.stderr):
        shared = re.search(r"(\d+) bytes smem", rest)
        yield name, int(registers), int(shared.group(1)) if shared else 0, int(stores) + int(loads)


def measure_all(ptxas, version, folder):
    """Beside the PTX lies what earlier runs found: ptxas takes a minute for all of it."""
    cache_path = folder / "ptxas_ratchet_cache.json"
    cache = json.loads(cache_path.read_text()) if cache_path.exists() else {}
    fresh = {}

    def measured(job):
        path, arch = job
        key = hashlib.sha256(f"{version} {arch} ".encode() + path.read_bytes()).hexdigest()
        fresh[key] = cache[key] if key in cache else list(measure(ptxas, path, arch))
        return fresh[key]

    jobs = []
    for arch in ARCHITECTURES:
        level = max(l for l in LEVELS if l <= arch)
        jobs += [(path, arch) for path in sorted(folder.glob(f"*.clang.{level}.ptx"))]
    if not jobs:
        print(f"ptxas_ratchet: no PTX by clang in {folder}: skipped")
        sys.exit(SKIPPED)
    rows = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for (_, arch), kernels in zip(jobs, pool.map(measured, jobs)):
            for name, *numbers in kernels:
                rows[name, arch] = tuple(numbers)
    cache_path.write_text(json.dumps(fresh))
    return rows


def read_table():
    version, rows = None, {}
    for line in TABLE.read_text().splitlines():
        if line.startswith("# ptxas "):
            version = line.split()[2]
        if line.startswith("#") or not line.strip():
            continue
        name, arch, registers, shared, spilled = line.split()
        rows[name, int(arch)] = (int(registers), int(shared), int(spilled))
    return version, rows


def write_table(version, rows):
    lines = ["# What ptxas may use for the kernels that ship (clang's PTX): ptxas_ratchet.py compares, --update writes.",
             f"# ptxas {version}", "# kernel, sm_, registers, bytes of shared memory, bytes of spills"]
    lines += [f"{name} {arch} {' '.join(map(str, rows[name, arch]))}" for name, arch in sorted(rows)]
    TABLE.write_text("\n".join(lines) + "\n")


def compare(rows, table):
    findings = []
    for key in sorted(rows.keys() | table.keys()):
        name, arch = key
        if key not in table:
            findings.append(f"{name} for sm_{arch} is not in the table")
        elif key not in rows:
            findings.append(f"{name} for sm_{arch} is in the table and is no kernel any more")
        else:
            for what, now, before in zip(("registers", "bytes of shared memory", "bytes of spills"), rows[key], table[key]):
                if now > before:
                    findings.append(f"{name} for sm_{arch}: {now} {what}, {before} in the table")
    return findings


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ptx", type=pathlib.Path, required=True)
    parser.add_argument("--update", action="store_true")
    args = parser.parse_args()
    made_with, table = read_table()
    ptxas = find_ptxas(made_with)
    if ptxas is None:
        print("ptxas_ratchet: no ptxas here: skipped")
        sys.exit(SKIPPED)
    version = version_of(ptxas)
    if args.update:
        rows = measure_all(ptxas, version, args.ptx)
        write_table(version, rows)
        print(f"{TABLE}: {len(rows)} rows")
        return
    if made_with != version:
        print(f"ptxas_ratchet: the table was made with ptxas {made_with}, here is {version}: skipped")
        sys.exit(SKIPPED)
    findings = compare(measure_all(ptxas, version, args.ptx), table)
    print("\n".join(findings))
    if findings:
        sys.exit(f"ptxas_ratchet: {len(findings)} findings; where they are meant, run it with --update and say why")


if __name__ == "__main__":
    main()
