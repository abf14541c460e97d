#!/usr/bin/env python3
"""Man pages and bash completion of a program, from what its --help says (CLI11's format).

make_docs.py --program build/release/bin/lanyard --section 1 --man FOLDER --completions FOLDER
A program with verbs gets a page for each (lanyard-node-status.1), as git has them.
"""
import argparse
import pathlib
import re
import subprocess

OPTION = re.compile(r"^  (-\S+|[A-Za-z][\w,.-]*)(.*)$")
FILE_OPTIONS = re.compile(r"--(model|models|state|config|out|file|machines|.*-file|admin)$")


class Page:
    """One --help: description, usage, sections of (head, text) entries, the rest as it is."""

    def __init__(self, program, words):
        text = subprocess.run([program, *words[1:], "--help"], capture_output=True, text=True, check=True).stdout
        self.words = words
        lines = text.rstrip().splitlines()
        usage = next(i for i, line in enumerate(lines) if line.startswith("Usage:"))
        self.description = " ".join(lines[:usage]).strip()
        self.usage = lines[usage].removeprefix("Usage:").strip()
        self.sections, self.rest = [], []
        self._read(lines[usage + 1:])

    def _read(self, lines):
        section = None
        for line in lines:
            head = re.match(r"^(Positionals|Options|Subcommands|[A-Z][\w ]*):$", line)
            entry = OPTION.match(line)
            if head and head.group(1) != "Examples":
                section = []
                self.sections.append((head.group(1), section))
            elif section is not None and entry and not line.startswith("   "):
                shown, _, about = (entry.group(1) + entry.group(2)).partition("  ")
                section.append([shown.strip(), about.strip()])
            elif section and line.startswith(" " * 20):
                section[-1][1] = (section[-1][1] + " " + line.strip()).strip()
            elif line.strip() or self.rest:
                section = None
                self.rest.append(line)

    def entries(self, name):
        return [e for title, entries in self.sections if title == name for e in entries]

    def verbs(self):
        return [shown.split(",")[0] for shown, _ in self.entries("Subcommands")]

    def options(self):
        out = []
        for title, entries in self.sections:
            for shown, _ in entries:
                if title not in ("Subcommands", "Positionals"):
                    out += [o for o in shown.split()[0].split(",") if o.startswith("--")]
        return out


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


def man_page(page, section, version, others):
    name = "-".join(page.words)
    command = " ".join(page.words)
    out = [f'.TH {name.upper()} {section} "" "Lanyard {version}" "Lanyard"', ".SH NAME",
           f"{roff(name)} \\- {roff(page.description[:1].lower() + page.description[1:].rstrip('.'))}", ".SH SYNOPSIS",
           f".B {roff(command)}", roff(page.usage.removeprefix(command).strip()), ".SH DESCRIPTION", roff(page.description)]
    for title, entries in page.sections:
        out.append(f".SH {title.upper()}")
        for shown, about in entries:
            out += [".TP", f".B {roff(shown)}", roff(about) or "\\&"]
    if page.rest:
        out += [".SH NOTES", ".nf", *(roff(line) for line in page.rest), ".fi"]
    if others:
        out += [".SH SEE ALSO", ", ".join(f"\\fB{roff(o)}\\fR({s})" for o, s in others)]
    return "\n".join(out) + "\n"


def walk(program, words):
    page = Page(program, words)
    yield page
    for verb in page.verbs():
        yield from walk(program, [*words, verb])


COMPLETION = """# bash completion for {name}, made from its --help.
_{function}()
{{
    local cur prev words cword
    _init_completion -n = || return
    local path={name} i
    for ((i = 1; i < cword; i++)); do
        case "$path ${{words[i]}}" in
            {paths}) path="$path ${{words[i]}}" ;;
        esac
    done
    case $prev in
        {files}) _filedir; return ;;
    esac
    case $path in
{cases}
    esac
}} &&
    complete -F _{function} {name}
"""


def completion(name, pages):
    cases, paths, files = [], [], set()
    for page in pages:
        path = " ".join(page.words)
        if len(page.words) > 1:
            paths.append(f'"{path}"')
        words = " ".join([*page.verbs(), *page.options()])
        cases.append(f'        "{path}") mapfile -t COMPREPLY < <(compgen -W "{words}" -- "$cur") ;;')
        files |= {o for o in page.options() if FILE_OPTIONS.search(o)}
    return COMPLETION.format(name=name, function=name.replace("-", "_"), paths=" | ".join(paths) or '""',
                             cases="\n".join(cases), files=" | ".join(sorted(files)) or '""')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--section", default="1")
    parser.add_argument("--version", required=True)
    parser.add_argument("--man", required=True, type=pathlib.Path)
    parser.add_argument("--completions", required=True, type=pathlib.Path)
    a = parser.parse_args()
    name = pathlib.Path(a.program).name
    pages = list(walk(str(pathlib.Path(a.program).resolve()), [name]))
    for folder in (a.man, a.completions):
        folder.mkdir(parents=True, exist_ok=True)
    for page in pages:
        others = [("-".join(page.words[:-1]), a.section)] if len(page.words) > 1 else []
        others += [("-".join([*page.words, verb]), a.section) for verb in page.verbs()]
        if not others:
            others = [(n, s) for n, s in (("lanyard", "1"), ("lanyard-coordinator", "8"), ("lanyard-worker", "8")) if n != name]
        path = a.man / f"{'-'.join(page.words)}.{a.section}"
        path.write_text(man_page(page, a.section, a.version, others))
    (a.completions / name).write_text(completion(name, pages))


if __name__ == "__main__":
    main()
