#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that each room of src/ uses only what it may (docs/architecture.md has the table).

    scripts/check_rooms.py             the repository
    scripts/check_rooms.py FOLDER      another tree that looks like it

Exit 0: all right. 1: one line for each wrong #include, with the rule and what to do. 2: usage.
"""

import re
import sys
from pathlib import Path

# Room -> rooms it may use besides itself. "room/header.h" allows that one header.
MAY_USE = {
    "base": [],
    "wire": ["base"],
    "core": ["base"],
    "store": ["base", "core/task.h"],
    "topic": ["base"],
    "rpc": ["base", "wire"],
    "redis": ["base"],
    "http": ["base"],
    "broker": ["base", "wire", "core", "store", "topic", "rpc", "http"],
    "client": ["base", "wire", "topic", "rpc"],
    "command": ["base", "wire", "client"],
    "worker": ["base", "wire", "rpc", "redis", "http", "client", "command"],
    "scheduler": ["base", "wire", "rpc", "redis", "http", "client"],
    "cli": ["base", "wire", "core", "store", "topic", "rpc", "redis", "http", "broker", "client", "command", "worker", "scheduler"],
}

# Library header (prefix) -> rooms that own the library. One room owns it, so that replacing it is local.
LIBRARIES = {
    "sqlite3.h": ["store", "scheduler"],
    "librdkafka/": ["topic"],
    "nghttp2/": ["rpc"],
    "openssl/ssl.h": ["rpc"],
    "openssl/": ["base", "wire", "rpc"],
    "zstd.h": ["wire"],
    "hiredis/": ["redis"],
    "microhttpd.h": ["http"],
    "yaml.h": ["broker", "client", "worker", "scheduler", "cli"],
    "jansson.h": ["wire", "broker", "client", "command", "worker", "scheduler", "cli"],
    "taskmill.h": ["client", "command", "worker", "scheduler", "cli"],
}

# The core is pure: events and a time in, effects out. It gets these and nothing that does I/O.
CORE_SYSTEM = {
    "assert.h", "errno.h", "inttypes.h", "limits.h", "stdbool.h", "stddef.h", "stdint.h", "stdio.h",
    "string.h",
}
CORE_NOT_FROM_BASE = {
    "base/inbox.h": "one thread owns the core; its caller drains inboxes",
    "base/log.h": "return an effect and let the caller say it",
    "base/metrics.h": "keep a counter and let the caller publish it",
}

# <stdio.h> is there for snprintf.
CORE_CALLS = re.compile(r"\b(clock_(?:boot|wall)_\w+|v?f?printf|f?puts|putchar|fopen|fwrite|perror|getenv)\s*\(")
INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)')


def quoted_problem(room, name):
    """Why a file of `room` must not include "name", or None."""
    if "/" not in name:
        return f'write it from src/: "{room}/{name}"'
    target = name.split("/")[0]
    if target not in MAY_USE:
        return f"{target}/ is no room; the rooms are {' '.join(MAY_USE)}"
    if target == room:
        return None
    if re.search(r"_int(ernal)?\.h$", name):
        return f"{name} is private to {target}/; move what you need to a public header of {target}/"
    if room == "core" and name in CORE_NOT_FROM_BASE:
        return f"the core is pure: {CORE_NOT_FROM_BASE[name]}"
    if target in MAY_USE[room] or name in MAY_USE[room]:
        return None
    allowed = " ".join(MAY_USE[room]) or "nothing"
    return (f"{room}/ may use: {allowed}. Pass what you need in from a room above both, or move the "
            f"shared part down into base/")


def system_problem(room, name):
    """Why a file of `room` must not include <name>, or None."""
    for prefix, owners in LIBRARIES.items():
        if name.startswith(prefix):
            if room in owners:
                return None
            return f"<{name}> belongs to {' '.join(owners)}/; ask for what you need through its header"
    if room == "core" and name not in CORE_SYSTEM:
        return f"the core is pure and includes only {' '.join(sorted(CORE_SYSTEM))}"
    return None


def file_problems(room, text):
    """[(line number, text), ...]"""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        call = CORE_CALLS.search(line) if room == "core" else None
        if call:
            found.append((number, f"{call.group(1)}: the core is pure; what it needs, the time too, comes in "
                          f"as an argument, what it says goes out as an effect"))
        match = INCLUDE.match(line)
        if not match:
            continue
        quoted, system = match.groups()
        if quoted == "taskmill.h":
            quoted, system = None, quoted
        why = quoted_problem(room, quoted) if quoted else system_problem(room, system)
        if why:
            found.append((number, f"#include {line.split('include', 1)[1].strip()}: {why}"))
    return found


def tree_problems(root):
    """Lines to print, one for each wrong #include under root/src."""
    lines = []
    for path in sorted((root / "src").rglob("*.[ch]")):
        shown = path.relative_to(root)
        room = shown.parts[1]
        if room not in MAY_USE:
            lines.append(f"{shown}:1: {room} is no room: add it to docs/architecture.md and MAY_USE here")
            continue
        for number, why in file_problems(room, path.read_text()):
            lines.append(f"{shown}:{number}: {why}")
    return lines


def main(argv):
    if len(argv) > 2 or any(arg.startswith("-") for arg in argv[1:]):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    root = Path(argv[1]) if len(argv) == 2 else Path(__file__).resolve().parent.parent
    problems = tree_problems(root)
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
