"""Ansible's way into a machine of lab.py: nsenter into the process that is its process 1."""
import shutil
import subprocess

from ansible.errors import AnsibleError
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
    name: lab
    short_description: machines of tests/package/lab.py
    description: Runs commands in the namespaces of a booted test machine.
    options:
      leader:
        description: process 1 of the machine, as the host numbers it
        vars:
          - name: lab_leader
"""


class Connection(ConnectionBase):
    transport = "lab"
    has_pipelining = True

    def _connect(self):
        self._connected = True
        return self

    def _inside(self, command):
        return ["nsenter", "--target", str(self.get_option("leader")), "--all", "--root", "env", "-i", "LC_ALL=C.UTF-8",
                "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", command]

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = subprocess.run(self._inside(cmd), input=in_data, capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)
        with open(in_path, "rb") as source:
            done = subprocess.run(self._inside(f"cat >{out_path}"), stdin=source, capture_output=True, check=False)
        if done.returncode != 0:
            raise AnsibleError(f"cannot write {out_path}: {done.stderr.decode()}")

    def fetch_file(self, in_path, out_path):
        super().fetch_file(in_path, out_path)
        with open(out_path, "wb") as target:
            process = subprocess.Popen(self._inside(f"cat {in_path}"), stdout=subprocess.PIPE)
            shutil.copyfileobj(process.stdout, target)
        if process.wait() != 0:
            raise AnsibleError(f"cannot read {in_path}")

    def close(self):
        self._connected = False
