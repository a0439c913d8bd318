# SPDX-License-Identifier: Apache-2.0
"""The house rules find what they are for, and nothing else."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import check_compatibility  # noqa: E402
import check_man  # noqa: E402
import check_man3  # noqa: E402
import check_rooms  # noqa: E402
import check_tidy  # noqa: E402
import run_tests  # noqa: E402


class Manual(unittest.TestCase):
    HELP = "usage: x [-c FILE]\n\n  -c, --config FILE  see TASKMILL_X; give-back stays\n  --help\n"
    PAGE = ".It Fl c Ar file , Fl -config Ar file\nSee\n.Ev TASKMILL_X .\n.It Fl -help\n"

    def test_a_page_that_agrees(self):
        self.assertEqual(list(check_man.compare("x.1", self.HELP, self.PAGE)), [])

    def test_what_is_missing_on_either_side_is_told(self):
        page = self.PAGE.replace("-config", "-konfig").replace("TASKMILL_X", "nothing")
        self.assertEqual(list(check_man.compare("x.1", self.HELP, page)),
                         ["x.1: --config of --help is missing", "x.1: --help does not know --konfig",
                          "x.1: TASKMILL_X of --help is missing"])

    def test_commands_are_the_words_at_the_left(self):
        self.assertEqual(check_man.commands("usage: x\n\n  send   a task\n    more\n"), {"send"})


class ManualOfTheLibrary(unittest.TestCase):
    HEADER = """#define TASKMILL_API __attribute__((x))
struct taskmill_go_options {
    size_t size;
    const char *first, *second; /* TASKMILL_NOT: a comment */
    int (*third)(void *arg, int n);
};
TASKMILL_API int taskmill_go_with(struct taskmill_app *app, int (*f)(int a, int b),
                                  const struct taskmill_go_options *options);
#define taskmill_go(app, f, ...) \\
    taskmill_go_with(app, f, TASKMILL_OPTIONS_(taskmill_go_options, __VA_ARGS__))
TASKMILL_API extern const int taskmill_number;
"""
    PAGE = """.Sh NAME
.Nm taskmill_go ,
.Nm taskmill_go_with ,
.Nm taskmill_number
.Nd test
.Sh SYNOPSIS
.Ft int
.Fo taskmill_go
.Fa "struct taskmill_app *app"
.Fa "int (*f)(int a, int b)"
.Fa "..."
.Fc
.Ft int
.Fn taskmill_go_with "struct taskmill_app *app" "int (*f)(int a, int b)" "const struct taskmill_go_options *options"
.Vt extern const int taskmill_number
.Sh DESCRIPTION
.It Va first , second
.It Va third
"""

    def names(self, **pages):
        declared = check_man3.declarations(self.HEADER)
        return list(check_man3.compare_names(declared, {f"{name}.3": page for name, page in pages.items()}))

    def test_a_page_that_agrees(self):
        self.assertEqual(self.names(taskmill_go=self.PAGE), [])
        self.assertEqual(list(check_man3.compare_words(self.HEADER, set(), {"x.3": self.PAGE})), [])

    def test_every_function_is_in_one_page(self):
        self.assertEqual(self.names(), [f"{name}: is in the SYNOPSIS of no page" for name in
                                        ("taskmill_go", "taskmill_go_with", "taskmill_number")])
        both = self.names(taskmill_go=self.PAGE, taskmill_two=self.PAGE)
        self.assertEqual(both[0], "taskmill_go: is in the SYNOPSIS of taskmill_go.3 and taskmill_two.3")

    def test_name_and_synopsis_have_the_same_names(self):
        page = self.PAGE.replace(".Nm taskmill_number\n", "")
        self.assertEqual(self.names(taskmill_go=page),
                         ["taskmill_go.3: taskmill_number is in NAME or in SYNOPSIS, not in both"])

    def test_what_the_header_does_not_have(self):
        page = self.PAGE.replace("taskmill_number", "taskmill_gone")
        self.assertEqual(self.names(taskmill_go=page),
                         ["taskmill_go.3: taskmill.h has no taskmill_gone",
                          "taskmill_number: is in the SYNOPSIS of no page"])

    def test_types_are_those_of_the_header(self):
        page = self.PAGE.replace('"int (*f)(int a, int b)" "const', '"int (*f)(int a)" "const')
        [finding] = self.names(taskmill_go=page)
        self.assertTrue(finding.startswith("taskmill_go.3: taskmill.h has it otherwise: .Ft int .Fo taskmill_go_with"))

    def test_fields_and_constants(self):
        page = self.PAGE.replace(" , second", "") + ".Dv TASKMILL_NO\n"
        self.assertEqual(list(check_man3.compare_words(self.HEADER, {"TASKMILL_ENV"}, {"x.3": page})),
                         ["taskmill.h: no page tells of the field second (Fa or Va)",
                          "x.3: neither taskmill.h nor src/client has TASKMILL_NO"])

    def test_sections_have_one_order(self):
        self.assertEqual(len(list(check_man3.compare_sections({"taskmill_go.3": self.PAGE}))), 1)

    def test_examples_are_compiled_as_they_are_read(self):
        page = """.Sh EXAMPLES
.Bd -literal -offset indent
#include <taskmill.h>
char back[] = "\\en";
.Ed
.Bd -literal
int f(void) { return nothing; }
.Ed
.Sh SEE ALSO
"""
        good, bad = check_man3.examples(page)
        self.assertIsNone(check_man3.compile_example(good))
        self.assertIn('"\\n"', good)
        self.assertIn("nothing", check_man3.compile_example(bad))


class Rooms(unittest.TestCase):
    def problems(self, room, text):
        return [number for number, _ in check_rooms.file_problems(room, text)]

    def test_own_room_and_rooms_below_are_fine(self):
        text = '#include "rpc/server.h"\n#include "wire/pb.h"\n#include "base/mem.h"\n#include <errno.h>\n'
        self.assertEqual(self.problems("rpc", text), [])

    def test_a_room_above_is_wrong(self):
        self.assertEqual(self.problems("wire", '#include "base/mem.h"\n#include "rpc/server.h"\n'), [2])

    def test_store_gets_the_types_of_the_core_only(self):
        self.assertEqual(self.problems("store", '#include "core/task.h"\n#include "core/inflight.h"\n'), [2])

    def test_private_headers_stay_private(self):
        text = '#include "rpc/server_internal.h"\n'
        self.assertEqual(self.problems("rpc", text), [])
        self.assertEqual(self.problems("broker", text), [1])

    def test_a_library_has_its_room(self):
        self.assertEqual(self.problems("store", "#include <sqlite3.h>\n"), [])
        self.assertEqual(self.problems("broker", "#include <sqlite3.h>\n"), [1])

    def test_the_core_is_pure(self):
        text = "#include <stdint.h>\n#include <unistd.h>\nint64_t now = clock_boot_ms();\n"
        self.assertEqual(self.problems("core", text), [2, 3])
        self.assertEqual(self.problems("core", 'snprintf(a, 3, "x");\nprintf("x");\n'), [2])

    def test_includes_name_their_room(self):
        self.assertEqual(self.problems("rpc", '#include "server.h"\n'), [1])


class Tidy(unittest.TestCase):
    def lines(self, check, name, text):
        return [number for number, _ in check(name, text)]

    def test_spdx_comes_first_or_after_the_interpreter(self):
        good = "# SPDX-License-Identifier: Apache-2.0\n"
        self.assertEqual(self.lines(check_tidy.spdx, "a.py", good), [])
        self.assertEqual(self.lines(check_tidy.spdx, "a.py", "#!/bin/sh\n" + good), [])
        self.assertEqual(self.lines(check_tidy.spdx, "a.py", "import os\n" + good), [1])

    def test_manual_pages_are_clean(self):
        good = ('.\\" SPDX-License-Identifier: Apache-2.0\n.Dd November 23, 2026\n.Dt X 1\n.Os\n.Sh NAME\n'
                '.Nm x\n.Nd test\n')
        self.assertEqual(self.lines(check_tidy.manual, "docs/man/x.1", good), [])
        self.assertEqual(self.lines(check_tidy.manual, "docs/man/x.1", good + ".Xy\n"), [8])
        self.assertEqual(self.lines(check_tidy.manual, "docs/x.md", good + ".Xy\n"), [])

    def test_notes_are_found_but_not_inside_words(self):
        note = "/* TO" + "DO: later */\n"
        self.assertEqual(self.lines(check_tidy.notes, "a.c", "int a;\n" + note), [2])
        self.assertEqual(self.lines(check_tidy.notes, "a.c", 'mkstemp("/tmp/aXXXXXX");\n'), [])

    def test_banned_calls_but_not_words_members_or_text(self):
        text = 'strcpy(a, b);\nop->free(a);\n/* free(x) */\nputs("free(x)");\nstrcpy_s(a);\n'
        self.assertEqual(self.lines(check_tidy.banned, "src/a.c", text), [1])

    def test_malloc_is_for_tests_and_its_own_file(self):
        self.assertEqual(self.lines(check_tidy.banned, "src/a.c", "p = malloc(3);\n"), [1])
        self.assertEqual(self.lines(check_tidy.banned, "tests/a.c", "p = malloc(3);\n"), [])
        self.assertEqual(self.lines(check_tidy.banned, "src/base/mem.c", "p = malloc(3);\n"), [])

    def test_an_excuse_names_the_function_and_a_reason(self):
        good = "free(line); /* tidy: free, getline allocated it */\n"
        self.assertEqual(self.lines(check_tidy.banned, "src/a.c", good), [])
        self.assertEqual(self.lines(check_tidy.banned, "src/a.c", "free(line); /* tidy: free, */\n"), [1])

    def test_links_to_files(self):
        text = "[a](LICENSE) [b](https://example.org/x) [c](#part)\n[d](nothing/here.md)\n"
        self.assertEqual(self.lines(check_tidy.links, "README.md", text), [2])

    def test_sizes(self):
        function = "int f(void)\n{\n" + "    f();\n" * 101 + "}\n"
        self.assertEqual(self.lines(check_tidy.size, "a.c", function), [2])
        self.assertEqual(self.lines(check_tidy.size, "a.c", "/* " + "x" * 98 + "*/\n"), [1])
        self.assertEqual(self.lines(check_tidy.size, "a.c", "int a;\n" * 1001), [1000])


CMOCKA = """\
[==========] Running 3 test(s).
[ RUN      ] one
[       OK ] one
[ RUN      ] two
[  ERROR   ] --- 0x1 != 0x2
[  FAILED  ] two
[ RUN      ] three
[  SKIPPED ] three
[==========] 3 test(s) run.
[  PASSED  ] 1 test(s).
[  SKIPPED ] 1 test(s), listed below:
[  SKIPPED ] three
[  FAILED  ] 1 test(s), listed below:
[  FAILED  ] two

 1 FAILED TEST(S)
"""


class Compatibility(unittest.TestCase):
    FILES = {"a.py": "def test_x(): pass\ndef test_weakness_02_y(): pass\ndef helper(): pass\n",
             "a.c": "static void b(void **state)\n{\n}\nstatic void gone(void **state)\n{\n}\n"
                    "#define TEST(name) cmocka_unit_test(name)\nTEST(b),\n"}

    def found(self, name):
        return check_compatibility.tests_in(name, self.FILES[name]) if name in self.FILES else None

    def row(self, cell, status):
        return len(list(check_compatibility.row_problems(cell, status, self.found)))

    def test_only_what_runs_is_a_test(self):
        self.assertEqual(self.found("a.py"), {"test_x", "test_weakness_02_y"})
        self.assertEqual(self.found("a.c"), {"b"})

    def test_tests_of_a_row_exist(self):
        self.assertEqual(self.row("`a.py::test_x`, `::test_weakness_02_y`, `a.c::b`", "same"), 0)
        self.assertEqual(self.row("`a.py::helper`, `::test_gone`, `none.py::test_x`, `a.c::gone`", "same"), 4)
        self.assertEqual(self.row("`::test_x`", "same"), 1)

    def test_status_and_reason(self):
        self.assertEqual(self.row("no test", "same"), 0)
        self.assertEqual(self.row("-", "better: faster"), 1)
        self.assertEqual(self.row("-", "not supported yet: push mode"), 0)
        self.assertEqual(self.row("`a.c::b`", "kept"), 1)
        self.assertEqual(self.row("`a.c::b`", "fine"), 1)

    def test_weaknesses_and_their_rows(self):
        page = "\n".join(["| section | what | tests | status |", "|---|---|---|---|"] +
                         [f"| {s} | | no test | same |" for s in check_compatibility.SECTIONS] +
                         [f"| 13.{n} | | - | not applicable: here |" for n in range(1, 41)])
        found = [why for _, why in check_compatibility.problems(
            page.replace("| 13.1 | | - | not applicable: here |", "| 13.1 | | `a.c::b` | better |"),
            self.found, {("a.py", "test_weakness_02_y")})]
        self.assertEqual(found, ["no test of this row is called test_weakness_01_...",
                                 "weakness 41 has no row 13.41",
                                 "row 13.2 does not name a.py::test_weakness_02_y"])

    def test_weaknesses_of_the_client_have_rows_of_their_own(self):
        test = ("a.py", "test_client_weakness_02_y")
        page = "\n".join(["| client 13.2 | | `a.c::b` | better |", "| 13.2 | | `a.c::b` | better |"])
        found = [(number, why) for number, why in check_compatibility.problems(page, self.found, {test})
                 if "no row" not in why]
        self.assertEqual(found, [(1, "no test of this row is called test_client_weakness_02_..."),
                                 (2, "no test of this row is called test_weakness_02_..."),
                                 (1, "row client 13.2 does not name a.py::test_client_weakness_02_y")])

    def test_cells_of_the_interchange_table(self):
        tests = {check_compatibility.INTERCHANGE_TESTS: {"test_x", "test_forgotten"}, "a.py": {"test_y"}}
        page = "\n".join(["| feature | a | b | c | d |", "|---|---|---|---|---|",
                          "| good | `::test_x` | `a.py::test_y`, `::test_y` | none: there is none | `::test_x` |",
                          "| bad | `::test_gone` | none: | | `a.py::test_x` |", "| short | `::test_x` |"])
        found = list(check_compatibility.interchange_problems(page, tests.get))
        self.assertEqual([number for number, _ in found], [4, 4, 4, 4, 5, 1])
        self.assertIn("test_forgotten", found[-1][1])

    def test_sections_are_not_forgotten(self):
        found = [why for _, why in check_compatibility.problems("", self.found, set())]
        self.assertEqual(len(found), len(check_compatibility.SECTIONS) + check_compatibility.WEAKNESSES)


class Counting(unittest.TestCase):
    def counts(self, **entry):
        counts = run_tests.Counts()
        run_tests.count_meson_test(counts, {"name": "t", "stdout": "", "returncode": 0, **entry})
        return counts.passed, counts.failed, len(counts.skipped)

    def test_cmocka_tests_count_one_by_one(self):
        self.assertEqual(self.counts(result="FAIL", stdout=CMOCKA), (1, 1, 1))

    def test_a_crash_in_the_middle_is_a_failure(self):
        cut = CMOCKA[: CMOCKA.index("[ RUN      ] three")]
        self.assertEqual(self.counts(result="FAIL", stdout=cut, returncode=-6)[1], 1)

    def test_plain_programs_count_as_one(self):
        self.assertEqual(self.counts(result="OK"), (1, 0, 0))
        self.assertEqual(self.counts(result="TIMEOUT"), (0, 1, 0))
        self.assertEqual(self.counts(result="SKIP", stdout="no mount here\n"), (0, 0, 1))


if __name__ == "__main__":
    unittest.main()
