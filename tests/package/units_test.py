#!/usr/bin/env python3
"""The systemd units: valid, as closed as promised, and kind to the owner of the desk. Exits 77 (skipped) without systemd.

units_test.py --source FOLDER --bin FOLDER
"""
import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

MOST_EXPOSURE = 2.0
BOTH = {"Type": "notify", "Restart": "on-failure", "LimitCORE": "0", "NoNewPrivileges": "yes", "ProtectSystem": "strict"}
ONE = {
    "coordinator": {"User": "lanyard-coordinator", "PrivateDevices": "yes", "StateDirectory": "lanyard/coordinator"},
    "worker": {"User": "lanyard-worker", "CPUWeight": "idle", "Nice": "19", "IOWeight": "1", "IOSchedulingClass": "idle",
               "SupplementaryGroups": "video render", "StateDirectory": "lanyard/worker"},
}


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|min)", text).groups()
    return int(number) * (60 if unit == "min" else 1)


def settings(text):
    return dict(line.split("=", 1) for line in text.splitlines() if re.match(r"^[A-Z]\w+=.", line))


def check(kind, unit, source, binaries):
    text = unit.read_text()
    have = settings(text)
    for key, value in {**BOTH, **ONE[kind]}.items():
        yield have.get(key) == value, f"{key}={have.get(key)}, wanted {value}"
    yield "WatchdogSec" in have, "no WatchdogSec"
    if kind == "coordinator":
        config = (source / "packaging/etc/coordinator.toml").read_text()
        drain = int(re.search(r"^drain-timeout = (\d+)$", config, re.M).group(1))
        yield seconds(have["TimeoutStopSec"]) > drain, f"a drain of {drain} s is cut off by TimeoutStopSec={have['TimeoutStopSec']}"
    with tempfile.TemporaryDirectory() as folder:
        # verify wants the program to exist: the one that was built.
        copy = pathlib.Path(folder) / unit.name
        copy.write_text(text.replace("/usr/bin/lanyard-", f"{binaries}/lanyard-"))
        run = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True)
        words = [line for line in run.stderr.splitlines() if unit.name in line]
        yield run.returncode == 0 and not words, f"systemd-analyze verify: {words or run.stderr}"
    run = subprocess.run(["systemd-analyze", "security", "--offline=true", f"--threshold={int(MOST_EXPOSURE * 10)}", str(unit)],
                         capture_output=True, text=True)
    figure = re.search(r"exposure level for \S+: ([\d.]+)", run.stdout)
    print(f"{unit.name}: exposure {figure.group(1) if figure else '?'}")
    yield figure and float(figure.group(1)) <= MOST_EXPOSURE, f"exposure above {MOST_EXPOSURE}: {run.stdout[-300:]}{run.stderr}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", required=True, type=pathlib.Path)
    parser.add_argument("--bin", required=True)
    a = parser.parse_args()
    if shutil.which("systemd-analyze") is None:
        print("skipped: systemd-analyze is not installed (package systemd)")
        return 77
    wrong = 0
    for kind in ONE:
        unit = a.source / f"packaging/systemd/lanyard-{kind}.service"
        for good, words in check(kind, unit, a.source, a.bin):
            if not good:
                wrong += 1
                print(f"{unit.name}: {words}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
