#!/usr/bin/env python3
"""The packages on two machines of their own, without a network to the outside: install, join, answer, watchdog, drain,
remove, purge. Exits 77 (skipped) where no machines can be made.

package_test.py --bundle FOLDER --model FILE --base FOLDER
FOLDER of the bundle is build/bundle/lanyard-bundle-V as ./dev bundle leaves it.
"""
import argparse
import json
import pathlib
import ssl
import subprocess
import sys
import threading
import time
import urllib.request

from lab import Lab, cannot

ADMIN_FOLDER = "/var/lib/lanyard/coordinator/admin"


def admin(machine, *words):
    """`lanyard` as an administrator on the coordinator's machine."""
    return machine.run("env", f"LANYARD_ADMIN={ADMIN_FOLDER}", "lanyard", *words).stdout


def wait_for(what, seconds, words):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = what()
        if got:
            return got
        time.sleep(0.25)
    raise AssertionError(f"{words}: not within {seconds} s")


class Client:
    """An API user outside: the coordinator's address, HTTPS's CA and a key."""

    def __init__(self, coordinator):
        self.url = f"https://{coordinator.address}:8470"
        self.key = json.loads(admin(coordinator, "key", "create", "test", "--json"))["key"]
        self.tls = ssl.create_default_context(cadata=(coordinator.root / ADMIN_FOLDER[1:] / "https-ca.crt").read_text())

    def ask(self, prompt, tokens=8):
        body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}).encode()
        request = urllib.request.Request(f"{self.url}/v1/completions", body, {
            "Content-Type": "application/json", "Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=60, context=self.tls) as reply:
            answer = json.load(reply)
        assert answer["usage"]["completion_tokens"] == tokens, answer
        return answer["choices"][0]["text"]


def install(machine, bundle, *packages):
    (machine.root / "var/cache/lanyard/repo").mkdir(parents=True)
    subprocess.run(["tar", "-C", machine.root / "var/cache/lanyard/repo", "-xf", bundle / "repo.tar"], check=True)
    (machine.root / "etc/apt/sources.list.d/lanyard.list").write_text("deb [trusted=yes] file:/var/cache/lanyard/repo ./\n")
    (machine.root / "etc/apt/sources.list").write_text("")
    machine.run("apt-get", "-qq", "update")
    machine.run("apt-get", "-qq", "install", "--no-install-recommends", *packages)


def listed(machine, package):
    return {line.split()[0] for line in machine.run("dpkg-query", "-L", package).stdout.splitlines() if line.strip() != "/."}


def configure(machine, file, lines):
    path = machine.root / f"etc/lanyard/{file}.toml"
    kept = [x for x in path.read_text().splitlines() if x.split(" =")[0] not in {y.split(" =")[0] for y in lines}]
    path.write_text("\n".join([*kept, *lines]) + "\n")


def check_installed(machine, kind):
    unit = f"lanyard-{kind}.service"
    assert machine.run("systemctl", "is-enabled", unit, check=False).stdout.strip() == "disabled", "starts before it is configured"
    assert machine.property(unit, "ActiveState") == "inactive"
    assert f"lanyard-{kind}" in machine.run("getent", "passwd", f"lanyard-{kind}").stdout
    exposure = machine.run("systemd-analyze", "security", "--no-pager", unit, check=False).stdout.strip().splitlines()[-1]
    print(f"{machine.name}: {exposure}")


def check_wrong_config(machine):
    """A wrong key is said in words and not tried again."""
    path = machine.root / "etc/lanyard/coordinator.toml"
    good = path.read_text()
    path.write_text(good + "htttp = \"127.0.0.1:1\"\n")
    machine.run("systemctl", "start", "lanyard-coordinator", check=False)
    words = machine.run("journalctl", "-o", "cat", "-u", "lanyard-coordinator").stdout
    assert "no option 'htttp'; did you mean 'http'?" in words, words
    assert machine.property("lanyard-coordinator", "NRestarts") == "0"
    path.write_text(good)
    machine.run("systemctl", "reset-failed", "lanyard-coordinator")


def check_watchdog(machine):
    """A process that stands still is ended and started again; READY came from a real start."""
    unit = "lanyard-coordinator.service"
    folder = machine.root / f"etc/systemd/system/{unit}.d"
    folder.mkdir(parents=True)
    (folder / "short.conf").write_text("[Service]\nWatchdogSec=2s\nRestartSec=1s\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", unit)
    time.sleep(6)
    assert machine.property(unit, "NRestarts") == "0", "the watchdog bit a healthy service"
    before = machine.property(unit, "MainPID")
    machine.run("kill", "-STOP", before)
    wait_for(lambda: machine.property(unit, "MainPID") not in (before, "0") and machine.property(unit, "ActiveState") == "active",
             20, "the stopped coordinator was not replaced")
    assert "watchdog timeout" in machine.run("journalctl", "-o", "cat", "-u", unit).stdout.lower()
    (folder / "short.conf").unlink()
    folder.rmdir()
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", unit)


def check_drain(machine, client):
    """What runs when the service is stopped still gets its answer."""
    got = []
    thread = threading.Thread(target=lambda: got.append(client.ask("one two three", 400)))
    thread.start()
    wait_for(lambda: json.loads(admin(machine, "ps", "--json"))["requests"], 10, "no request runs")
    machine.run("systemctl", "stop", "lanyard-coordinator")
    thread.join(60)
    assert got, "the request that ran was cut off"


def check_used_token(machine, line):
    """The token is used up, and no trace of it is left on the machine."""
    assert not (machine.root / "etc/lanyard/join-token").exists()
    token = line[line.index("--token") + 1]
    found = machine.run("grep", "-rl", token, "/etc/lanyard", "/var/lib/lanyard", check=False).stdout
    assert not found, f"the token stands in {found}"


def check_purge(machine, package, paths):
    machine.run("apt-get", "-qq", "remove", package)
    said = machine.run("apt-get", "-qq", "purge", package).stdout
    assert "Kept:" in said or package == "lanyard-cli", said
    print(f"{machine.name}: purge says: {[x for x in said.splitlines() if 'lanyard' in x and ':' in x]}")
    left = [p for p in paths if (machine.root / p.lstrip("/")).is_file() or "lanyard" in p and (machine.root / p.lstrip("/")).exists()]
    assert not left, f"{package} leaves {left}"


def test(lab, a):
    first, second = lab.machine("pc1"), lab.machine("pc2")
    install(first, a.bundle, "lanyard-coordinator", "lanyard-cli", "lanyard-worker")
    install(second, a.bundle, "lanyard-worker")
    files = {p: listed(first, p) for p in ("lanyard-coordinator", "lanyard-cli", "lanyard-worker")}
    check_installed(first, "coordinator")
    check_installed(second, "worker")
    first.put(a.model, "/var/lib/lanyard/models/model.gguf")
    configure(first, "coordinator", ['model = "/var/lib/lanyard/models/model.gguf"', f'listen = "{first.address}:7470"',
                                     f'http = "{first.address}:8470"', "workers = 2"])
    check_wrong_config(first)
    first.run("systemctl", "enable", "--now", "lanyard-coordinator")
    for machine in (first, second):
        configure(machine, "worker", [f'listen = "{machine.address}:7471"', 'memory = "600MiB"'])
        line = admin(first, "token", "create").split()  # lanyard-worker --join A --token T
        assert line[0] == "lanyard-worker", line
        print(machine.name, machine.run("lanyard-join", *line[1:]).stdout.strip())
    check_used_token(second, line)
    wait_for(lambda: first.property("lanyard-coordinator", "StatusText").startswith("ready"), 30, "the pool is not ready")
    print(f"status: {first.property('lanyard-coordinator', 'StatusText')} / {second.property('lanyard-worker', 'StatusText')}")
    client = Client(first)
    text = client.ask("Hello")
    print(f"answered: {text!r}")
    check_watchdog(first)
    wait_for(lambda: first.property("lanyard-coordinator", "StatusText").startswith("ready"), 60, "not ready again")
    assert client.ask("Hello") == text
    check_drain(first, client)
    for machine in (first, second):
        machine.run("systemctl", "stop", "lanyard-worker")
        assert machine.property("lanyard-worker", "Result") == "success", machine.property("lanyard-worker", "Result")
    second.run("dpkg-reconfigure", "lanyard-worker")  # maintainer scripts run twice without harm
    check_purge(second, "lanyard-worker", files["lanyard-worker"] | {"/var/lib/lanyard", "/etc/lanyard"})
    for package in ("lanyard-worker", "lanyard-cli", "lanyard-coordinator"):
        shared = {"/var/lib/lanyard", "/var/lib/lanyard/models", "/etc/lanyard"}
        check_purge(first, package, files[package] - shared)
    assert (first.root / "var/lib/lanyard/models/model.gguf").exists(), "purge took the models along"


def main():
    parser = argparse.ArgumentParser()
    for name in ("bundle", "model", "base"):
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    a = parser.parse_args()
    if why := cannot():
        print(f"skipped: {why}")
        return 77
    with Lab("pkg", a.base.resolve()) as lab:
        test(lab, a)
    print("packages: all good")
    return 0


if __name__ == "__main__":
    sys.exit(main())
