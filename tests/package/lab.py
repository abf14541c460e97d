"""Machines for tests of what is installed: Debian 12 by debootstrap, an overlay each, booted with systemd as process 1 by
systemd-nspawn, on a bridge of their own without a way out. Needs root; cannot() says what is missing.

    with Lab("demo", base) as lab:
        a = lab.machine("a")
        a.run("systemctl", "is-system-running")
"""
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-apt,ca-certificates,iproute2,procps"
MIRROR = "http://deb.debian.org/debian"


def cannot():
    """Why no lab can be made here, or None."""
    if os.geteuid() != 0:
        return "needs root (machines are booted by systemd-nspawn)"
    missing = [p for p in ("debootstrap", "systemd-nspawn", "nsenter", "ip") if shutil.which(p) is None]
    if missing:
        return f"missing: {', '.join(missing)} (packages debootstrap, systemd-container, util-linux, iproute2)"
    return None


def make_base(folder):
    """Debian 12 as every machine starts from it; made once and kept."""
    if (folder / "etc/debian_version").exists():
        return
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(part), MIRROR], check=True,
                   stdout=subprocess.DEVNULL)
    part.rename(folder)


def call(*words, **options):
    return subprocess.run([str(w) for w in words], check=True, **options)


class Machine:
    def __init__(self, lab, name, address):
        self.name, self.address = name, address
        self.folder = lab.folder / name
        self.root = self.folder / "root"
        for part in ("upper", "scratch", "root"):
            (self.folder / part).mkdir(parents=True)
        call("mount", "-t", "overlay", "overlay", "-o",
             f"lowerdir={lab.base},upperdir={self.folder}/upper,workdir={self.folder}/scratch", self.root)
        (self.root / "etc/hostname").write_text(name + "\n")
        (self.root / "etc/machine-id").write_text("")
        with open(self.folder / "console.log", "wb") as log:
            self.process = subprocess.Popen(
                ["systemd-nspawn", "--register=no", "--keep-unit", "--quiet", "--boot", f"--directory={self.root}",
                 f"--machine={name}", f"--network-bridge={lab.bridge}", "--resolv-conf=off"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.leader = self._leader()
        self._wait_booted()
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "addr", "add", f"{address}/24", "dev", "host0")
        self.run("ip", "link", "set", "host0", "up")

    def _leader(self):
        path = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for _ in range(200):
            children = path.read_text().split() if path.exists() else []
            if children and "systemd" in pathlib.Path(f"/proc/{children[0]}/comm").read_text():
                return int(children[0])
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} did not start: {(self.folder / 'console.log').read_text()[-2000:]}")

    def _wait_booted(self):
        state = ""
        for _ in range(300):
            state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            if state in ("running", "degraded"):
                return
            time.sleep(0.2)
        raise RuntimeError(f"{self.name} did not boot: {state}")

    def run(self, *words, check=True, text_in=None):
        """A command on the machine; its outputs come back as text."""
        done = subprocess.run(["nsenter", "--target", str(self.leader), "--all", "--root", "env", "-i", "LC_ALL=C.UTF-8",
                               "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                               "DEBIAN_FRONTEND=noninteractive", *[str(w) for w in words]],
                              capture_output=True, text=True, input=text_in)
        if check and done.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def put(self, source, target):
        """Copies a file or folder of the host onto the machine."""
        target = self.root / str(target).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, target)

    def property(self, unit, name):
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()  # asks its systemd to power off
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        subprocess.run(["umount", "--lazy", str(self.root)], check=False)


class Lab:
    def __init__(self, name, base):
        self.base, self.bridge = base, f"ly{name}"[:15]
        number = sum(name.encode()) % 200 + 20
        self.net = f"10.98.{number}"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"lanyard-lab-{name}-"))
        self.machines = []

    def __enter__(self):
        make_base(self.base)
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)
        call("ip", "link", "add", self.bridge, "type", "bridge")
        call("ip", "addr", "add", f"{self.net}.1/24", "dev", self.bridge)
        call("ip", "link", "set", self.bridge, "up")
        return self

    def machine(self, name):
        made = Machine(self, name, f"{self.net}.{len(self.machines) + 10}")
        self.machines.append(made)
        return made

    def __exit__(self, kind, value, trace):
        for machine in self.machines:
            if kind is not None:
                words = machine.run("journalctl", "--no-pager", "-n", "40", "-u", "lanyard-*", check=False)
                print(f"--- journal of {machine.name}\n{words.stdout}")
            machine.stop()
        subprocess.run(["ip", "link", "del", self.bridge], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
