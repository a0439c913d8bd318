#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares docs/man with what the program says about itself.

    scripts/check_man.py build/taskmill

* Every command of `taskmill help` stands in taskmill.1, and has a page taskmill-COMMAND.1.
* Every option of a command's --help stands in its page, and the other way round; every environment
  variable of the --help stands in the page.
* Every page is installed (docs/man/meson.build), and pages refer to pages that exist.

In a page, each option follows an Fl macro of its own: .It Fl c Ar file , Fl -config Ar file

Exit 0: all right. 1: one line for each finding. 2: usage.
"""

import re
import subprocess
import sys
from pathlib import Path

PAGES = Path(__file__).resolve().parent.parent / "docs" / "man"
SAME_PAGE = {"run": "worker"}  # other commands under other names
NOT_WRITTEN = {"taskmill-scheduler.1"}
ALWAYS = {"-h", "--help"}

COMMAND = re.compile(r"^  (\w+) +\S", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
VARIABLE = re.compile(r"\bTASK(?:MILL|BROKER|WORKER)_[A-Z]\w*")
FLAG = re.compile(r"^\.(?:.*\s)?Fl\s+.*$", re.MULTILINE)
FLAG_NAME = re.compile(r"\bFl (-?[A-Za-z][\w-]*)")
ITEM_COMMAND = re.compile(r"^\.It Cm (\w+)", re.MULTILINE)
REFERENCE = re.compile(r"\bXr (taskmill[\w-]*) (\d)")


def commands(help_text):
    return set(COMMAND.findall(help_text))


def help_options(help_text):
    return set(OPTION.findall(help_text)) - ALWAYS


def page_options(page):
    return {"-" + name for line in FLAG.findall(page) for name in FLAG_NAME.findall(line)} - ALWAYS


def compare(name, help_text, page):
    """One line for each difference between a command's --help and its page."""
    for option in sorted(help_options(help_text) - page_options(page)):
        yield f"{name}: {option} of --help is missing"
    for option in sorted(page_options(page) - help_options(help_text)):
        yield f"{name}: --help does not know {option}"
    for variable in sorted(set(VARIABLE.findall(help_text)) - set(VARIABLE.findall(page))):
        if variable + "*" not in help_text:
            yield f"{name}: {variable} of --help is missing"


def output(program, *words):
    return subprocess.run([program, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True,
                          text=True, timeout=30).stdout


def problems(program):
    pages = {path.name: path.read_text() for path in PAGES.glob("*.[1-9]")}
    known = commands(output(program, "help"))
    overview = set(ITEM_COMMAND.findall(pages["taskmill.1"]))
    yield from (f"taskmill.1: the command {name} is missing" for name in sorted(known - overview))
    yield from (f"taskmill.1: there is no command {name}" for name in sorted(overview - known))
    for command in sorted(known - {"help", "version"}):
        name = f"taskmill-{SAME_PAGE.get(command, command)}.1"
        if name not in pages:
            yield f"{name}: there is no such page"
        elif command not in SAME_PAGE:
            yield from compare(name, output(program, command, "--help"), pages[name])
    installed = (PAGES / "meson.build").read_text()
    yield from (f"{name}: is not in docs/man/meson.build" for name in sorted(pages) if f"'{name}'" not in installed)
    for name, page in sorted(pages.items()):
        for other, section in REFERENCE.findall(page):
            if f"{other}.{section}" not in pages:
                yield f"{name}: there is no page {other}({section})"


def main(argv):
    if len(argv) != 2 or argv[1].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    found = list(problems(argv[1]))
    print("\n".join(found) if found else "manual pages and --help agree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
