#!/usr/bin/env python3
"""The canary of tools/tidy/programs.py: what a script calls is found, and a program of an unnamed package is told."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools" / "tidy"))
import programs  # noqa: E402

DEV = 'readonly PACKAGES_BUILD="cmake"\nreadonly PACKAGES_LAB="tar"\n'


def names(path, text):
    return [(c.line, c.program) for c in programs.calls_of(path, text)]


class Shell(unittest.TestCase):
    def test_finds_the_first_word_of_each_command(self):
        text = ('#!/usr/bin/env bash\n'
                'helper() { find . | sort; }\n'
                'x=$(stat -c %s "$1") && FOO=1 ninja -C "$(realpath build)"\n'
                'if grep -q a b; then cut -d: -f1; else sed s/a/b/; fi\n'
                'helper "not ip here" # nor ip here\n'
                "printf 'ip; ip\nip' | sudo tee /x\n"
                'readonly LIST="curl\n  openssl"\n'
                'words=(curl openssl)\n'
                'case $1 in\n  git | tar) [[ $1 =~ ^(wc|ip)$ ]] && (( curl > 1 )) ;;\nesac\n'
                'cat <<TEXT\nip link\nTEXT\n')
        found = names("a.sh", text)
        self.assertEqual({p for _, p in found},
                         {"find", "sort", "stat", "ninja", "realpath", "grep", "cut", "sed", "tee", "cat"})
        self.assertIn((3, "stat"), found)
        self.assertIn((4, "sed"), found)
        self.assertIn((14, "cat"), found)  # lines count through quotes and here documents


class Python(unittest.TestCase):
    def test_finds_lists_calls_and_scripts(self):
        text = ('import subprocess, shutil\n'
                'subprocess.run(["ip", "link"])\n'
                'shutil.which("curl")\n'
                'command = ["unshare", "-n", "true"]\n'
                'subprocess.run(["sh", "-c", "tar -x && ip link"])\n'
                'words = ["no-such-program-anywhere", "x"]\n'
                'subprocess.run([program, "curl"])\n')
        found = names("a.py", text)
        self.assertLessEqual({(2, "ip"), (3, "curl"), (4, "unshare"), (5, "tar"), (5, "ip")}, set(found))
        self.assertNotIn((7, "curl"), found)


class Verdict(unittest.TestCase):
    def check(self, path, text):
        return [(line, program) for _, line, program, _ in programs.check({path: text}, DEV)]

    def test_speaks_of_a_package_that_no_list_names(self):
        self.assertEqual(self.check("tests/a.py", 'import subprocess\nsubprocess.run(["ip", "link"])\n'), [(2, "ip")])
        self.assertEqual(self.check("tests/a.sh", "#!/bin/sh\ncurl x\n"), [(2, "curl")])

    def test_speaks_of_a_program_that_nobody_has(self):
        self.assertEqual(self.check("tests/a.sh", "#!/bin/sh\nno-such-program x\n"), [(2, "no-such-program")])

    def test_is_quiet_about_named_essential_and_dependent_packages(self):
        text = "#!/bin/sh\ncmake . && git log | sed s/a/b/\nctest\n"
        self.assertEqual(self.check("tests/a.sh", text), [])

    def test_a_lists_folder_counts(self):
        lab = DEV.replace("tar", "dpkg-dev")
        text = {"tests/package/a.sh": "#!/bin/sh\ndpkg-scanpackages x\n", "tests/a.sh": "#!/bin/sh\ndpkg-scanpackages x\n"}
        self.assertEqual([f[0] for f in programs.check(text, lab)], ["tests/a.sh"])

    def test_what_a_bare_machine_lacks_must_be_named(self):
        lab = DEV.replace("tar", "curl")
        found = list(programs.check({"tests/package/a.sh": "#!/bin/sh\ncurl x\n"}, lab))
        self.assertEqual([f[2] for f in found], ["curl"])
        self.assertIn("NOT_EVERYWHERE", found[0][3])


if __name__ == "__main__":
    unittest.main()
