#!/usr/bin/env python3
"""The playbooks without machines: syntax, ansible-lint, and configuration files whose text is TOML with the values given.
Exits 77 (skipped) where Ansible is absent.

ansible_static_test.py --source FOLDER
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import tomllib

OPTIONS = {"memory": "8GiB", "threads": 3, "log-json": True, "model": ["/a \"b\".gguf"]}
CASES = {
    "coordinator": ({"lanyard_coordinator_options": OPTIONS, "lanyard_model_path": "/m.gguf", "lanyard_http_port": 8470,
                     "lanyard_coordinator_address": "10.0.0.1", "lanyard_coordinator_port": 7470},
                    {**OPTIONS, "model": ["/a \"b\".gguf"], "listen": "10.0.0.1:7470", "http": "10.0.0.1:8470", "drain-timeout": 60}),
    "worker": ({"lanyard_worker_options": OPTIONS, "lanyard_worker_address": "10.0.0.2", "lanyard_worker_port": 7471},
               {**OPTIONS, "listen": "10.0.0.2:7471"}),
}
CASES["coordinator"][0]["lanyard_coordinator_options"] = {k: v for k, v in OPTIONS.items() if k != "model"}
CASES["coordinator"][1]["model"] = "/m.gguf"


def run(words, folder, environment):
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", required=True, type=pathlib.Path)
    folder = parser.parse_args().source.resolve() / "ansible"
    for program, package in (("ansible-playbook", "ansible-core"), ("ansible-lint", "ansible-lint")):
        if shutil.which(program) is None:
            print(f"skipped: {program} is not installed (package {package})")
            return 77
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        environment = {**os.environ, "ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1",
                       "ANSIBLE_LOCAL_TEMP": temporary, "ANSIBLE_HOME": temporary, "XDG_CACHE_HOME": temporary}
        books = sorted((folder / "playbooks").glob("*.yml"))
        good &= run(["ansible-playbook", "-i", "inventory.example.yml", "--syntax-check", *books], folder, environment)
        good &= run(["ansible-lint", "--offline", "-q", "--nocolor", *books], folder, environment)
        for role, (variables, wanted) in CASES.items():
            out = pathlib.Path(temporary) / f"{role}.toml"
            arguments = f"src={folder}/roles/{role}/templates/{role}.toml.j2 dest={out}"
            good &= run(["ansible", "-i", "localhost,", "-c", "local", "localhost", "-m", "template", "-a", arguments,
                         "-e", json.dumps({**variables, "ansible_python_interpreter": sys.executable})], folder, environment)
            text = out.read_text() if out.exists() else ""
            if tomllib.loads(text) != wanted:
                print(f"{role}.toml: {text}\nis not {wanted}")
                good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
