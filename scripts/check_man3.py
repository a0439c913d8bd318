#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the manual pages of the library (docs/man/*.3) with include/taskmill.h.

    scripts/check_man3.py                       everything below
    scripts/check_man3.py --synopsis NAME...    what a SYNOPSIS says of these functions
    scripts/check_man3.py --links PAGE...       PAGE:NAME of each function that has no file of its own,
                                                one a line: docs/man/meson.build installs links for them

* Every function, and every macro that stands for one, is in the NAME and in the SYNOPSIS of exactly one
  page, with the types of the header; nothing else is.
* Every such name starts with taskmill_: src/client/libtaskmill.map exports what does.
* Every constant of the header, and every field of its option and result structs, is in a page; every
  TASKMILL_* of a page is a constant of the header or a variable of the environment that src/client reads.
* Every page has all sections, in one order.
* Every display (.Bd -literal) under EXAMPLES is a file of C that compiles without a warning.

Exit 0: all right. 1: one line for each finding. 2: usage.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "man"
HEADER = ROOT / "include" / "taskmill.h"
CLIENT = ROOT / "src" / "client"
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "RETURN VALUES", "THREADS", "EXAMPLES", "ERRORS", "SEE ALSO"]
MAY_MISS = {"taskmill.3": {"RETURN VALUES"}}
LINE_MAX = 100

COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
DIRECTIVE = re.compile(r"^#.*$", re.MULTILINE)
MACRO = re.compile(r"^#define (taskmill_\w+|TASKMILL_MODULE)\((\w+(?:, \w+)*)(, \.\.\.)?\)", re.MULTILINE)
DECLARATION = re.compile(r"^TASKMILL_API ([^;]+);", re.MULTILINE)
ATTRIBUTE = re.compile(r"__attribute__\(\(.*\)\)")
FUNCTION = re.compile(r"(.*?)\b(\w+)\((.*)\)$")
VARIABLE = re.compile(r"(.*?)\b(\w+)$")
STRUCT = re.compile(r"^struct taskmill_(?:\w+_options|retry_policy|test_\w+|header) \{(.*?)^\};",
                    re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"(\w+)\)?(?:\[\w+\])?(?:\([^()]*\))?(?=[,;])")
CONSTANT = re.compile(r"\bTASKMILL_[A-Z_]*[A-Z]\b")
TITLE = re.compile(r"^\.Dt .*$", re.MULTILINE)
HIDDEN = {"TASKMILL_API", "TASKMILL_H", "TASKMILL_ABI"}


def squeeze(text):
    """One blank between words, none beside brackets and stars."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\* ", "*", text)


def split_arguments(text):
    """At the commas that are in no brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return tuple(squeeze(part) for part in parts)


def declarations(header):
    """Name -> (type of the result, types of the arguments); None for those of a variable, "" for the result of
    TASKMILL_MODULE."""
    found = {}
    joined = COMMENT.sub("", header).replace("\\\n", "")
    for text in DECLARATION.findall(DIRECTIVE.sub("", joined)):
        text = squeeze(ATTRIBUTE.sub("", text))
        function = FUNCTION.match(text)
        if function:
            found[function.group(2)] = (function.group(1).strip(), split_arguments(function.group(3)))
        else:
            variable = VARIABLE.match(text)
            found[variable.group(2)] = (variable.group(1).strip(), None)
    for name, arguments, open_end in MACRO.findall(joined):
        if name + "_with" in found:
            result, types = found[name + "_with"]
            assert open_end and len(types) == arguments.count(",") + 2, name
            found[name] = (result, (*types[:-1], "..."))
        else:
            found[name] = ("", split_arguments(arguments))
    return found


def fields(header):
    found = set()
    for body in STRUCT.findall(COMMENT.sub("", header)):
        found.update(FIELD.findall(body))
    return found - {"size"}


def constants(header):
    return set(CONSTANT.findall(COMMENT.sub("", header))) - HIDDEN


# --- what a page says


def section(page, name):
    match = re.search(rf"^\.Sh {name}\n(.*?)(?=^\.Sh |\Z)", page, re.MULTILINE | re.DOTALL)
    return match.group(1) if match else ""


def names(page):
    return re.findall(r"^\.Nm (\w+)", section(page, "NAME"), re.MULTILINE)


def synopsis(page):
    """Like declarations(), and the names that come twice."""
    found, twice, result, current = {}, [], "", None
    for line in section(page, "SYNOPSIS").splitlines():
        macro, _, rest = line.partition(" ")
        words = shlex.split(rest)
        if macro == ".Ft":
            result = " ".join(words)
        elif macro in (".Fn", ".Fo", ".Vt"):
            if macro == ".Vt":
                *kind, name = words
                result, arguments = " ".join(kind), None
            else:
                name, arguments = words[0], tuple(words[1:])
            twice += [name] if name in found else []
            found[name] = (result, arguments)
            current, result = name, ""
        elif macro == ".Fa":
            found[current] = (found[current][0], found[current][1] + (" ".join(words),))
    return found, twice


def render(name, declared):
    """The lines of a SYNOPSIS."""
    result, arguments = declared
    if arguments is None:
        return [f".Vt {result} {name}"]
    head = [f".Ft {result}"] if result else []
    line = " ".join([".Fn", name, *(f'"{a}"' for a in arguments)])
    if len(line) <= LINE_MAX:
        return [*head, line]
    return [*head, f".Fo {name}", *(f'.Fa "{a}"' for a in arguments), ".Fc"]


def examples(page):
    """The text of the displays under EXAMPLES as its readers see it."""
    for body in re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed$", section(page, "EXAMPLES"),
                           re.MULTILINE | re.DOTALL):
        yield body.replace("\\&", "").replace("\\e", "\\")


# --- the checks


def compare_names(declared, pages):
    homes = {}
    for file, page in pages.items():
        stem = file.removesuffix(".3")
        shown, twice = synopsis(page)
        listed = names(page)
        for name in twice:
            yield f"{file}: {name} is twice in SYNOPSIS"
        for name in sorted(set(listed) ^ set(shown)):
            if not (name == stem and name not in declared):
                yield f"{file}: {name} is in NAME or in SYNOPSIS, not in both"
        for name in sorted(set(shown) - set(declared)):
            yield f"{file}: taskmill.h has no {name}"
        for name in sorted(set(shown) & set(declared)):
            homes.setdefault(name, []).append(file)
            if shown[name] != declared[name]:
                yield f"{file}: taskmill.h has it otherwise: " + " ".join(render(name, declared[name]))
    for name in sorted(declared):
        if len(homes.get(name, [])) != 1:
            yield f"{name}: is in the SYNOPSIS of {' and '.join(homes.get(name, [])) or 'no page'}"
        if not name.startswith("taskmill_") and name != "TASKMILL_MODULE":
            yield f"{name}: libtaskmill.map does not export it"


def compare_words(header, known_elsewhere, pages):
    text = "\n".join(pages.values())
    for name in sorted(fields(header)):
        if not re.search(rf"\b(?:Fa|Va) .*\b{name}\b", text):
            yield f"taskmill.h: no page tells of the field {name} (Fa or Va)"
    for name in sorted(constants(header) - set(CONSTANT.findall(text))):
        yield f"taskmill.h: no page tells of {name}"
    for file, page in pages.items():
        for name in sorted(set(CONSTANT.findall(TITLE.sub("", page))) - constants(header) - known_elsewhere):
            yield f"{file}: neither taskmill.h nor src/client has {name}"


def compare_sections(pages):
    for file, page in pages.items():
        wanted = [name for name in SECTIONS if name not in MAY_MISS.get(file, ())]
        found = [name for name in re.findall(r"^\.Sh (.*)$", page, re.MULTILINE) if name in wanted]
        if found != wanted:
            yield f"{file}: its sections are to be {', '.join(wanted)}"


def compile_example(text):
    """The first message of the compiler, or None."""
    done = subprocess.run(["cc", "-std=c11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-I", str(HEADER.parent),
                           "-x", "c", "-"], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=60)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stdout.splitlines() if "error:" in line]
    return (lines or ["the compiler fails"])[0]


def compile_examples(pages):
    for file, page in pages.items():
        found = list(examples(page))
        if not found:
            yield f"{file}: has no example"
        for number, text in enumerate(found, 1):
            message = compile_example(text)
            if message:
                yield f"{file}: example {number}: {message}"


def problems(header, pages):
    declared = declarations(header)
    known_elsewhere = set()
    for path in CLIENT.glob("*.c"):
        known_elsewhere |= set(CONSTANT.findall(path.read_text()))
    yield from compare_names(declared, pages)
    yield from compare_words(header, known_elsewhere, pages)
    yield from compare_sections(pages)
    yield from compile_examples(pages)


def links(paths):
    for path in paths:
        yield from (f"{path.stem}:{name}" for name in names(path.read_text()) if name != path.stem)


def main(argv):
    header = HEADER.read_text()
    if argv[1:2] == ["--synopsis"]:
        declared = declarations(header)
        unknown = [name for name in argv[2:] if name not in declared]
        for name in argv[2:] if not unknown else []:
            print("\n".join(render(name, declared[name])))
        return 1 if unknown else 0
    if argv[1:2] == ["--links"]:
        print("\n".join(links([Path(name) for name in argv[2:]])))
        return 0
    if len(argv) != 1:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    found = list(problems(header, {path.name: path.read_text() for path in sorted(PAGES.glob("*.3"))}))
    print("\n".join(found) if found else "taskmill.h and its manual pages agree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
