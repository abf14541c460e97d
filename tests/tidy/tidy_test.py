#!/usr/bin/env python3
"""The canary of tools/tidy: on a planted tree every rule must speak, and on a clean one none may."""
import json
import pathlib
import shutil
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "tidy"))
import tidy  # noqa: E402


class Planted(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        (self.root / "tools" / "tidy").mkdir(parents=True)
        shutil.copy(ROOT / "tools" / "tidy" / "rooms.txt", self.root / "tools" / "tidy")

    def plant(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def rules(self, compiled=None):
        commands = None
        if compiled is not None:
            commands = self.root / "compile_commands.json"
            commands.write_text(json.dumps([{"directory": str(self.root), "file": f} for f in compiled]))
        return {(f.rule, f.path) for f in tidy.run(self.root, commands)}

    def test_clean_tree_is_clean(self):
        self.plant("base/a.h", "#pragma once\nint A(int x);\n")
        self.plant("base/a.cc", '#include "base/a.h"\n\nint A(int x) { return x + 1; }\n')
        self.plant("model/b.cc", '#include "base/a.h"\n// a long "explanation" { of nothing\nint B() { return A(1); }\n')
        self.assertEqual(self.rules(["base/a.cc", "model/b.cc"]), set())

    def test_a_source_compiled_with_others_is_compiled(self):
        self.plant("base/a.cc", "int A() { return 1; }\n")
        self.plant("base/b.cc", "int B() { return 2; }\n")
        unity = "build/base/lanyard_base.dir/Unity/unity_0_cxx.cxx"
        self.plant(unity, f'#include "{self.root}/base/a.cc"\n')
        self.assertEqual(self.rules([unity]), {("never-built", "base/b.cc")})

    def test_includes_go_one_way(self):
        self.plant("base/a.h", '#pragma once\n#include "model/b.h"\n')
        self.plant("model/b.h", '#pragma once\n#include "base/a.h"\n')
        self.plant("engine/ops/c.cc", '#include "engine/d.h"\n')
        self.plant("engine/d.h", "#pragma once\n")
        self.plant("worker/e.cc", '#include "coordinator/f.h"\n')
        self.plant("coordinator/f.h", '#pragma once\n#include "engine/d.h"\n')
        self.plant("web/g.cc", '#include "coordinator/f.h"\n')
        rooms = {path for rule, path in self.rules() if rule == "room"}
        self.assertEqual(rooms, {"base/a.h", "engine/ops/c.cc", "worker/e.cc", "coordinator/f.h", "web/g.cc"})

    def test_grpc_stays_in_net(self):
        self.plant("net/a.cc", "#include <grpcpp/grpcpp.h>\n")
        self.plant("worker/b.cc", "#include <grpcpp/grpcpp.h>\n")
        self.plant("coordinator/c.cc", '#include "lanyard/v1/stage.grpc.pb.h"\n')
        self.assertEqual({p for r, p in self.rules() if r == "grpc"}, {"worker/b.cc", "coordinator/c.cc"})

    def test_beast_in_few_files(self):
        for i in range(4):
            self.plant(f"web/{i}.cc", "#include <boost/beast/core.hpp>\n")
        self.assertEqual(sum(r == "beast" for r, _ in self.rules()), 1)

    def test_lengths(self):
        long_body = "".join(f"  x += {i};\n" for i in range(80))
        self.plant("base/f.cc", f"namespace a {{\nint Long(int x) {{\n{long_body}  return x;\n}}\n}}  // namespace a\n")
        self.plant("base/m.cc", f"struct S {{\n  S() : y{{1}} {{\n{long_body}  }}\n  int y;\n}};\n")
        self.plant("base/short.cc", "".join(f"int F{i}() {{\n  return {i};\n}}\n" for i in range(50)))
        self.plant("base/wide.cc", "// " + "x" * 140 + "\n")
        self.plant("base/tall.cc", "\n" * 801)
        found = self.rules()
        self.assertEqual({p for r, p in found if r == "function-length"}, {"base/f.cc", "base/m.cc"})
        self.assertIn(("line-length", "base/wide.cc"), found)
        self.assertIn(("file-length", "base/tall.cc"), found)

    def test_ratchet_allows_what_is_known_and_no_more(self):
        body = "".join(f"  x += {i};\n" for i in range(80))
        self.plant("base/f.cc", f"int Long(int x) {{\n{body}  return x;\n}}\n")
        self.plant("tools/tidy/ratchet.txt", "base/f.cc:Long 83 1\n")
        self.assertEqual(self.rules(), set())
        self.plant("tools/tidy/ratchet.txt", "base/f.cc:Long 81 1\n")
        self.assertEqual(self.rules(), {("function-length", "base/f.cc")})

    def test_parameters(self):
        self.plant("base/p.cc", "void Five(int a, std::map<int, int> b, int c, int d, int e) {}\n"
                                "void Six(int a, int b, int c, int d, int e, F<void(int, int)> f) {}\n")
        found = [f for f in tidy.run(self.root) if f.rule == "parameters"]
        self.assertEqual([f.text.split()[0] for f in found], ["Six"])

    def test_leftovers_environment_and_paths(self):
        self.plant("base/a.cc", "// TO" + "DO later\n")
        self.plant("model/b.cc", 'const char* p = getenv("X");\n')
        self.plant("model/c.cc", '// says getenv("X") only in words\n')
        self.plant("docs/d.md", "see /ho" + "me/someone/notes\n")
        found = self.rules()
        self.assertEqual(found, {("leftover", "base/a.cc"), ("getenv", "model/b.cc"), ("machine-path", "docs/d.md")})

    def test_named_files_are_there(self):
        self.plant("base/a.cc", "// As in base/gone.h and gone_test.cc say.\nint A();\n")
        self.plant("base/b.cc", "// As base/a.cc, a.cc, base/*.cc, x_test.cc, cuda.h and src/others.cpp say.\n"
                                'const char* b = "base/gone.h";\n')
        self.plant("docs/a.md", "See [b](../docs/gone.md), `base/gone.h` and base/none_*.cc.\n")
        self.plant("docs/b.md", "See [a](a.md), [b](../docs/b.md), `base/a.cc`, `cli/NOUN.cc` and /etc/base/gone.toml.\n")
        self.plant("base/CMakeLists.txt", "# tools/gone.txt says more.\nadd_library(a a.cc)\n")
        found = [(f.path, f.text.split()[1].strip(",")) for f in tidy.run(self.root) if f.rule == "dead-path"]
        self.assertEqual(sorted(found), [
            ("base/CMakeLists.txt", "tools/gone.txt"), ("base/a.cc", "base/gone.h"), ("base/a.cc", "gone_test.cc"),
            ("docs/a.md", "base/gone.h"), ("docs/a.md", "base/none_*.cc"), ("docs/a.md", "docs/gone.md")])

    def test_nothing_lies_about_unbuilt(self):
        self.plant("base/used.cc", "int a;\n")
        self.plant("base/unused.cc", "int b;\n")
        self.plant("base/x_fuzz.cc", "int c;\n")
        self.plant("base/y_fuzz.cc", "int d;\n")
        self.plant("base/CMakeLists.txt", "lanyard_fuzz(x SOURCES x_fuzz.cc)\n")
        self.plant("base/alone.h", "#pragma once\n")
        found = self.rules(["base/used.cc"])
        self.assertEqual(found, {("never-built", "base/unused.cc"), ("never-built", "base/y_fuzz.cc"),
                                 ("dead-header", "base/alone.h")})


if __name__ == "__main__":
    unittest.main()
