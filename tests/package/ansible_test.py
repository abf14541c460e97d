#!/usr/bin/env python3
"""The playbooks on machines of their own: install twice (the second run changes nothing), join, answer, upgrade one by one,
rotate, revoke, remove. Exits 77 (skipped) where no machines can be made or Ansible is absent.

ansible_test.py --bundle FOLDER --model FILE --base FOLDER
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from lab import Lab, cannot
from package_test import Client, admin, wait_for

HERE = pathlib.Path(__file__).resolve().parent


class Ansible:
    def __init__(self, folder, bundle, playbooks):
        self.folder, self.playbooks = folder, playbooks
        self.variables = {"lanyard_repository": str(bundle / "repo.tar"), "ansible_connection": "lab",
                          "ansible_python_interpreter": "/usr/bin/python3"}
        self.groups = {"lanyard_coordinator": {}, "lanyard_worker": {}}

    def add(self, group, machine, **variables):
        self.groups[group][machine.name] = {"ansible_host": machine.address, "lab_leader": machine.leader, **variables}

    def play(self, name, *options):
        """Runs a playbook; {host: {ok, changed, unreachable, failed}} of its recap."""
        inventory = self.folder / "inventory.json"
        inventory.write_text(json.dumps({"lanyard": {"vars": self.variables, "children": {
            group: {"hosts": hosts} for group, hosts in self.groups.items()}}}))
        environment = {**os.environ, "ANSIBLE_CONFIG": str(self.playbooks.parent / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1",
                       "ANSIBLE_CONNECTION_PLUGINS": str(HERE / "connection_plugins"), "ANSIBLE_PIPELINING": "1",
                       "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp")}
        began = time.monotonic()
        done = subprocess.run(["ansible-playbook", "-i", str(inventory), *options, str(self.playbooks / f"{name}.yml")],
                              env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"{name}: exit {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}")
        recap = {m[1]: {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", m[2])}
                 for m in re.finditer(r"^(\S+)\s+: (ok=.*)$", done.stdout, re.M)}
        changed = {host: r["changed"] for host, r in recap.items()}
        print(f"{name} {' '.join(options)}: {time.monotonic() - began:.0f} s, changed {changed}", flush=True)
        self.output = done.stdout
        return recap


def newer(bundle, folder):
    """A bundle whose own packages have a higher version, and that version. The programs in it are the same: that those of
    another version serve together is what tests/e2e/versions_test.py shows."""
    made = folder / "newer"
    (made / "repo").mkdir(parents=True)
    subprocess.run(["tar", "-C", made / "repo", "-xf", bundle / "repo.tar"], check=True)
    version = ""
    for deb in sorted((made / "repo").glob("lanyard-*.deb")):
        tree = folder / "tree"
        subprocess.run(["dpkg-deb", "-R", deb, tree], check=True)
        control = tree / "DEBIAN/control"
        version = re.search(r"^Version: (.*)$", control.read_text(), re.M).group(1) + "+next"
        control.write_text(re.sub(r"^Version: .*$", f"Version: {version}", control.read_text(), flags=re.M))
        name = deb.name.split("_")[0]
        deb.unlink()
        subprocess.run(["dpkg-deb", "-Zgzip", "-z1", "-b", tree, made / "repo" / f"{name}_{version}_amd64.deb"], check=True,
                       stdout=subprocess.DEVNULL)
        shutil.rmtree(tree)
    packages = subprocess.run(["dpkg-scanpackages", "--multiversion", ".", "/dev/null"], cwd=made / "repo", check=True,
                              capture_output=True).stdout
    (made / "repo/Packages").write_bytes(packages)
    subprocess.run(["tar", "-C", made / "repo", "-cf", made / "repo.tar", "."], check=True)
    return made, version


def version_of(machine, package):
    return machine.run("dpkg-query", "-W", "-f", "${Version}", package).stdout


def nodes(first):
    status = json.loads(admin(first, "node", "status", "--json"))
    return {n["name"]: n["state"] for n in status["nodes"] if n["state"] != "lost"}


def identity(machine):
    return machine.run("sha256sum", "/var/lib/lanyard/worker/identity/node.key").stdout


def test(lab, a, folder):
    ansible = Ansible(folder, a.bundle, a.bundle / "ansible/playbooks")
    machines = [lab.machine(name) for name in ("pc1", "pc2", "pc3", "pc4")]
    first = machines[0]
    ansible.add("lanyard_coordinator", first, lanyard_coordinator_options={"workers": 2})
    ansible.variables["lanyard_model"] = str(a.model)
    ansible.variables["lanyard_worker_options"] = {"memory": "600MiB", "threads": 1}
    for machine in machines[1:3]:
        ansible.add("lanyard_worker", machine)
    ansible.play("install")
    again = ansible.play("install")
    assert all(r["changed"] == 0 for r in again.values()), f"the second run changed something:\n{ansible.output}"
    serving = lambda: first.property("lanyard-coordinator", "StatusText").startswith("ready")
    wait_for(serving, 60, "the pool does not serve")
    client = Client(first)
    text = client.ask("Hello")
    print(f"answered: {text!r}")

    ansible.add("lanyard_worker", machines[3])
    ansible.play("join", "--limit", "pc4")
    assert set(nodes(first)) == {"pc2", "pc3", "pc4"}, nodes(first)

    bundle, version = newer(a.bundle, folder)
    ansible.variables["lanyard_repository"] = str(bundle / "repo.tar")
    ansible.play("upgrade")
    for machine, package in [(first, "lanyard-coordinator"), *((m, "lanyard-worker") for m in machines[1:])]:
        assert version_of(machine, package) == version, f"{machine.name} has {version_of(machine, package)}"
    wait_for(serving, 60, "the pool does not serve after the upgrade")
    assert client.ask("Hello") == text

    before = identity(machines[1])
    ansible.play("rotate", "--limit", "pc2")
    assert identity(machines[1]) != before, "the identity is the old one"
    wait_for(serving, 60, "the pool does not serve after the rotation")
    assert client.ask("Hello") == text

    ansible.play("revoke", "-e", "lanyard_node=pc4")
    wait_for(lambda: "pc4" not in nodes(first), 10, "pc4 is still in the pool")
    ansible.play("remove", "--limit", "pc4")
    ansible.play("remove")
    for machine in machines:
        left = machine.run("sh", "-c", "ls -d /usr/bin/lanyard* /etc/lanyard /var/cache/lanyard /var/lib/lanyard/worker "
                                       "/var/lib/lanyard/coordinator 2>/dev/null", check=False).stdout.split()
        assert not left, f"{machine.name} keeps {left}"


def main():
    parser = argparse.ArgumentParser()
    for name in ("bundle", "model", "base"):
        parser.add_argument(f"--{name}", required=True, type=lambda p: pathlib.Path(p).resolve())
    a = parser.parse_args()
    why = cannot() or (None if shutil.which("ansible-playbook") else "ansible-playbook is not installed (ansible-core)")
    if why:
        print(f"skipped: {why}")
        return 77
    with tempfile.TemporaryDirectory() as folder, Lab("ans", a.base) as lab:
        test(lab, a, pathlib.Path(folder))
    print("playbooks: all good")
    return 0


if __name__ == "__main__":
    sys.exit(main())
