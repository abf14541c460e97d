#!/usr/bin/env python3
"""The house rules as a test: who may include whom, lengths, leftovers, files that nothing builds.

tidy.py [--root FOLDER] [--compile-commands FILE]   prints "path:line: rule: what", exits 1 if there is anything.
Rules that count (functions, parameters) have known exceptions in ratchet.txt: they may shrink, never grow.
"""
import argparse
import collections
import fnmatch
import pathlib
import re
import subprocess
import sys

import commands

FILE_LINES = 800
FUNCTION_LINES = 70
PARAMETERS = 5
COLUMNS = 100  # what clang-format may not break (a raw string, a literal) is broken by hand
SOURCES = (".cc", ".h", ".cu", ".cuh")
BEAST_FILES = 3
# Who reads the environment; others are given values.
GETENV = {"base/environment.cc"}
LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|Users|root|work|mnt)/[\w.-]+")
# Files that words name: with a folder ("base/log.h", "../numerics.md", "ops/cpu/*_avx2.cc") or alone ("log.h").
NAMED = re.compile(r"(?<![\w./<{$~*-])((?:[\w.*-]+/)+[\w.*-]+\.(?:cc|h|cuh?|py|sh|md|proto|cmake|toml|txt|json|service|yml)"
                   r"|[a-z]\w*\.(?:cc|h|cuh?|py|proto|cmake))(?![\w/(]|\.\w)")
# What is for the reader to put in: x.cc, x_test.cc, NOUN.cc.
PLACEHOLDER = re.compile(r"(x(_\w+)?|[A-Z]+)\.\w+$")
FOREIGN = {"cuda.h", "avx512fintrin.h", "pynvml.py", "config.py"}  # of others, which comments speak of
TEXT = {*SOURCES, ".py", ".sh", ".md", ".txt", ".proto", ".cmake", ".toml", ""}

Finding = collections.namedtuple("Finding", "path line rule text")


def tracked(root):
    try:
        out = subprocess.run(["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             capture_output=True, check=True).stdout.decode()
        names = [n for n in out.split("\0") if n]
    except (subprocess.CalledProcessError, FileNotFoundError):
        names = [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()]
    return sorted(n for n in set(names) if (root / n).is_file())


class Rooms:
    def __init__(self, text):
        self.allowed = {}
        for line in text.splitlines():
            line = line.split("#")[0].strip()
            if line:
                room, _, rest = line.partition(":")
                self.allowed[room.strip()] = rest.split()

    def of(self, path):
        """The innermost room that a path lies in, or None."""
        parts = path.split("/")[:-1]
        for n in range(len(parts), 0, -1):
            if "/".join(parts[:n]) in self.allowed:
                return "/".join(parts[:n])
        return None

    def may(self, room, included):
        target = "proto" if included.startswith("lanyard/v1/") else self.of(included)
        if target is None or target == room:
            return True
        allowed = self.allowed[room]
        return "*" in allowed or target in allowed or included in allowed


def blank_comments_and_strings(text):
    """The same text with comments and literals as spaces; newlines stay."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|R"([^(\s]*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.S)

    def blank(match):
        # A digit separator (1'000) is no literal; the pattern needs a quote on both sides, so 1'000'000 could match.
        if match.group().startswith("'") and match.start() > 0 and text[match.start() - 1].isalnum():
            return match.group()
        return re.sub(r"[^\n]", " ", match.group())

    return pattern.sub(blank, text)


CONTAINER = re.compile(r"\b(namespace|class|struct|enum|union)\b[^()]*$|extern\s*$")
NAME = re.compile(r"([~\w:]+|operator\s*[^\s\w(]+|operator\(\))\s*\(")


def parameters(header):
    """Number of parameters of the function whose header this is."""
    start = NAME.search(header)
    if not start:
        return 0
    depth, angle, count, seen = 0, 0, 0, False
    for c in header[start.end() - 1:]:
        if c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
            if depth == 0:
                break
        elif c == "<":
            angle += 1
        elif c == ">":
            angle = max(0, angle - 1)
        elif c == "," and depth == 1 and angle == 0:
            count += 1
        elif not c.isspace() and depth == 1:
            seen = True
    return count + 1 if seen else 0


def functions(text):
    """Yields (line, name, lines, parameters) of every function body outside other functions; a heuristic on braces."""
    text = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.M)
    stack, header, line, start = [], "", 1, 1
    for c in text:
        if c == "\n":
            line += 1
        if c == "{":
            inside = next((s for s in stack if s[0] == "function"), None)
            head = header.strip()
            if inside or (stack and stack[-1][0] == "other"):
                stack.append(("other", line, "", 0))
            elif CONTAINER.search(head) and not head.endswith(")"):
                stack.append(("container", line, "", 0))
                header = ""
            elif re.search(r"\)[^)]*:[^:]", head) and re.search(r"[\w>]$", head):
                stack.append(("initialiser", line, "", 0))  # member{value} of a constructor
            elif "(" in head and "=" not in head.split("(")[0].replace("operator=", ""):
                name = NAME.search(head)
                test = re.search(r"\bTEST(?:_F|_P)?\((\w+),\s*(\w+)\)", head)
                known_as = f"{test.group(1)}.{test.group(2)}" if test else name.group(1) if name else "?"
                stack.append(("function", start, known_as, parameters(head)))
            else:
                stack.append(("other", line, "", 0))
        elif c == "}":
            if stack:
                kind, first, name, params = stack.pop()
                if kind == "function":
                    yield first, name, line - first + 1, params
                header = header + "}" if kind == "initialiser" else ""
        elif c == ";":
            header = ""
        else:
            if not header.strip():
                start = line
            header += c


def check_source(path, text, rooms, ratchet):
    lines = text.splitlines()
    if len(lines) > FILE_LINES:
        yield Finding(path, 1, "file-length", f"{len(lines)} lines, at most {FILE_LINES}")
    code = blank_comments_and_strings(text)
    room = rooms.of(path)
    for i, line in enumerate(lines, 1):
        if len(line) > COLUMNS:
            yield Finding(path, i, "line-length", f"{len(line)} columns, at most {COLUMNS}")
        included = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if not included or room is None:
            continue
        name = included.group(2)
        if included.group(1) == '"' and not rooms.may(room, name):
            yield Finding(path, i, "room", f"{room}/ may not include {name} (tools/tidy/rooms.txt)")
        grpc = name.startswith(("grpc/", "grpcpp/", "grpc++/")) or name.endswith(".grpc.pb.h")
        if grpc and room not in ("net", "proto", "tests", "bench"):
            yield Finding(path, i, "grpc", f"gRPC stays in net/: {name}")
    if path not in GETENV:
        for i, line in enumerate(code.splitlines(), 1):
            if re.search(r"\b(secure_)?getenv\s*\(", line) and not path.startswith(("tests/", "bench/")) \
                    and not path.endswith("_test.cc") and "/testing/" not in path:
                yield Finding(path, i, "getenv", "the environment is read by base/environment.h")
    if path.endswith((".h", ".cuh")) and "#pragma once" not in text:
        yield Finding(path, 1, "pragma-once", "a header starts with #pragma once")
    for first, name, length, params in functions(code):
        known = ratchet.get(f"{path}:{name}", (FUNCTION_LINES, PARAMETERS))
        if length > max(known[0], FUNCTION_LINES):
            yield Finding(path, first, "function-length", f"{name} has {length} lines, at most {FUNCTION_LINES}")
        if params > max(known[1], PARAMETERS):
            yield Finding(path, first, "parameters", f"{name} takes {params}, at most {PARAMETERS}; then an options struct")


def check_text(path, text):
    if path.startswith("tools/tidy/") or path.startswith("tests/tidy/"):
        return  # they speak about what they look for
    for i, line in enumerate(text.splitlines(), 1):
        if LEFTOVER.search(line):
            yield Finding(path, i, "leftover", line.strip()[:80])
        if MACHINE_PATH.search(line):
            yield Finding(path, i, "machine-path", line.strip()[:80])


def words(path, text):
    """Yields (line, words for readers): all of a document, the comments of a source."""
    mark = {".md": "", ".cc": "//", ".h": "//", ".cu": "//", ".cuh": "//", ".txt": "#", ".cmake": "#", ".py": "#", ".sh": "#"}
    suffix = pathlib.PurePath(path).suffix
    if suffix not in mark or path.startswith(("tools/tidy/", "tests/tidy/")):
        return
    for i, line in enumerate(text.splitlines(), 1):
        if mark[suffix] in line:
            yield i, line.split(mark[suffix], 1)[1] if mark[suffix] else line


def check_named(path, text, names):
    """A file that a document or a comment names must be there, or a reader looks for it in vain."""
    alone, folders = {n.split("/")[-1] for n in names}, {n.split("/")[0] for n in names if "/" in n}
    for i, line in words(path, text):
        for named in NAMED.findall(line):
            if PLACEHOLDER.match(named.split("/")[-1]) or named in FOREIGN:
                continue
            if "/" not in named:
                there = named in alone
            elif named.startswith("../"):
                parts = path.split("/")[:-1]
                while named.startswith("../") and parts:
                    named, parts = named[3:], parts[:-1]
                there = "/".join([*parts, named]) in names
            else:
                there = named.split("/")[0] not in folders or bool(fnmatch.filter(names, named))
            if not there:
                yield Finding(path, i, "dead-path", f"names {named}, which is not there")


def check_whole(names, texts, compiled):
    """Rules that need every file at once."""
    beast = [n for n in names if n.endswith((".cc", ".h")) and re.search(r'#include [<"]boost/beast', texts.get(n, ""))]
    for n in beast[BEAST_FILES:]:
        yield Finding(n, 1, "beast", f"Beast compiles slowly: at most {BEAST_FILES} files, {len(beast)} include it")
    included = set()
    for text in texts.values():
        included.update(re.findall(r'#\s*include\s*"([^"]+)"', text))
    for n in names:
        if n.endswith(".h") and n not in included:
            yield Finding(n, 1, "dead-header", "nothing includes it")
    if compiled is None:
        return
    cmake = "\n".join(t for n, t in texts.items() if n.endswith("CMakeLists.txt"))
    for n in names:
        # Fuzz targets and canaries are only built by clang: there it is enough that a CMakeLists.txt names them.
        if n.endswith(".cc") and n not in compiled and not (n.endswith(("_fuzz.cc", "_canary.cc")) and n.split("/")[-1] in cmake):
            yield Finding(n, 1, "never-built", "no target compiles it")


def read_ratchet(path):
    known = {}
    if path.exists():
        for line in path.read_text().splitlines():
            fields = line.split("#")[0].split()
            if fields:
                known[fields[0]] = (int(fields[1]), int(fields[2]))
    return known


def run(root, compile_commands=None):
    """Every finding in a tree."""
    here = root / "tools" / "tidy"
    rooms = Rooms((here / "rooms.txt").read_text())
    ratchet = read_ratchet(here / "ratchet.txt")
    names = tracked(root)
    texts = {}
    for n in names:
        if pathlib.PurePath(n).suffix in TEXT and not n.startswith("tests/data/"):
            try:
                texts[n] = (root / n).read_text()
            except UnicodeDecodeError:
                pass
    findings = []
    for n, text in texts.items():
        if n.endswith(SOURCES):
            findings += check_source(n, text, rooms, ratchet)
        findings += check_text(n, text)
        findings += check_named(n, text, names)
    compiled = None
    if compile_commands:
        compiled = set()
        for entry in commands.read(compile_commands):
            file = pathlib.Path(entry["directory"], entry["file"]).resolve()
            if file.is_relative_to(root):
                compiled.add(str(file.relative_to(root)))
    findings += check_whole(names, texts, compiled)
    return findings


def print_ratchet(root):
    for n in tracked(root):
        if n.endswith(SOURCES):
            for _, name, length, params in functions(blank_comments_and_strings((root / n).read_text())):
                if length > FUNCTION_LINES or params > PARAMETERS:
                    print(f"{n}:{name} {length} {params}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    parser.add_argument("--compile-commands", type=pathlib.Path)
    parser.add_argument("--print-ratchet", action="store_true", help="lines for ratchet.txt of what is over now")
    args = parser.parse_args()
    if args.print_ratchet:
        print_ratchet(args.root.resolve())
        return 0
    findings = run(args.root.resolve(), args.compile_commands)
    for f in findings:
        print(f"{f.path}:{f.line}: {f.rule}: {f.text}")
    print(f"tidy: {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
