#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""House rules that a compiler does not check (CONTRIBUTING.md lists them).

    scripts/check_tidy.py [CHECK...]     all checks, or some of: spdx notes banned size text links
                                   manual

spdx    the first line of a file names the licence
notes   no note to oneself is left on main
banned  functions that are easy to misuse, each with what to take instead
size    C: 100 columns a line (./dev fmt wraps most), 100 lines a function, 1,000 lines a file
text    UTF-8, no trailing blanks, one newline at the end
links   Markdown links to files of the repository lead somewhere
manual  manual pages are clean mdoc, as mandoc sees it

In C a line may be excused where it is right, with the reason:
    free(text); /* tidy: free, getline allocated it */

Exit 0: all right. 1: one line for each finding. 2: usage.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS_MAX = 100
FUNCTION_MAX = 100
FILE_MAX = 1000

C_FILE = re.compile(r"\.[ch]$")
# Data, or files whose format has no comments.
NO_COMMENTS = re.compile(r"(^|/)(LICENSE|\.gitignore|\.gitkeep)$|\.(json|svg|png|ico|sqlite|bin|txt\.golden)$")
DATA = re.compile(r"^tests/(fuzz/corpus|fixtures|.*/(data|vectors|golden))/")

MANUAL = re.compile(r"^docs/man/[^/]+\.[1-9]$")
MANDOC_LINE = re.compile(r"^mandoc: [^:]*:(\d+):\d+: (.*)$", re.MULTILINE)
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)[^)]*\)")
NOTE = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3]) + r")\b")
EXCUSE = re.compile(r"/\* tidy: (\w+), \S.*\*/")

# Function -> what to take instead. First group: everywhere; second: only in src/ and include/.
BANNED = {
    "strcpy": "memcpy with a checked length, or buf_append",
    "strcat": "buf_append",
    "strncpy": "memcpy with a checked length: strncpy may leave no NUL",
    "strncat": "buf_append",
    "sprintf": "snprintf or buf_printf",
    "vsprintf": "vsnprintf",
    "gets": "fgets or getline",
    "atoi": "strtol with all its errors checked: atoi has none",
    "atol": "strtol with all its errors checked",
    "atoll": "strtoll with all its errors checked",
    "atof": "strtod with all its errors checked",
    "strtok": "strtok_r, or a loop over struct bytes",
    "alloca": "a bounded array, or mem_alloc",
    "system": "posix_spawn or fork and exec: no shell",
    "popen": "posix_spawn with a pipe: no shell",
    "tmpnam": "mkstemp",
    "mktemp": "mkstemp",
    "rand": "base/map.h's seed or getrandom; a seeded generator in tests",
    "srand": "a seeded generator that is passed down",
    "gmtime": "gmtime_r",
    "localtime": "localtime_r",
    "ctime": "strftime",
    "asctime": "strftime",
}
BANNED_IN_SRC = {
    "malloc": "mem_alloc (base/mem.h)",
    "calloc": "mem_calloc or mem_zalloc",
    "realloc": "mem_realloc",
    "free": "mem_free; excuse the line if a library allocated it",
    "strdup": "mem_strdup",
    "strndup": "mem_strndup",
    "asprintf": "buf_printf",
    "vasprintf": "buf_printf",
    "time": "clock_wall_ms (base/clock.h)",
    "gettimeofday": "clock_wall_us",
    "clock_gettime": "clock_boot_ms, clock_wall_ms",
    "sleep": "wait for a condition or a deadline",
    "usleep": "wait for a condition or a deadline",
}
# The one file that wraps a function may call it.
HOME = {
    "src/base/mem.c": {"malloc", "calloc", "realloc", "free", "strdup", "strndup"},
    "src/base/clock.c": {"clock_gettime", "gettimeofday", "time"},
}

C_TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
CALL = re.compile(r"(?<![\w.>])(\w+)\s*\(")


def files():
    """Paths (relative, text) of what is or could be committed."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    names = sorted(name for name in listed.decode().split("\0") if name)
    return [n for n in names if not DATA.match(n) and (ROOT / n).is_file() and not (ROOT / n).is_symlink()]


def blank_out(match):
    """Comments and literals become blanks of the same shape, so that line numbers stay."""
    return re.sub(r"[^\n]", " ", match.group(0))


def spdx(name, text):
    if NO_COMMENTS.search(name) or not text:
        return
    lines = text.split("\n", 2)
    first = lines[1] if lines[0].startswith(("#!", "<?xml", "<!doctype", "<!DOCTYPE")) else lines[0]
    if "SPDX-License-Identifier: Apache-2.0" not in first:
        yield 1, "the first line must be a comment with: SPDX-License-Identifier: Apache-2.0"


def notes(name, text):
    for number, line in enumerate(text.splitlines(), 1):
        match = NOTE.search(line)
        if match:
            yield number, f"{match.group(1)}: do it now, or file an issue and remove the note"


def banned(name, text):
    if not C_FILE.search(name):
        return
    in_src = name.startswith(("src/", "include/"))
    lines = text.splitlines()
    for number, code in enumerate(C_TOKEN.sub(blank_out, text).splitlines(), 1):
        excused = EXCUSE.search(lines[number - 1])
        for match in CALL.finditer(code):
            function = match.group(1)
            instead = BANNED.get(function) or (in_src and BANNED_IN_SRC.get(function))
            if not instead or function in HOME.get(name, ()):
                continue
            if excused and excused.group(1) == function:
                continue
            yield number, f"{function}() is banned: use {instead}"


def size(name, text):
    if not C_FILE.search(name):
        return
    lines = text.splitlines()
    if len(lines) > FILE_MAX:
        yield FILE_MAX, f"{len(lines)} lines, the limit is {FILE_MAX}: split the file by idea"
    start = None
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX:
            yield number, f"{len(line)} columns, the limit is {COLUMNS_MAX}: ./dev fmt wraps most"
        # Our format puts the braces of a function body, and of nothing else, alone in column 1.
        if line == "{":
            start = number
        elif line == "}" and start:
            if number - start - 1 > FUNCTION_MAX:
                yield start, (f"a function of {number - start - 1} lines, the limit is {FUNCTION_MAX}: "
                              f"split it by idea")
            start = None


def text(name, content):
    for number, line in enumerate(content.split("\n"), 1):
        if line != line.rstrip() and not name.endswith(".md"):
            yield number, "blanks at the end of the line: remove them"
    if content and not content.endswith("\n"):
        yield content.count("\n") + 1, "no newline at the end of the file: add one"
    if content.endswith("\n\n"):
        yield content.count("\n"), "blank lines at the end of the file: remove them"


def links(name, content):
    if not name.endswith(".md"):
        return
    for number, line in enumerate(content.splitlines(), 1):
        for target in LINK.findall(line):
            if not (ROOT / name).parent.joinpath(target).exists():
                yield number, f"the link to {target} leads nowhere: correct or remove it"


def manual(name, content):
    if not MANUAL.search(name):
        return
    try:
        done = subprocess.run(["mandoc", "-Tlint", "-Wwarning"], input=content, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    except FileNotFoundError:
        yield 1, "mandoc is not installed: ./dev setup test"
        return
    found = MANDOC_LINE.findall(done.stdout)
    yield from ((int(number), what) for number, what in found)
    if done.returncode != 0 and not found:
        yield 1, f"mandoc ends with {done.returncode}: {done.stdout.strip()}"


CHECKS = {"spdx": spdx, "notes": notes, "banned": banned, "size": size, "text": text, "links": links,
          "manual": manual}
BINARY = re.compile(r"\.(png|ico|sqlite|bin)$")


def main(argv):
    wanted = argv[1:] or list(CHECKS)
    if any(name not in CHECKS for name in wanted):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    found = 0
    for name in files():
        if BINARY.search(name):
            continue
        try:
            content = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            print(f"{name}:1: not UTF-8 ({error.reason}): re-encode it, or list it as data")
            found += 1
            continue
        for check in wanted:
            for number, why in CHECKS[check](name, content):
                print(f"{name}:{number}: {why}")
                found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
