#!/usr/bin/env python3
"""Every program that `dev`, tools/, packaging/ and tests/ call comes with a package that `dev` installs, as a test.

programs.py [--root FOLDER]   prints "path:line: program: why", exits 1 if there is anything.

A call is: the first word of a list in Python (or of `run`, `call`, `which` and their like), the first word of a
command in a shell script. Which package has it says dpkg; it must be one of the lists at the top of `dev`, what
one of these depends on, an essential package, or what README asks for before the first command.
"""
import argparse
import ast
import collections
import functools
import pathlib
import re
import shutil
import subprocess
import sys

# README asks for these before the first command.
BEFORE = {"git", "sudo", "ca-certificates"}
# No Debian package of main has them: who calls them must live without.
OPTIONAL = {"nvcc", "ptxas", "nvidia-smi"}
CALLS = {"run", "Popen", "call", "check_call", "check_output", "which", "execvp", "execve"}
# What only ./dev package and the lab's tests install; dpkg has the last word where it is there.
NOT_EVERYWHERE = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "lintian": "lintian",
                  "patchelf": "patchelf", "ansible": "ansible-core", "ansible-playbook": "ansible-core",
                  "ansible-lint": "ansible-lint", "dpkg-scanpackages": "dpkg-dev", "dpkg-buildpackage": "dpkg-dev",
                  "xz": "xz-utils"}
# Words of lanyard's own command line that are programs too.
VERBS = {"node"}
OWN = {"lanyard", "lanyard-coordinator", "lanyard-worker"}
# Machines that a test boots have package lists of their own; only files under these folders need the lab's lists.
LAB = ("tests/package/", "packaging/", "ansible/")
SHELL_OWN = set("""if then elif else fi for while until do done case esac in function select time coproc { } ! [[ ]]
 [ . : alias bg break cd command continue declare disown echo eval exec exit export false getopts hash let local
 mapfile printf pwd read readarray readonly return set shift shopt source test trap true type ulimit umask unset
 wait""".split())

Call = collections.namedtuple("Call", "path line program sure")


def python_calls(path, text):
    """Programs that a Python file starts. A list that is no argument of a known call counts only if such a program is there."""
    def constant(node):
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None

    for node in ast.walk(ast.parse(text)):
        first, sure = None, False
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            owner = getattr(getattr(node.func, "value", None), "id", "")
            if name in CALLS and (isinstance(node.func, ast.Name) or owner in ("subprocess", "shutil", "os", "pool")):
                argument = node.args[0]
                if isinstance(argument, (ast.List, ast.Tuple)) and argument.elts:
                    argument = argument.elts[0]
                first, sure = constant(argument), True
        elif isinstance(node, (ast.List, ast.Tuple)) and len(node.elts) > 1:
            first = constant(node.elts[0])
            if first == "sh" and constant(node.elts[1]) == "-c" and len(node.elts) > 2 and constant(node.elts[2]):
                yield from shell_calls(path, node.elts[2].value, node.lineno)
        if first and re.fullmatch(r"[a-z][\w.+-]*", first) and (sure or first not in VERBS):
            yield Call(path, node.lineno, first, sure)


SUBSTITUTION = r"\$\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
# Read from left to right, so that a quote within another one opens nothing.
QUOTED = re.compile(r"\\.|\$'(?:\\.|[^'\\])*'|'[^']*'|(?:^|(?<=\s))#[^\n]*"
                    r'|"(?:' + SUBSTITUTION + r'|\\.|[^"\\])*"', re.S | re.M)
BLANK = (
    re.compile(r"<<-?\s*(['\"]?)(\w+)\1[^\n]*\n.*?^\s*\2$", re.S | re.M),  # here documents
    re.compile(r"\$?\(\(.*?\)\)", re.S),  # arithmetic
    re.compile(r"\[\[ .*? \]\]", re.S),
    re.compile(r"\w+\+?=\((?:[^()]|\([^()]*\))*\)"),  # arrays
)
CASE = re.compile(r"(?m)^\s*[^\s()]+(?:\s*\|\s*[^\s()]+)*(\))(?=\s)")
BEFORE_A_COMMAND = r"\b(?:then|do|else|elif|if|while|until|exec|time|xargs|sudo)\b"
COMMAND = re.compile(r"(?:^|[\n;|&(`{!]|\$\(|" + BEFORE_A_COMMAND + r")[ \t]*((?:\w+=[^\s;|&()]*[ \t]+)*)"
                     r"(?!" + BEFORE_A_COMMAND + r")([A-Za-z.][\w./+-]*)(?=[\s;|&)`]|$)", re.M)


def shell_calls(path, text, line=1):
    """Programs that a shell script starts: the first word of each command, by a scan that knows quotes and substitutions."""
    functions = set(re.findall(r"^\s*(?:function\s+)?([\w-]+)\s*\(\)", text, re.M))
    original = text

    def blank(match):
        return re.sub(r"[^\n]", " ", match.group())

    def unquoted(match):
        """Of a quoted text only the commands in it stay."""
        if match.group()[0] != '"':
            return blank(match) if match.group()[0] == "#" else "_" * len(match.group())
        kept = [m.span() for m in re.finditer(SUBSTITUTION, match.group())]
        return "".join(c if any(a <= i < b for a, b in kept) else "_" for i, c in enumerate(match.group()))

    text = BLANK[0].sub(blank, text.replace("\\\n", "  "))
    text = QUOTED.sub(unquoted, text)
    for pattern in BLANK[1:]:
        text = pattern.sub(blank, text)
    text = CASE.sub(lambda m: " " * (len(m.group()) - 1) + ";", text)
    position = 0
    while match := COMMAND.search(text, position):
        position = max(match.end(2), position + 1)
        word = match.group(2)
        if word not in SHELL_OWN and word not in functions and "/" not in word:
            yield Call(path, line + original.count("\n", 0, match.start(2)), word, True)


@functools.lru_cache(maxsize=None)
def package_of(program):
    """The Debian package that a program on this machine belongs to, or None."""
    path = shutil.which(program, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if path is None:
        return NOT_EVERYWHERE.get(program)
    real = pathlib.Path(path).resolve()
    for p in {str(real), path, re.sub(r"^/usr", "", str(real)), re.sub(r"^/usr", "", path)}:
        out = subprocess.run(["dpkg", "-S", p], capture_output=True, text=True)
        if out.returncode == 0 and not out.stdout.startswith("diversion"):
            return out.stdout.split(":")[0].split(",")[0]
    return None


@functools.lru_cache(maxsize=None)
def known_packages():
    """{package: (depends, essential)} of what is installed here, virtual names included."""
    form = "${Package}\t${Essential}\t${Priority}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
    text = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout
    known = {}
    for row in text.splitlines():
        name, essential, priority, depends, provides = row.split("\t")
        needs = {re.split(r"[\s(:]", d.strip())[0] for part in depends.split(",") for d in part.split("|")}
        known.setdefault(name, (needs - {""}, essential == "yes" or priority == "required"))
        for p in provides.split(","):
            if p.strip():
                known.setdefault(re.split(r"[\s(]", p.strip())[0], ({name}, False))
    return known


def closure(packages):
    """These packages with all that they depend on."""
    known, todo, done = known_packages(), list(packages), set()
    while todo:
        p = todo.pop()
        if p not in done:
            done.add(p)
            todo += known.get(p, (set(), False))[0]
    return done


def package_lists(dev_text):
    """{NAME: packages} of the lines PACKAGES_NAME="…" in dev."""
    return {name: set(words.split()) for name, words in re.findall(r'PACKAGES_(\w+)="([^"]*)"', dev_text)}


def calls_of(path, text):
    if path.endswith(".py"):
        return python_calls(path, text)
    if path.endswith(".sh") or text.startswith(("#!/bin/sh", "#!/usr/bin/env bash", "#!/bin/bash")):
        return shell_calls(path, text)
    return ()


def check(files, dev_text):
    """Findings (path, line, program, why) of {path: text}."""
    lists = package_lists(dev_text)
    everyday = closure(BEFORE | lists.get("BUILD", set()) | lists.get("TEST", set()))
    everything = closure(everyday.union(*lists.values()))
    essential = {p for p, (_, e) in known_packages().items() if e}
    for path, text in sorted(files.items()):
        allowed = everything if path == "dev" or path.startswith(LAB) else everyday
        seen = {}
        for call in calls_of(path, text):
            before = seen.setdefault((call.line, call.program), call)
            seen[call.line, call.program] = before if before.sure else call
        for call in sorted(seen.values()):
            if call.program in OPTIONAL | OWN:
                continue
            package = package_of(call.program)
            if package is None:
                if call.sure and shutil.which(call.program) is None:
                    yield call.path, call.line, call.program, "no package of this machine has it"
            elif package not in allowed | essential:
                yield (call.path, call.line, call.program, f"is of package {package}, which no list that dev installs here names "
                       "(PACKAGES_BUILD, PACKAGES_TEST)")
            elif package not in everyday | essential and NOT_EVERYWHERE.get(call.program) != package:
                yield (call.path, call.line, call.program, f"is of package {package}, which is not on every machine that runs "
                       "this test: NOT_EVERYWHERE in tools/tidy/programs.py must name it")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    root = parser.parse_args().root
    names = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=True).stdout.split("\0")
    files = {}
    for name in names:
        if name in ("dev", ".ci/run") or name.startswith(("tools/", "tests/", "packaging/")):
            path = root / name
            if path.suffix in (".py", ".sh", "") and path.is_file():
                files[name] = path.read_text(errors="replace")
    findings = list(check(files, (root / "dev").read_text()))
    for path, line, program, why in findings:
        print(f"{path}:{line}: {program}: {why}")
    print(f"programs: {len(findings)} findings in {len(files)} files")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
