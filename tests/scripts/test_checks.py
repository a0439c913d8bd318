# SPDX-License-Identifier: Apache-2.0
"""The house rules find what they are for, and nothing else."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import check_rooms  # noqa: E402
import check_tidy  # noqa: E402
import run_tests  # noqa: E402


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
