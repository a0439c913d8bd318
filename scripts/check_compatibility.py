#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks docs/compatibility.md and docs/interchange.md against the tests that they name.

    scripts/check_compatibility.py             the repository
    scripts/check_compatibility.py FOLDER      another tree that looks like it

* Each section of the original's description has a row, each of its 41 weaknesses a row 13.N.
* Each test that is named, `FILE::NAME` with FILE below tests/, is there: a pytest function, or a cmocka function that
  its program runs. `::NAME` is one more of the row's last file.
* A status is one of: same, better, kept, not supported yet, not applicable. The last three say why after a colon.
  A row without a test says "no test", or is one of the last two.
* A weakness up to 34 whose status is same or better has a test called test_weakness_NN_..., and each test that is
  called so is in the row of its number. The same for test_client_weakness_NN_..., about the weaknesses of the
  original's client, and the rows "client 13.N", of which there need not be all.
* Each cell of interchange.md's table names a test (`::NAME` alone: one of test_interchange.py), or says
  "none: REASON"; each test of that file is in the table.

Exit 0: all right. 1: one line for each finding. 2: usage.
"""

import ast
import re
import sys
from pathlib import Path

PAGE = "docs/compatibility.md"
INTERCHANGE = "docs/interchange.md"
INTERCHANGE_TESTS = "integration/test_interchange.py"
INTERCHANGE_CELLS = 5  # the feature, then there and back for two releases
SECTIONS = ["1.1", "1.2", "1.3", "1.4", "1.5", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.7",
            "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "3.7", "4.1", "4.2", "4.3", "4.4", "4.5", "4.6",
            "5", "5.1", "5.2", "5.3", "5.4", "5.5", "5.6", "6", "7", "8", "9", "10.1", "10.2", "10.3", "10.4",
            "11", "12", "14"]
WEAKNESSES = 41
WEAKNESSES_TESTED = 34
STATUSES = ["same", "better", "kept", "not supported yet", "not applicable"]
NEED_A_REASON = STATUSES[2:]
NEED_NO_TEST = STATUSES[3:]

C_FUNCTION = re.compile(r"^static void (\w+)\(void \*\*\w+\)", re.MULTILINE)
C_REGISTERED = re.compile(r"\b(?:TEST\w*|WITH_\w+|cmocka_unit_test\w*)\(\s*(\w+)")
NAMED = re.compile(r"`([^`\s]*)::(\w+)`")
WEAKNESS_TEST = re.compile(r"\btest_(client_)?weakness_(\d+)_")
WEAKNESS_ROW = re.compile(r"(client )?13\.(\d+)$")


def tests_in(name, text):
    """Names of the tests of a file."""
    if name.endswith(".c"):
        return set(C_FUNCTION.findall(text)) & set(C_REGISTERED.findall(text))
    return {node.name for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def rows(page):
    """(line number, section, tests, status) of each row of a table."""
    for number, line in enumerate(page.splitlines(), 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and cells[0] != "section" and not re.match(r"-+$", cells[0]):
            yield number, cells[0], cells[2], cells[3]


def tests_named(cell, last=None):
    """(file, name) of each test in a cell; the file is `last` where none was named before."""
    for name, test in NAMED.findall(cell):
        last = name or last
        yield last, test


def lost(named, tests):
    """Findings of the tests that a cell names. tests: the function from a file to the set of its tests, or None."""
    for name, test in named:
        if name is None or tests(name) is None:
            yield f"tests/{name} is not there"
        elif test not in tests(name):
            yield f"tests/{name} has no test {test}: name the one that shows it now"


def row_problems(cell, status, tests):
    """Findings of one row."""
    named = list(tests_named(cell))
    yield from lost(named, tests)
    kind, _, reason = status.partition(":")
    if kind not in STATUSES:
        yield f"the status must begin with one of: {', '.join(STATUSES)}"
    elif kind in NEED_A_REASON and not reason.strip():
        yield f"a row that is {kind} says why: '{kind}: REASON'"
    elif kind not in NEED_NO_TEST and not named and "no test" not in cell:
        yield "name a test, or say: no test"


def weakness_problems(client, weakness, cell, status):
    prefix = f"test_{'client_' if client else ''}weakness_{weakness:02d}_"
    own = [test for _, test in tests_named(cell) if test.startswith(prefix)]
    if weakness <= WEAKNESSES_TESTED and status.partition(":")[0] not in NEED_A_REASON and not own:
        yield f"no test of this row is called {prefix}..."


def missing(seen, weakness_tests):
    """What no row has. seen: section -> set of (file, test); weakness_tests: set of (file, test)."""
    for section in SECTIONS:
        if section not in seen:
            yield f"section {section} has no row"
    for weakness in range(1, WEAKNESSES + 1):
        if f"13.{weakness}" not in seen:
            yield f"weakness {weakness} has no row 13.{weakness}"
    for name, test in sorted(weakness_tests):
        client, weakness = WEAKNESS_TEST.match(test).groups()
        section = f"{client and 'client ' or ''}13.{int(weakness)}"
        if (name, test) not in seen.get(section, set()):
            yield f"row {section} does not name {name}::{test}"


def problems(page, tests, weakness_tests):
    """(line number, finding) of a page; line 1 where it is about the whole of it."""
    seen = {}
    for number, section, cell, status in rows(page):
        seen.setdefault(section, set()).update(tests_named(cell))
        for why in row_problems(cell, status, tests):
            yield number, why
        if weakness := WEAKNESS_ROW.match(section):
            for why in weakness_problems(weakness[1], int(weakness[2]), cell, status):
                yield number, why
    for why in missing(seen, weakness_tests):
        yield 1, why


def interchange_problems(page, tests):
    """(line number, finding) of the table of what Python's client and ours exchange."""
    seen = set()
    for number, line in enumerate(page.splitlines(), 1):
        if not line.startswith("|") or re.match(r"\|(-+\|)+$|\| feature ", line):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != INTERCHANGE_CELLS:
            yield number, f"a row has {INTERCHANGE_CELLS} cells, this one {len(cells)}"
        for cell in cells[1:]:
            named = list(tests_named(cell, INTERCHANGE_TESTS))
            seen.update(named)
            for why in lost(named, tests):
                yield number, why
            if not named and not re.match(r"none: \S", cell):
                yield number, f"'{cell}': name a test, or say 'none: REASON'"
    for test in sorted(tests(INTERCHANGE_TESTS) or ()):
        if (INTERCHANGE_TESTS, test) not in seen:
            yield 1, f"no row names {INTERCHANGE_TESTS}::{test}"


def reader(folder):
    """The function from a file below tests/ to its tests; each file is read once."""
    known = {}

    def tests(name):
        if name not in known:
            path = folder / "tests" / name
            known[name] = tests_in(name, path.read_text(encoding="utf-8")) if path.is_file() else None
        return known[name]

    return tests


def weakness_tests(folder, tests):
    found = set()
    for path in sorted((folder / "tests").rglob("test_*")):
        name = str(path.relative_to(folder / "tests"))
        if path.suffix in (".py", ".c") and WEAKNESS_TEST.search(path.read_text(encoding="utf-8")):
            found.update((name, test) for test in tests(name) if WEAKNESS_TEST.match(test))
    return found


def main(argv):
    if len(argv) > 2 or (len(argv) == 2 and argv[1].startswith("-")):
        wanted = argv[1] in ("-h", "--help")
        print(__doc__.strip(), file=sys.stdout if wanted else sys.stderr)
        return 0 if wanted else 2
    folder = Path(argv[1]) if len(argv) == 2 else Path(__file__).resolve().parent.parent
    for page in (PAGE, INTERCHANGE):
        if not (folder / page).is_file():
            print(f"{folder}: has no {page}", file=sys.stderr)
            return 2
    tests = reader(folder)
    read = {page: (folder / page).read_text(encoding="utf-8") for page in (PAGE, INTERCHANGE)}
    found = [(PAGE, *each) for each in problems(read[PAGE], tests, weakness_tests(folder, tests))]
    found += [(INTERCHANGE, *each) for each in interchange_problems(read[INTERCHANGE], tests)]
    for page, number, why in found:
        print(f"{page}:{number}: {why}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
