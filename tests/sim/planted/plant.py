#!/usr/bin/env python3
"""Writes copies of the product's sources with the bugs of bugs.py in them, each behind a switch.

plant.py --source FOLDER --out FOLDER        writes the copies, and planted_names.inc with the bugs' names
plant.py --files                             prints the files that are copied, one a line

An old text that is not there, or more than once, is an error: the list must follow the sources.
"""
import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bugs  # noqa: E402


def plant(file, source):
    text = (source / file).read_text()
    for name, of, changes in bugs.ALL:
        if of != file:
            continue
        for old, new in changes:
            count = text.count(old)
            if count != 1:
                raise SystemExit(f"bug {name}: {count} times {old!r} in {file}, not once")
            text = text.replace(old, new.replace("PLANTED", f'::lanyard::sim::Planted("{name}")'))
    return f'#include "tests/sim/planted/planted.h"\n#line 1 "{file}"\n{text}'


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--files", action="store_true")
    args = parser.parse_args()
    files = list(dict.fromkeys(file for _, file, _ in bugs.ALL))
    if args.files:
        print("\n".join(files))
        return
    for file in files:
        (args.out / file).parent.mkdir(parents=True, exist_ok=True)
        (args.out / file).write_text(plant(file, args.source))
    names = "".join(f'"{name}",\n' for name, _, _ in bugs.ALL)
    (args.out / "planted_names.inc").write_text(names)


if __name__ == "__main__":
    main()
